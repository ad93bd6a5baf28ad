"""Small pictures of photos, from which features can be made again: which photos have one, how a task writes them."""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from store.home import Home
from store.objects.faults import Fault, retry_storage
from store.tables.files import data_files, read_file, rows_of_sources
from store.tables.handles import open_table, open_tables
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS

# Of commits that are no batch's: copies of photos that have had their feature rows for long.
COPYING = "fruits-copies"

# A row and a listing can name different times of one upload.
_AROUND = timedelta(days=1)
_IDENTIFYING = ("batch", "source", "etag")
_OF_A_PHOTO = [name for name in COPY_ROWS.file_schema.names if name != "jpeg"]


@dataclass(frozen=True, slots=True)
class PhotoRow:
    """What the feature rows of a photo and its copy have in common."""

    image_id: str
    source: str
    etag: str
    arrived_at: datetime
    batch: int
    ingest_date: date

    @property
    def identity(self) -> tuple[int, str, str]:
        """Which arrival of which version it is of."""
        return self.batch, self.source, self.etag


@dataclass(frozen=True)
class PhotoRows:
    """Rows of photos as the tables are at one moment; those in `copied` have their copy."""

    rows: tuple[PhotoRow, ...]
    copied: frozenset[PhotoRow]


def rows_of_photos(home: Home, versions: Mapping[tuple[str, str], datetime]) -> PhotoRows:
    """The rows of some versions (source, etag) that arrived then, of batches that all tables have.

    Each arrival counts once, whatever networks its photo went through; narrow columns are read, of files from around
    these days. Raises StateDamaged, StorageRefused, StorageUnavailable, also when a file of the tables is lost.
    """

    def look() -> PhotoRows:
        tables = open_tables(home)
        features, copies = tables[FEATURE_ROWS], tables[COPY_ROWS]
        if not versions or features is None:
            return PhotoRows((), frozenset())
        earliest, latest = min(versions.values()) - _AROUND, max(versions.values()) + _AROUND
        # A batch is in `features` for a moment before its copies are: that one does not lack any yet.
        which = (
            (pc.field("arrived_at") >= earliest)
            & (pc.field("arrived_at") <= latest)
            & (pc.field("batch") <= tables.committed_to_all)
        )
        parts = rows_of_sources(
            features, list(PhotoRow.__dataclass_fields__), which, {source for source, _ in versions}
        )
        found = (PhotoRow(**row) for part in parts for row in part.to_pylist())
        rows = tuple({row.identity: row for row in found if (row.source, row.etag) in versions}.values())
        return PhotoRows(rows, copied_among(copies, rows))

    # An erasure and a retention take files away; the next look finds what replaced them.
    return retry_storage(f"read rows of {home.root.uri}", look, (Fault.TRANSIENT, Fault.MISSING))


def copied_among(copies: DeltaTable | None, rows: Collection[PhotoRow]) -> frozenset[PhotoRow]:
    """Those of some rows whose copy the table has; one try, and what storage fails of as the library raises it."""
    if copies is None or not rows:
        return frozenset()
    days, batches = ({getattr(row, name) for row in rows} for name in ("ingest_date", "batch"))
    which = pc.field("ingest_date").isin(sorted(days)) & pc.field("batch").isin(sorted(batches))
    parts = rows_of_sources(copies, _IDENTIFYING, which, {row.source for row in rows})
    there = {
        identity for part in parts for identity in zip(*(part[name].to_pylist() for name in _IDENTIFYING), strict=True)
    }
    return frozenset(row for row in rows if row.identity in there)


def read_copies(home: Home, rows: Collection[PhotoRow]) -> Iterator[tuple[PhotoRow, bytes]]:
    """The copies of those rows that have one, some at a time, in the order of the table's files.

    Of files with such batches narrow columns are read, and then the row groups that hold one of these copies.
    Raises StateDamaged when a file cannot be read, StorageRefused, StorageUnavailable, also when one is gone.
    """
    wanted = {row.identity: row for row in rows}
    batches = sorted({row.batch for row in rows})
    days = {row.ingest_date for row in rows}
    for file in data_files(open_table(home, COPY_ROWS)) if wanted else ():
        lowest, highest = file.batches or (min(batches), max(batches))
        if file.partition["ingest_date"] not in days or not any(lowest <= batch <= highest for batch in batches):
            continue
        identities = [
            identity
            for part in read_file(home, COPY_ROWS, file.path, _IDENTIFYING)
            for identity in zip(*(part[name].to_pylist() for name in _IDENTIFYING), strict=True)
        ]
        found = [place for place, identity in enumerate(identities) if identity in wanted]
        if found:
            parts = read_file(home, COPY_ROWS, file.path, ["jpeg"], np.array(found, np.int64))
            copies = (copy for part in parts for copy in part["jpeg"].to_pylist())
            yield from zip((wanted[identities[place]] for place in found), copies, strict=True)


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
