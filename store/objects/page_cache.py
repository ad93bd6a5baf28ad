"""What the kernel of this machine holds of files on disk, where it can be told."""

import os
from contextlib import suppress

from store.objects.landing import LandedObject
from store.objects.location import StorageLocation


def advise_kernel(landing: StorageLocation, landed: LandedObject, is_needed: bool) -> None:
    """Have the kernel begin to read a file of a landing on disk that is needed soon, or else forget what it has of it.

    Never raises for the file's sake: whoever fetches it is told what is wrong with it.
    """
    if hasattr(os, "posix_fadvise"):
        advice = os.POSIX_FADV_WILLNEED if is_needed else os.POSIX_FADV_DONTNEED
        with suppress(OSError, ValueError), (landing.directory / landed.key).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, landed.size_bytes, advice)
