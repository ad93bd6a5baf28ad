"""Single rows of `rejects`: found again, and deleted when their object is tried again."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial

import pyarrow as pa
from deltalake import DeltaTable

from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.tables.files import DataFile, Replacement, data_files, missing_files_as_faults, read_file, rewrite_file
from store.tables.handles import load_table
from store.tables.schemas import REJECT_ROWS, table_location

_IDENTIFYING = ("source", "etag", "batch")


@dataclass(frozen=True, slots=True)
class RejectRow:
    """The identity of one row of `rejects`."""

    source: str
    etag: str
    batch: int
    ingest_date: date


def existing_rejects(home: Home, rows: Collection[RejectRow]) -> set[RejectRow]:
    """Those of some rows that are in `rejects`; reads files of their days. Raises StateDamaged, StorageUnavailable."""
    rows = set(rows)
    if not rows:
        return set()

    def find() -> set[RejectRow]:
        with missing_files_as_faults():
            files = _files_around(load_table(home, REJECT_ROWS), rows)
            return {row for file in files for row in _rejects_in(home, file) if row in rows}

    return retry_storage(f"read {table_location(home, REJECT_ROWS).uri}", find, again=UNKNOWN_OUTCOME)


def rewrite_without(home: Home, handle: DeltaTable, deleted: Collection[RejectRow]) -> list[Replacement]:
    """Write each file that holds rows of `deleted` again without them; with one try. Nobody sees it until a commit.

    A file that is gone raises FileNotFoundError.
    """
    replacements: list[Replacement] = []
    with missing_files_as_faults():
        for file in _files_around(handle, deleted):
            count = sum(row in deleted for row in _rejects_in(home, file))
            if count == file.rows:
                replacements.append((file, None))
            elif count:
                keep = partial(_are_kept, file, deleted)
                replacements.append((file, rewrite_file(home, REJECT_ROWS, file, keep)))
    return replacements


def _files_around(handle: DeltaTable | None, rows: Collection[RejectRow]) -> list[DataFile]:
    if not rows:
        return []
    batches: dict[date, set[int]] = {}
    for row in rows:
        batches.setdefault(row.ingest_date, set()).add(row.batch)

    def may_hold_one(file: DataFile) -> bool:
        of_day = batches.get(file.partition["ingest_date"], set())
        return any(file.batches is None or file.batches[0] <= batch <= file.batches[1] for batch in of_day)

    return [file for file in data_files(handle) if may_hold_one(file)]


def _rejects_in(home: Home, file: DataFile) -> Iterator[RejectRow]:
    for rows in read_file(home, REJECT_ROWS, file.path, _IDENTIFYING):
        yield from _reject_rows(rows, file)


def _are_kept(file: DataFile, deleted: Collection[RejectRow], rows: pa.RecordBatch) -> pa.BooleanArray:
    return pa.array([row not in deleted for row in _reject_rows(rows, file)], pa.bool_())


def _reject_rows(rows: pa.RecordBatch, file: DataFile) -> Iterator[RejectRow]:
    columns = (rows[name].to_pylist() for name in _IDENTIFYING)
    day = file.partition["ingest_date"]
    return (RejectRow(source, etag, batch, day) for source, etag, batch in zip(*columns, strict=True))
