"""Where the pixels of a photo come from once more: its copy, or the original in the archive or in its landing."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from batch.refeaturize.selection import PhotoKey, photo_keys
from features.rejects import Rejected
from store.errors import StateDamaged, StorageUnavailable
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.originals import Original, OriginalPlace, read_original
from store.tables.files import read_file
from store.tables.schemas import COPY_ROWS

_AHEAD_FILES = 8


def copies_of(home: Home, paths: Sequence[str], places: Mapping[PhotoKey, int]) -> Iterator[tuple[int, bytes | None]]:
    """The copy of each photo that has one in the files, with the photo's place; None if its file cannot be read.

    Only row groups with such copies are fetched, and memory holds one. Raises StorageRefused, StorageUnavailable.
    """
    for path in paths:
        waiting: deque[int] = deque()
        try:
            first, rows_in_file = 0, []
            for part in read_file(home, COPY_ROWS, path, ["batch", "source", "etag"]):
                for row, key in enumerate(photo_keys(part), start=first):
                    if key in places:
                        rows_in_file.append(row)
                        waiting.append(places[key])
                first += part.num_rows
            if waiting:
                for part in read_file(home, COPY_ROWS, path, ["jpeg"], np.array(rows_in_file, np.int64)):
                    for jpeg in part["jpeg"].to_pylist():
                        yield waiting.popleft(), jpeg
        except (StateDamaged, StorageUnavailable) as error:
            if not isinstance(error, StateDamaged) and not isinstance(error.__cause__, FileNotFoundError):
                raise
            # Where nobody knows any more whose copies the file had, those photos have none.
            yield from ((place, None) for place in waiting)


def originals_of(home: Home, rows: pa.Table, places: Sequence[int]) -> Iterator[tuple[int, Original | Rejected]]:
    """The original of each row at these places, in their order, or why it cannot be had; a few are read ahead.

    Raises StorageRefused if all is refused, StorageUnavailable.
    """
    columns = ("image_id", "source", "etag", "bytes", "arrived_at")
    photos = [(place, row) for place, row in zip(places, rows.select(columns).take(places).to_pylist(), strict=True)]
    # Most of them lie where the last one lay.
    first: OriginalPlace = "archive"
    with ThreadPoolExecutor(_AHEAD_FILES, thread_name_prefix="originals") as pool:
        reading: deque[tuple[int, Future[Original]]] = deque()
        coming = iter(photos)
        while True:
            for place, row in coming:
                key = _key_of(home, row["source"])
                landed = LandedObject(key, row["bytes"], row["etag"], row["arrived_at"])
                read = pool.submit(read_original, home, row["source"], landed, row["image_id"], first)
                reading.append((place, read))
                if len(reading) == _AHEAD_FILES:
                    break
            if not reading:
                return
            place, read = reading.popleft()
            try:
                original = read.result()
            except Rejected as rejected:
                yield place, rejected
            else:
                first = original.place
                yield place, original


def _key_of(home: Home, source: str) -> str:
    known = home.landing_of(source)
    return source if known is None else known[1]
