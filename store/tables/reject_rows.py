"""Single rows of `rejects`: found again, and taken out when a retry succeeds."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial

import pyarrow as pa
import pyarrow.fs
from deltalake import DeltaTable

from store.errors import StorageUnavailable
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.tables.files import DataFile, RewrittenFile, data_files, read_file, write_large_file
from store.tables.handles import opened_table, table_location
from store.tables.schemas import REJECT_ROWS

_IDENTIFYING = ("source", "etag", "batch")


@dataclass(frozen=True, slots=True)
class RejectRow:
    """What tells one row of `rejects` from all others."""

    source: str
    etag: str
    batch: int
    ingest_date: date


def standing_rejects(home: Home, rows: Collection[RejectRow]) -> set[RejectRow]:
    """Those of some rows that `rejects` holds now; only files of their days and batches are read.

    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    wanted = set(rows)

    def look() -> set[RejectRow]:
        handle = opened_table(table_location(home, REJECT_ROWS))
        files = _files_around(handle, wanted) if handle is not None else []
        with gone_files_as_faults():
            return {row for file in files for row in _rejects_in(home, file) if row in wanted}

    return (
        retry_storage(f"read {table_location(home, REJECT_ROWS).uri}", look, again=UNKNOWN_OUTCOME) if wanted else set()
    )


def rewritten_without(home: Home, handle: DeltaTable, gone: Collection[RejectRow]) -> list[RewrittenFile]:
    rewritten: list[RewrittenFile] = []
    with gone_files_as_faults():
        for file in _files_around(handle, gone):
            leaving = sum(row in gone for row in _rejects_in(home, file))
            if leaving == file.rows:
                rewritten.append((file, None))
            elif leaving:
                partition = {"ingest_date": file.partition["ingest_date"].isoformat()}
                staying = partial(_staying, home, file, gone)
                rewritten.append((file, write_large_file(home, REJECT_ROWS, staying, partition)))
    return rewritten


@contextmanager
def gone_files_as_faults() -> Iterator[None]:
    # An erasure deletes files at once: the next look at the table finds what took their place.
    try:
        yield
    except StorageUnavailable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


def _files_around(handle: DeltaTable, rows: Collection[RejectRow]) -> list[DataFile]:
    if not rows:
        return []
    batches: dict[date, set[int]] = {}
    for row in rows:
        batches.setdefault(row.ingest_date, set()).add(row.batch)

    def may_hold_one(file: DataFile) -> bool:
        wanted = batches.get(file.partition["ingest_date"], set())
        return any(file.batches is None or file.batches[0] <= batch <= file.batches[1] for batch in wanted)

    return [file for file in data_files(handle) if may_hold_one(file)]


def _rejects_in(home: Home, file: DataFile) -> Iterator[RejectRow]:
    for rows in read_file(home, REJECT_ROWS, file.path, _IDENTIFYING):
        yield from _reject_rows(rows, file)


def _staying(home: Home, file: DataFile, gone: Collection[RejectRow]) -> Iterator[pa.RecordBatch]:
    for rows in read_file(home, REJECT_ROWS, file.path, REJECT_ROWS.file_schema.names):
        yield rows.filter(pa.array([row not in gone for row in _reject_rows(rows, file)], pa.bool_()))


def _reject_rows(rows: pa.RecordBatch, file: DataFile) -> Iterator[RejectRow]:
    columns = (rows[name].to_pylist() for name in _IDENTIFYING)
    day = file.partition["ingest_date"]
    return (RejectRow(source, etag, batch, day) for source, etag, batch in zip(*columns, strict=True))
