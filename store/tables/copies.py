"""Small pictures of photos, from which features can be made again: how a task holds and writes them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

import pyarrow as pa

from store.objects.faults import retry_storage
from store.tables.schemas import COPY_ROWS

_OF_A_PHOTO = [name for name in COPY_ROWS.file_schema.names if name != "jpeg"]


@dataclass(frozen=True)
class _Spooled:
    columns: Sequence[Any]
    starts_at: int
    ends_at: int


class CopySpool:
    """The copies of a task until they are written as one file; they lie on the local disk."""

    def __init__(self) -> None:
        self._closing = ExitStack()
        self._file: IO[bytes] | None = None
        self._copies: list[_Spooled] = []

    def __enter__(self) -> "CopySpool":
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._closing.close()

    def add(self, row: Mapping[str, Any], jpeg: bytes) -> None:
        """Put a photo's copy behind the others; `row` has its columns. Raises StorageUnavailable on a full disk."""
        starts_at = self._copies[-1].ends_at if self._copies else 0

        def write() -> None:
            if self._file is None:
                file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it stays open until the task is done
                self._file = self._closing.enter_context(file)
            # What a full disk took of it before is written over.
            self._file.seek(starts_at)
            left = memoryview(jpeg)
            while left:
                left = left[self._file.write(left) :]

        retry_storage("write a copy to the local disk", write)
        self._copies.append(_Spooled([row[name] for name in _OF_A_PHOTO], starts_at, starts_at + len(jpeg)))

    def parts(self) -> Iterator[pa.RecordBatch]:
        """The rows in their order, some at a time; again at each call."""
        for start in range(0, len(self._copies), COPY_ROWS.row_group_rows):
            some = self._copies[start : start + COPY_ROWS.row_group_rows]
            columns = dict(zip(_OF_A_PHOTO, zip(*(copy.columns for copy in some), strict=True), strict=True))
            rows = columns | {"jpeg": [self._read(copy) for copy in some]}
            yield pa.RecordBatch.from_pydict(
                {name: list(rows[name]) for name in COPY_ROWS.file_schema.names}, schema=COPY_ROWS.file_schema
            )

    def _read(self, copy: _Spooled) -> bytes:
        assert self._file is not None
        self._file.seek(copy.starts_at)
        return self._file.read(copy.ends_at - copy.starts_at)
