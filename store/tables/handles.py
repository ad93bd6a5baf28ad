"""The Delta tables of a home: made, opened, kept open."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pyarrow as pa
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError

from store.errors import StateDamaged
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, reason, retry_storage
from store.objects.location import StorageLocation
from store.objects.operations import keys_below
from store.state.plans import planned_batches, read_result
from store.tables.schemas import TABLES, Table

APPLICATION = "fruits"
# What each commit says of the home's landings: pairs of a name and where it lies, as JSON.
LANDINGS_SAID = "fruits.landings"
RETENTION = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
POST_COMMIT = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


def create_tables(home: Home) -> None:
    """Create the tables that do not exist yet, and add the columns that others lack. Replay changes nothing.

    Raises StateDamaged when one is gone whose files the results of batches still name, StorageRefused,
    StorageUnavailable.
    """
    missing = [table for table in TABLES if open_table(home, table) is None]
    for table in missing:
        _refuse_lost_files(home, table)
    for table in missing:
        place = table_location(home, table)
        retry_storage(f"create the table {place.uri}", partial(created_table, place, table), again=UNKNOWN_OUTCOME)
    for table in TABLES:
        place = table_location(home, table)
        retry_storage(f"add columns to {place.uri}", partial(_add_columns, home, place, table), again=UNKNOWN_OUTCOME)


def _add_columns(home: Home, place: StorageLocation, table: Table) -> None:
    # A write of a wider schema to a table without the column succeeds and hides the values (deltalake 1.6.6).
    handle = opened_table(place)
    if handle is None:
        return
    missing = table.missing_in([column.name for column in handle.schema().fields])
    if missing:
        columns = Schema.from_arrow(pa.schema([table.schema.field(name) for name in missing])).fields
        said = commit_properties(home, [])
        handle.alter.add_columns(columns, commit_properties=said, post_commithook_properties=POST_COMMIT)


def _refuse_lost_files(home: Home, table: Table) -> None:
    # Rolled forward into a new table, these results would name files that nobody can read.
    results = (read_result(home, batch) for batch in planned_batches(home))
    named = {added.path for result in results if result for added in result.adds.get(table.name, ())}
    if not named <= set(keys_below(table_location(home, table))):
        raise StateDamaged(
            f"The table {table_location(home, table).uri} is gone, but {home.batches.uri} tells of batches in it; "
            f"restore it, or move {home.state.uri} away as well: then what lies in the landing and in no table is "
            "processed anew."
        )


def open_table(home: Home, table: Table) -> DeltaTable | None:
    """The table as it stands now, or None when it was never created.

    Raises StateDamaged when its log cannot be read, StorageRefused, StorageUnavailable.
    """
    place = table_location(home, table)
    try:
        return retry_storage(f"open the table {place.uri}", lambda: opened_table(place))
    except FileNotFoundError as error:
        raise StateDamaged(f"The table {place.uri} lacks a file of its log; restore it. {reason(error)}.") from error


def opened_table(place: StorageLocation) -> DeltaTable | None:
    try:
        return DeltaTable(place.table_location, storage_options=place.table_options())
    except TableNotFoundError:
        return None
    except DeltaError as error:
        # What storage says comes as OSError.
        raise StateDamaged(f"The table {place.uri} cannot be read; restore it. {reason(error)}.") from error


class OpenTables:
    """The tables of a home kept open, so that a look costs what was committed since the last one, not the whole log.

    Each table is for one thread at a time.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._handles: dict[str, DeltaTable] = {}
        # By table, the version of the log at which its last batch was looked up, and that batch.
        self._batches: dict[str, tuple[int, int]] = {}
        self._locks = {table.name: threading.RLock() for table in TABLES}

    @contextmanager
    def latest(self, table: Table) -> Iterator[DeltaTable | None]:
        """The table as it stands now, or None when it was never created. After an error it is opened anew."""
        with self._locks[table.name]:
            handle = self._handles.pop(table.name, None)
            if handle is None:
                handle = opened_table(table_location(self._home, table))
            else:
                handle.update_incremental()
            yield handle
            if handle is not None:
                self._handles[table.name] = handle

    def committed_batch(self, table: Table) -> int:
        """The number of the last batch committed to a table. Raises StorageRefused, StorageUnavailable."""

        def look() -> int:
            with self.latest(table) as handle:
                return self.batch_of(table, handle)

        return retry_storage(f"open the table {table_location(self._home, table).uri}", look)

    def batch_of(self, table: Table, handle: DeltaTable | None) -> int:
        """The same of a handle that `latest` gave."""
        if handle is None:
            return 0
        version, batch = self._batches.get(table.name, (-1, 0))
        if handle.version() != version:
            # It reads a dozen files of the log, though there be nothing new in them.
            batch = committed_batch(handle)
            self._batches[table.name] = (handle.version(), batch)
        return batch

    def committed(self, table: Table, handle: DeltaTable, batch: int) -> None:
        """A batch was committed through this handle, which itself does not know it yet."""
        self._batches[table.name] = (handle.version() + 1, batch)


def committed_batch(handle: DeltaTable | None) -> int:
    """The number of the last batch committed to a table; 0 before the first."""
    return 0 if handle is None else handle.transaction_version(APPLICATION) or 0


def commit_properties(
    home: Home, transactions: list[Transaction], metadata: Mapping[str, str] | None = None
) -> CommitProperties:
    said = dict(metadata or {})
    if home.landing.name is not None:
        said[LANDINGS_SAID] = json.dumps([(one.source, home.location_of(one)) for one in home.landings])
    return CommitProperties(custom_metadata=said, app_transactions=transactions)


def created_table(place: StorageLocation, table: Table) -> DeltaTable:
    return DeltaTable.create(
        place.table_location,
        schema=table.schema,
        mode="ignore",
        partition_by=list(table.partitioned_by),
        name=table.name,
        configuration={"delta.dataSkippingStatsColumns": ",".join(table.statistics_columns)} | RETENTION,
        storage_options=place.table_options(),
    )


def table_location(home: Home, table: Table) -> StorageLocation:
    return home.root.child(table.name)
