"""What the kernel of this machine holds of files on disk, where it can be told."""

import os
from contextlib import suppress

from store.objects.landing import LandedObject
from store.objects.location import StorageLocation


def announce(landing: StorageLocation, landed: LandedObject) -> None:
    """Have the kernel begin to read a file of a landing on disk that will soon be asked for.

    Never raises for the file's sake: whoever fetches it is told what is wrong with it.
    """
    _advise(landing, landed, "POSIX_FADV_WILLNEED")


def forget(landing: StorageLocation, landed: LandedObject) -> None:
    """Have the kernel forget a file of a landing on disk: the next read asks the disk itself. Raises nothing."""
    _advise(landing, landed, "POSIX_FADV_DONTNEED")


def _advise(landing: StorageLocation, landed: LandedObject, advice: str) -> None:
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError, ValueError), (landing.directory / landed.key).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, landed.size_bytes, getattr(os, advice))
