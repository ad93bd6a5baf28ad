"""What a kill leaves of a write on disk: its bytes under another name, which no listing shows."""

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from store.objects.faults import retry_storage
from store.objects.location import StorageLocation

# How `object_store`, below obstore and deltalake, calls a file until it is complete.
_STAGED = re.compile(r".+#\d+")


def delete_half_written(place: StorageLocation, before: datetime) -> int:
    """Delete what killed processes left of their writes below a place on disk, and say how many files; none on S3.

    What was written to since `before` stays: it can be a write of this moment. Only for places whose own keys never end
    so, which a landing's may. Replay finds nothing left to do. Raises StorageRefused, StorageUnavailable.
    """
    if not place.is_local:
        return 0
    return retry_storage(f"clear {place.uri}", lambda: sum(_delete(file, before) for file in _staged(place.directory)))


def _staged(folder: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(folder):
        yield from (Path(directory, name) for name in names if _STAGED.fullmatch(name))


def _delete(file: Path, before: datetime) -> bool:
    try:
        is_old = file.lstat().st_mtime < before.timestamp()
        if is_old:
            file.unlink()
    except FileNotFoundError:
        return False
    return is_old
