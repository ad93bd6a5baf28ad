"""The Delta tables of a home: created, opened, kept open, and which batches they have."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError

from store.errors import NothingIngested, StateDamaged
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, reason, retry_storage
from store.objects.operations import keys_below
from store.state.plans import Plan, planned_batches, read_plans, read_results
from store.tables.schemas import ALL_TABLES, COMMIT_ORDER, COPY_ROWS, LABEL_ROWS, Table, table_location

APPLICATION = "fruits"
# What each commit says of the home's landings: pairs of a name and where it lies, as JSON.
LANDINGS_METADATA = "fruits.landings"
RETENTION = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
POST_COMMIT = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)

_T = TypeVar("_T")


def create_tables(home: Home) -> None:
    """Create the tables that do not exist yet, and add the columns that others lack. Replay changes nothing.

    Raises StateDamaged when a table is gone whose files the results of batches still name, StorageUnavailable.
    """
    missing = [table for table in ALL_TABLES if open_table(home, table) is None]
    for table in missing:
        _check_no_lost_files(home, table)
    for table in missing:
        uri = table_location(home, table).uri
        retry_storage(f"create the table {uri}", partial(create_table, home, table), again=UNKNOWN_OUTCOME)
    for table in ALL_TABLES:
        uri = table_location(home, table).uri
        retry_storage(f"add columns to {uri}", partial(_add_columns, home, table), again=UNKNOWN_OUTCOME)


def create_copies(home: Home) -> None:
    """Create the table of copies, which begins with the last batch that all other tables have. Replay changes nothing.

    From then on every batch is committed to it, too. For the stream that holds the home, after `create_tables`.
    Raises as that does.
    """
    if open_table(home, COPY_ROWS) is not None:
        return
    _check_no_lost_files(home, COPY_ROWS)
    # In the transaction that creates it: with a number of its own a moment later, all batches would look unsettled.
    first = [Transaction(APPLICATION, open_tables(home).committed_to_all)]
    uri = table_location(home, COPY_ROWS).uri
    retry_storage(f"create the table {uri}", partial(create_table, home, COPY_ROWS, first), again=UNKNOWN_OUTCOME)


def tables_of_batches(home: Home) -> tuple[Table, ...]:
    """The tables that each batch is committed to, in this order: with the copies once their table was created.

    Raises StateDamaged when that is gone, and its files are still there; StorageUnavailable.
    """
    if open_table(home, COPY_ROWS) is not None:
        return COMMIT_ORDER
    _check_no_files(home, COPY_ROWS)
    return tuple(table for table in COMMIT_ORDER if table is not COPY_ROWS)


def open_table(home: Home, table: Table) -> DeltaTable | None:
    """The table as it is; None if it was never created. Raises StateDamaged for a broken log, StorageUnavailable."""
    return _retry_opening(home, table, partial(load_table, home, table))


@dataclass(frozen=True)
class TableHandles:
    """The tables of batches by name as they were at one moment; None for a table that was never created.

    The copies are among them only in a home that has their table.
    """

    handles: Mapping[str, DeltaTable | None]

    def __getitem__(self, table: Table) -> DeltaTable | None:
        return self.handles.get(table.name)

    @cached_property
    def committed(self) -> tuple[int, ...]:
        """The number of the last batch of each table; 0 before the first."""
        return tuple(map(committed_batch, self.handles.values()))

    @property
    def committed_to_all(self) -> int:
        """The number of the last batch that all tables have."""
        return min(self.committed)

    @property
    def committed_to_any(self) -> int:
        """The number of the last batch that one of the tables has."""
        return max(self.committed)


def open_tables(home: Home) -> TableHandles:
    """All tables as they are now. Raises as `open_table`.

    They are opened against the order of commits: what a later table has of a batch, an earlier one has, too.
    """
    handles = {table.name: open_table(home, table) for table in reversed(COMMIT_ORDER)}
    return TableHandles({table.name: handles[table.name] for table in COMMIT_ORDER if _is_of_home(handles, table)})


def _is_of_home(handles: Mapping[str, DeltaTable | None], table: Table) -> bool:
    return table is not COPY_ROWS or handles[table.name] is not None


def check_ingested(home: Home) -> None:
    """Raises NothingIngested, no failure, before the first commit of a batch; StateDamaged, StorageUnavailable."""
    if not open_tables(home).committed_to_any:
        raise nothing_ingested(home)


def nothing_ingested(home: Home) -> NothingIngested:
    """What to raise then."""
    return NothingIngested(
        f"Nothing was ingested into {home.root.uri} yet; drop photos below {home.landing.uri} and run `fruits stream`."
    )


def unsettled_batches(home: Home, tables: TableHandles | None = None) -> list[int]:
    """The numbers of the batches that are planned and that not all tables have, ascending.

    A batch that is committed between the two looks, at the tables (unless they are given) and then at the plans,
    counts as unsettled. Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    return planned_batches(home, after=(tables or open_tables(home)).committed_to_all)


def unsettled_plans(home: Home, tables: TableHandles | None = None) -> Iterator[Plan]:
    """The plans of these batches. Raises as `unsettled_batches`."""
    return read_plans(home, after=(tables or open_tables(home)).committed_to_all)


