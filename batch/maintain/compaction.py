"""Many small files of a table become few large ones, with the same rows.

deltalake's own `optimize.compact` is not used, for two reasons (seen with 1.6.6). Two of them at once, or one beside a
paused one, leave each row twice: the second does not notice that its files were replaced, even if both carry a
transaction number. And it takes all small files of a partition, so also those of a batch that not all tables hold yet.
tests/batch/maintain/test_maintain.py shows that ours refuses the first and leaves out the second.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from batch.days import groups_by_size, list_days
from store.errors import StateDamaged
from store.home import Home
from store.objects.faults import retry_storage
from store.tables.commits import MAINTENANCE, replace_files
from store.tables.files import DataFile, data_files, has_files, read_file, write_large_file
from store.tables.handles import open_table, open_tables
from store.tables.schemas import ALL_TABLES, COPY_ROWS, FEATURE_ROWS, LABEL_ROWS, Table

TARGET_BYTES = 128 * 2**20
# A row is rewritten when its hour and when its day is finished, and no more once it is in a file of this size.
BIG_ENOUGH_BYTES = TARGET_BYTES // 2
# What a file costs beside its rows.
FILE_OVERHEAD_BYTES = 4096

# Copies, too: a stream at work writes ten thousands of files a day, and a log must be read whole.
_COMPACTED = (*ALL_TABLES, COPY_ROWS)
_READ_AT_ONCE = 8
_READ_AT_ONCE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Group:
    """Files of one partition, and of one featurizer, that become one; `hour` is None when their day is finished."""

    table: Table
    ingest_date: date
    hour: datetime | None
    files: tuple[DataFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def groups_to_compact(home: Home, now: datetime) -> list[Group]:
    """What is to be compacted: the files of each past hour of unfinished days, and those of each finished day.

    Left as they are: files that are large enough, single files, files without statistics, and files with a batch that
    not all tables hold. Files of labels have no batch. Raises StorageUnavailable.
    """
    committed = open_tables(home).committed_to_all
    unfinished = {day.date for day in list_days(home) if not day.finished}
    this_hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    groups: list[Group] = []
    for table in _COMPACTED:
        by_period: dict[tuple[tuple[str | None, ...], date, datetime | None], list[DataFile]] = defaultdict(list)
        for file in data_files(open_table(home, table)):
            day = file.partition["ingest_date"]
            finished = day < this_hour.date() and day not in unfinished
            hour = None if finished else file.committed_at.replace(minute=0, second=0, microsecond=0)
            whole = table is LABEL_ROWS or (file.batches is not None and file.batches[1] <= committed)
            if whole and file.size_bytes < BIG_ENOUGH_BYTES and (hour is None or hour < this_hour):
                partition = tuple(str(file.partition[column]) for column in table.partitioned_by)
                by_period[(*partition, file.network), day, hour].append(file)
        for (_, day, hour), files in by_period.items():
            in_order = sorted(files, key=lambda file: (file.batches or (0, 0), file.path))
            of_target_size = groups_by_size(
                in_order, lambda f: max(0, f.size_bytes - FILE_OVERHEAD_BYTES), TARGET_BYTES
            )
            groups += [Group(table, day, hour, group) for group in of_target_size if len(group) > 1]
    return sorted(groups, key=lambda group: group.ingest_date)


def compact(home: Home, groups: Iterable[Group], check: Callable[[], None]) -> Iterator[tuple[Group, int]]:
    """Replace each group's files by one; yields each group with the size of its file in bytes.

    Files of former releases become one for each featurizer that has rows in them. Each group is one transaction. The
    rows stay the same. The stream may append and queries may read meanwhile: the replaced files stay for a day. Killed
    at any point, a replay does the groups that are left. A group is left out if somebody has removed one of its files.
    `check` raises when this should stop. Memory holds some row groups. Raises HomeInUse, StateDamaged,
    StorageUnavailable.
    """
    tables = {table.name: open_table(home, table) for table in _COMPACTED}
    for group in groups:
        check()
        handle = tables[group.table.name]
        if handle is None:
            continue
        retry_storage(f"open the table {group.table.name}", handle.update_incremental)
        if not has_files(handle, group.files):
            continue
        folders = group.files[0].partition_folders
        adds = [
            write_large_file(
                home, group.table, partial(_rows_of, home, group.table, group.files, network), folders, network
            )
            for network in _networks_of(home, group)
        ]
        expected, found = (sum(file.rows for file in files) for files in (group.files, adds))
        if found != expected:
            raise StateDamaged(
                f"Files of {group.ingest_date} in {group.table.name} hold {found} rows instead of {expected}; "
                "nothing was replaced. Restore them."
            )
        check()
        replace_files(home, group.table, handle, group.files, adds, MAINTENANCE)
        yield group, sum(added.size_bytes for added in adds)


def _networks_of(home: Home, group: Group) -> list[str | None]:
    """The featurizers of a group's rows; only None in a table other than that of the features."""
    network = group.files[0].network
    if group.table is not FEATURE_ROWS or network is not None:
        return [network]
    parts = (rows for file in group.files for rows in read_file(home, group.table, file.path, ["featurizer"]))
    return sorted({featurizer for rows in parts for featurizer in pc.unique(rows["featurizer"]).to_pylist()})


def _rows_of(home: Home, table: Table, files: Sequence[DataFile], network: str | None) -> Iterator[pa.RecordBatch]:
    for rows in _rows(home, table, files):
        if network is None or files[0].network == network:
            yield rows
        elif (own := rows.filter(pc.equal(rows["featurizer"], network))).num_rows:
            yield own


def _rows(home: Home, table: Table, files: Sequence[DataFile]) -> Iterator[pa.RecordBatch]:
    """The rows of some files in their order; small files, which cost round trips and not bytes, are read at once."""
    columns = table.file_schema.names
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="read") as pool:
        for group in groups_by_size(files, lambda file: file.size_bytes, _READ_AT_ONCE_BYTES):
            if len(group) == 1:
                yield from read_file(home, table, group[0].path, columns)
            else:
                for rows in pool.map(lambda file: list(read_file(home, table, file.path, columns)), group):
                    yield from rows
