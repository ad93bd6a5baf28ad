"""Many small files of a table become few large ones, with the same rows."""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

import pyarrow as pa

from batch.days import list_days
from store.errors import StateDamaged
from store.home import Home
from store.objects.faults import retry_storage
from store.tables.commits import MAINTENANCE, replace_files
from store.tables.files import DataFile, data_files, has_files, read_file, write_large_file
from store.tables.handles import open_tables
from store.tables.schemas import TABLES, Table

TARGET_BYTES = 128 * 2**20
# A row is rewritten when its hour and when its day is finished, and no more once it is in a file of this size.
BIG_ENOUGH_BYTES = TARGET_BYTES // 2
# What a file costs beside its rows.
FILE_OVERHEAD_BYTES = 4096

_READ_AT_ONCE = 8
_READ_AHEAD_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Group:
    """Files of one partition that become one; `hour` is None when their day is finished."""

    table: Table
    ingest_date: date
    hour: datetime | None
    files: tuple[DataFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def groups_to_compact(home: Home, now: datetime) -> list[Group]:
    """What is to be compacted: the files of each past hour of unfinished days, and those of each finished day.

    Files that are large enough stay as they are, as do files alone, those without statistics, and those with a batch
    that not all tables hold. Raises StorageUnavailable.
    """
    tables = open_tables(home)
    committed = tables.committed_to_all
    unfinished = {day.date for day in list_days(home) if not day.finished}
    this_hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    groups: list[Group] = []
    for table in TABLES:
        together: dict[tuple[tuple[str, ...], date, datetime | None], list[DataFile]] = defaultdict(list)
        for file in data_files(tables[table]):
            day = file.partition["ingest_date"]
            finished = day < this_hour.date() and day not in unfinished
            hour = None if finished else file.committed_at.replace(minute=0, second=0, microsecond=0)
            whole = file.batches is not None and file.batches[1] <= committed
            if whole and file.size_bytes < BIG_ENOUGH_BYTES and (hour is None or hour < this_hour):
                partition = tuple(str(file.partition[column]) for column in table.partitioned_by)
                together[partition, day, hour].append(file)
        for (_, day, hour), files in together.items():
            groups += [Group(table, day, hour, some) for some in _cut(files) if len(some) > 1]
    return sorted(groups, key=lambda group: group.ingest_date)


def compact(home: Home, groups: Iterable[Group], check: Callable[[], None]) -> Iterator[tuple[Group, int]]:
    """Put one file in the place of each group's files; yields each group with the size of its file in bytes.

    Each group is one transaction, in which the rows stay what they are. The stream appends meanwhile and readers go on:
    the files replaced stay for a day. Killed at any point, a replay does the groups that are left. A group of which
    others have removed a file since is left out. `check` raises when this should stop. Memory holds some row groups.
    Raises HomeInUse, StateDamaged, StorageUnavailable.
    """
    tables = open_tables(home)
    for group in groups:
        check()
        handle = tables[group.table]
        if handle is None:
            continue
        retry_storage(f"open the table {group.table.name}", handle.update_incremental)
        if not has_files(handle, group.files):
            continue
        rows = partial(_rows, home, group.table, group.files)
        added = write_large_file(home, group.table, rows, group.files[0].partition_folders)
        expected = sum(file.rows for file in group.files)
        if added.rows != expected:
            raise StateDamaged(
                f"Files of {group.ingest_date} in {group.table.name} hold {added.rows} rows instead of {expected}; "
                "nothing was replaced. Restore them."
            )
        check()
        replace_files(home, group.table, handle, group.files, added, MAINTENANCE)
        yield group, added.size_bytes


def _cut(files: Collection[DataFile]) -> Iterator[tuple[DataFile, ...]]:
    some: list[DataFile] = []
    size_bytes = 0
    for file in sorted(files, key=lambda file: (file.batches or (0, 0), file.path)):
        rows_bytes = max(0, file.size_bytes - FILE_OVERHEAD_BYTES)
        if some and size_bytes + rows_bytes > TARGET_BYTES:
            yield tuple(some)
            some, size_bytes = [], 0
        some.append(file)
        size_bytes += rows_bytes
    if some:
        yield tuple(some)


def _rows(home: Home, table: Table, files: Sequence[DataFile]) -> Iterator[pa.RecordBatch]:
    """The rows of some files in their order, small files read a few ahead: each costs round trips, not bytes."""
    columns = table.file_schema.names

    def whole(path: str) -> list[pa.RecordBatch]:
        return list(read_file(home, table, path, columns))

    waiting: deque[Future[list[pa.RecordBatch]]] = deque()
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="read") as pool:
        for file in files:
            if file.size_bytes <= _READ_AHEAD_BYTES:
                waiting.append(pool.submit(whole, file.path))
            while waiting and (len(waiting) > _READ_AT_ONCE or file.size_bytes > _READ_AHEAD_BYTES):
                yield from waiting.popleft().result()
            if file.size_bytes > _READ_AHEAD_BYTES:
                yield from read_file(home, table, file.path, columns)
        while waiting:
            yield from waiting.popleft().result()