class OpenTables:
    """The tables of a home kept open, so that a look reads only what is new. Each is for one thread at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._handles: dict[str, DeltaTable] = {}
        # By table, a version of the log, and the last batch that it has.
        self._batches: dict[str, tuple[int, int]] = {}
        self._locks = {table.name: threading.RLock() for table in COMMIT_ORDER}

    @contextmanager
    def latest(self, table: Table) -> Iterator[DeltaTable | None]:
        """The table as it is now, or None when it was never created. After an error it is opened anew."""
        with self._locks[table.name]:
            handle = self._handles.pop(table.name, None)
            if handle is None:
                handle = load_table(self._home, table)
            else:
                handle.update_incremental()
            yield handle
            if handle is not None:
                self._handles[table.name] = handle

    def look(self, table: Table) -> tuple[DeltaTable | None, int]:
        """A table as it is now, and the number of the last batch committed to it. Raises as `open_table`."""

        def latest() -> tuple[DeltaTable | None, int]:
            with self.latest(table) as handle:
                return handle, self.batch_of(table, handle)

        return _retry_opening(self._home, table, latest)

    def look_at_all(self) -> dict[str, tuple[DeltaTable | None, int]]:
        """The same of all tables that the home has, in the order of commits. Raises as `open_table`."""
        looks = {table.name: self.look(table) for table in reversed(COMMIT_ORDER)}
        handles = {name: handle for name, (handle, _) in looks.items()}
        return {table.name: looks[table.name] for table in COMMIT_ORDER if _is_of_home(handles, table)}

    def batch_of(self, table: Table, handle: DeltaTable | None) -> int:
        """The number of the last batch in a handle that `latest` gave."""
        if handle is None:
            return 0
        version, batch = self._batches.get(table.name, (-1, 0))
        if handle.version() != version:
            # It reads a dozen files of the log, even when none of them is new.
            batch = committed_batch(handle)
            self._batches[table.name] = (handle.version(), batch)
        return batch

    def note_commit(self, table: Table, handle: DeltaTable, batch: int) -> None:
        """A batch was committed through this handle, which itself does not know it yet."""
        self._batches[table.name] = (handle.version() + 1, batch)


def committed_batch(handle: DeltaTable | None) -> int:
    """The number of the last batch committed to a table; 0 before the first."""
    return 0 if handle is None else handle.transaction_version(APPLICATION) or 0


def commit_properties(
    home: Home, transactions: list[Transaction], metadata: Mapping[str, str] | None = None
) -> CommitProperties:
    """What every commit carries: transaction numbers, metadata, and where the home's landings are."""
    custom = dict(metadata or {})
    if home.landing.name is not None:
        custom[LANDINGS_METADATA] = json.dumps([(one.source, home.path_or_uri(one)) for one in home.landings])
    return CommitProperties(custom_metadata=custom, app_transactions=transactions)


def load_table(home: Home, table: Table) -> DeltaTable | None:
    """As `open_table`, with one try; what storage fails of is raised as the library raised it."""
    location = table_location(home, table)
    try:
        return DeltaTable(location.deltalake_uri, storage_options=location.table_options())
    except TableNotFoundError:
        return None
    except DeltaError as error:
        # What storage says comes as OSError, unless it is of a checkpoint.
        if _STORAGE_FAULT.search(str(error)):
            raise
        raise StateDamaged(f"The table {location.uri} cannot be read; restore it. {reason(error)}.") from error


_STORAGE_FAULT = re.compile(r"Generic \w+ error: ")


def create_table(home: Home, table: Table, transactions: Sequence[Transaction] = ()) -> DeltaTable:
    """Create a table unless it exists, with one try; it has these transactions from its beginning."""
    location = table_location(home, table)
    return DeltaTable.create(
        location.deltalake_uri,
        schema=table.schema,
        mode="ignore",
        partition_by=list(table.partitioned_by),
        name=table.name,
        configuration={"delta.dataSkippingStatsColumns": ",".join(table.statistics_columns)} | RETENTION,
        storage_options=location.table_options(),
        commit_properties=CommitProperties(app_transactions=list(transactions)) if transactions else None,
    )


def _retry_opening(home: Home, table: Table, work: Callable[[], _T]) -> _T:
    uri = table_location(home, table).uri
    try:
        return retry_storage(f"open the table {uri}", work)
    except FileNotFoundError as error:
        raise StateDamaged(f"The table {uri} lacks a file of its log; restore it. {reason(error)}.") from error


def _check_no_files(home: Home, table: Table) -> None:
    if next(keys_below(table_location(home, table)), None) is not None:
        uri = table_location(home, table).uri
        raise StateDamaged(f"The table {uri} lacks its log, and files of it are there; restore it, or move it away.")


def _add_columns(home: Home, table: Table) -> None:
    # A write of a wider schema to a table without the column succeeds and hides the values (deltalake 1.6.6).
    handle = load_table(home, table)
    if handle is None:
        return
    missing = table.missing_in([column.name for column in handle.schema().fields])
    if missing:
        columns = Schema.from_arrow(pa.schema([table.schema.field(name) for name in missing])).fields
        properties = commit_properties(home, [])
        handle.alter.add_columns(columns, commit_properties=properties, post_commithook_properties=POST_COMMIT)


def _check_no_lost_files(home: Home, table: Table) -> None:
    if table in (LABEL_ROWS, COPY_ROWS):
        _check_no_files(home, table)
    if table is LABEL_ROWS:
        return
    # If a new table took up these results, it would name files that nobody can read.
    named = {added.path for result in read_results(home) for added in result.adds.get(table.name, ())}
    if not named <= set(keys_below(table_location(home, table))):
        raise StateDamaged(
            f"The table {table_location(home, table).uri} is gone, but {home.batches.uri} tells of batches in it; "
            f"restore it, or move {home.state.uri} away as well: then what lies in the landing and in no table is "
            "processed anew."
        )
