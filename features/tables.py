"""The tables analysts query: parquet under a Delta log, appended to exactly once per batch."""

import io
import itertools
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction
from numpy.typing import NDArray

from features.errors import AnotherStreamRunning, HomeInUse, StateDamaged, StorageUnavailable
from features.faults import UNKNOWN_OUTCOME, given_up, persistently, reason
from features.home import Home
from features.objects import Place, keys_below, upload
from features.plan import AddedFile, planned_batches, read_result

APPLICATION = "fruits"
# What each commit says of the home's landings: pairs of a name and where it lies, as JSON.
LANDINGS_SAID = "fruits.landings"
# Who rewrites and deletes files of the tables. Each of its commits has a number, so that of two at once one is refused.
MAINTENANCE = "fruits-maintain"

# A column that tables got later: files written before lack it, and its values there are null.
FIRST_VISIBLE = "first_visible_at"
_LATER = {FIRST_VISIBLE}

READ_ROWS = 2048
# 40 MB of features: what a writer of a large file and a reader of it hold at a time.
ROW_GROUP_ROWS = 8192

# How long a file that no version of a table names any more can still be read, and with it the log that names it.
UNREFERENCED_KEPT = timedelta(hours=24)
RETENTION = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}

_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_INSTANT = pa.timestamp("us", tz="UTC")
_HISTORY_SEARCHED = 200
_IDENTIFYING = ("source", "etag", "batch")
# pyarrow raises OSError for damage, too.
_DAMAGE = ("Couldn't deserialize thrift", "Unexpected end of stream", "Invalid flatbuffers", "decompression failed")


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, and which of them are partition folders."""

    name: str
    schema: pa.Schema
    partitioned_by: tuple[str, ...]

    @property
    def file_schema(self) -> pa.Schema:
        """The columns inside a file: all but the partitions."""
        return pa.schema([column for column in self.schema if column.name not in self.partitioned_by])

    @property
    def repeating_columns(self) -> list[str]:
        """All but the vectors: a dictionary of floats that hardly ever repeat costs more than it saves."""
        return [column.name for column in self.file_schema if not pa.types.is_list(column.type)]

    @property
    def statistics_columns(self) -> list[str]:
        """Numbers and times only: a string can name a person, and the log outlives the row.

        No later columns: to deltalake a file without statistics of a column that has some elsewhere would be empty.
        """
        kinds = (pa.types.is_integer, pa.types.is_timestamp)
        columns = [column for column in self.file_schema if column.name not in _LATER]
        return [column.name for column in columns if any(is_kind(column.type) for is_kind in kinds)]

    def missing_in(self, names: Collection[str]) -> list[str]:
        """The later columns that a file or a table with columns of these names lacks."""
        return [column.name for column in self.schema if column.name in _LATER and column.name not in names]


FEATURE_ROWS = Table(
    "features",
    pa.schema(
        [
            ("image_id", pa.string()),
            ("source", pa.string()),
            ("etag", pa.string()),
            ("bytes", pa.int64()),
            ("arrived_at", _INSTANT),
            ("label", pa.string()),
            ("subject", pa.string()),
            ("format", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("features", pa.list_(pa.float32())),
            ("featurizer", pa.string()),
            ("batch", pa.int64()),
            ("ingested_at", _INSTANT),
            ("ingest_date", pa.date32()),
            (FIRST_VISIBLE, _INSTANT),
        ]
    ),
    ("ingest_date",),
)
PROJECTION_ROWS = Table(
    "projections",
    pa.schema(
        [
            ("image_id", pa.string()),
            ("source", pa.string()),
            ("label", pa.string()),
            ("subject", pa.string()),
            ("arrived_at", _INSTANT),
            ("pca", pa.list_(pa.float32())),
            ("featurizer", pa.string()),
            ("batch", pa.int64()),
            ("ingested_at", _INSTANT),
            ("pca_version", pa.int32()),
            ("ingest_date", pa.date32()),
        ]
    ),
    ("pca_version", "ingest_date"),
)
REJECT_ROWS = Table(
    "rejects",
    pa.schema(
        [
            ("source", pa.string()),
            ("etag", pa.string()),
            ("bytes", pa.int64()),
            ("arrived_at", _INSTANT),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("batch", pa.int64()),
            ("ingested_at", _INSTANT),
            ("ingest_date", pa.date32()),
            (FIRST_VISIBLE, _INSTANT),
        ]
    ),
    ("ingest_date",),
)


@dataclass(frozen=True)
class DataFile:
    """One parquet file of a table as its log knows it.

    `batches` are the lowest and the highest number inside; None when whoever wrote the file left no statistics.
    `committed_at` is when the last of its rows came to the table.
    """

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, Any]
    batches: tuple[int, int] | None
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class RejectRow:
    """What tells one row of `rejects` from all others."""

    source: str
    etag: str
    batch: int
    ingest_date: date


# A file, and the one with fewer rows that takes its place, if any are left.
_Rewritten = tuple[DataFile, AddedFile | None]

# In the order in which a batch is committed to them.
TABLES = (FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS)


def create_tables(home: Home) -> None:
    """Create the tables that do not exist yet, and add the columns that others lack. Replay changes nothing.

    Raises StateDamaged when one is gone whose files the results of batches still name, StorageRefused,
    StorageUnavailable.
    """
    missing = [table for table in TABLES if open_table(home, table) is None]
    for table in missing:
        _refuse_lost_files(home, table)
    for table in missing:
        place = _place(home, table)
        persistently(f"create the table {place.uri}", partial(_created, place, table), again=UNKNOWN_OUTCOME)
    for table in TABLES:
        place = _place(home, table)
        persistently(f"add columns to {place.uri}", partial(_add_columns, home, place, table), again=UNKNOWN_OUTCOME)


def _add_columns(home: Home, place: Place, table: Table) -> None:
    # A write of a wider schema to a table without the column succeeds and hides the values (deltalake 1.6.6).
    handle = _opened(place)
    if handle is None:
        return
    missing = table.missing_in([column.name for column in handle.schema().fields])
    if missing:
        columns = Schema.from_arrow(pa.schema([table.schema.field(name) for name in missing])).fields
        said = _properties(home, [])
        handle.alter.add_columns(columns, commit_properties=said, post_commithook_properties=_HOOKS)


def _refuse_lost_files(home: Home, table: Table) -> None:
    # Rolled forward into a new table, these results would name files that nobody can read.
    results = (read_result(home, batch) for batch in planned_batches(home))
    named = {added.path for result in results if result for added in result.adds.get(table.name, ())}
    if not named <= set(keys_below(_place(home, table))):
        raise StateDamaged(
            f"The table {_place(home, table).uri} is gone, but {home.batches.uri} tells of batches in it; restore it, "
            f"or move {home.state.uri} away as well: then what lies in the landing and in no table is processed anew."
        )


def open_table(home: Home, table: Table) -> DeltaTable | None:
    """The table as it stands now, or None when it was never created.

    Raises StateDamaged when its log cannot be read, StorageRefused, StorageUnavailable.
    """
    place = _place(home, table)
    try:
        return persistently(f"open the table {place.uri}", lambda: _opened(place))
    except FileNotFoundError as error:
        raise StateDamaged(f"The table {place.uri} lacks a file of its log; restore it. {reason(error)}.") from error


def _opened(place: Place) -> DeltaTable | None:
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
                handle = _opened(_place(self._home, table))
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

        return persistently(f"open the table {_place(self._home, table).uri}", look)

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


def data_files(handle: DeltaTable) -> list[DataFile]:
    """The files of a table as the handle knows it, by path; partition values have their column's type."""
    files = pa.table(handle.get_add_actions(flatten=True)).sort_by("path").to_pylist()
    prefix = "partition."
    return [
        DataFile(
            path=file["path"],
            size_bytes=file["size_bytes"],
            rows=file["num_records"],
            partition={name.removeprefix(prefix): value for name, value in file.items() if name.startswith(prefix)},
            batches=None if file["min.batch"] is None else (file["min.batch"], file["max.batch"]),
            committed_at=datetime.fromtimestamp(file["modification_time"] / 1000, UTC),
        )
        for file in files
    ]


def names_all(handle: DeltaTable, files: Sequence[DataFile]) -> bool:
    """Whether the table, as the handle knows it, still has all of these files."""
    named = pa.table(handle.get_add_actions(flatten=True))["path"]
    wanted = pa.array([file.path for file in files], named.type)
    return bool(pc.all(pc.is_in(wanted, value_set=named)).as_py())


def read_file(home: Home, table: Table, path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of one file of a table, in the file's order, at most 2048 rows at a time.

    Only the bytes of those columns are fetched, and memory holds one row group of them. After a fault the file is
    opened again, and what was read before is passed over.
    Raises StorageRefused, StorageUnavailable, also when the file is gone, and StateDamaged when it is no parquet file.
    """
    place = _place(home, table)
    reading: Iterator[pa.RecordBatch] | None = None
    done = 0

    def next_rows() -> pa.RecordBatch | None:
        nonlocal reading
        reading = reading or itertools.islice(_rows_of(place, table, path, columns), done, None)
        try:
            return next(reading, None)
        except Exception:
            reading = None
            raise

    try:
        while (rows := persistently(f"read {place.uri_of(path)}", next_rows)) is not None:
            yield rows
            done += 1
    except FileNotFoundError as error:
        raise StorageUnavailable(f"Cannot read {place.uri_of(path)}: {error}.") from error


def _rows_of(place: Place, table: Table, path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    # What Delta has rewritten holds views of strings, which compute functions do not take.
    schema = pa.schema([table.schema.field(column) for column in columns])
    try:
        with _files_of(place).open_input_file(path) as file, pq.ParquetFile(file) as parquet:
            missing = set(table.missing_in(parquet.schema_arrow.names))
            there = [column for column in columns if column not in missing]
            for rows in parquet.iter_batches(READ_ROWS, columns=there, use_threads=False):
                nulls = {name: pa.nulls(rows.num_rows, schema.field(name).type) for name in missing & set(columns)}
                whole = {name: nulls[name] if name in nulls else rows[name] for name in columns}
                yield pa.RecordBatch.from_pydict(whole).cast(schema)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, pa.ArrowInvalid) or any(words in str(error) for words in _DAMAGE):
            raise StateDamaged(f"{place.uri_of(path)} cannot be read; restore it. {reason(error)}.") from error
        raise


@lru_cache(maxsize=8)
def _files_of(place: Place) -> pyarrow.fs.FileSystem:
    """One connection for all files of a table that this process reads."""
    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(place.table_location, place.table_options()))


def write_file(
    home: Home, table: Table, rows: Mapping[str, Sequence[Any] | pa.Array], partition: Mapping[str, str]
) -> AddedFile:
    """Write rows as one parquet file under a name never used before; nobody sees them until a commit adds the file.

    `rows` maps every column of the file (all but the partitions) to values of equal length; later columns may lack.
    Raises StorageRefused, StorageUnavailable; a file left by a failed attempt is never referenced.
    """
    count = len(next(iter(rows.values())))
    absent = {name: pa.nulls(count, table.schema.field(name).type) for name in table.missing_in(rows)}
    content = pa.table({**rows, **absent}, schema=table.file_schema)
    buffer = io.BytesIO()
    pq.write_table(content, buffer, compression="zstd", store_schema=False, use_dictionary=table.repeating_columns)
    path = _new_path(table, partition)
    place = _place(home, table)
    what = f"write {place.uri_of(path)}"
    persistently(what, lambda: obstore.put(place.store, path, buffer.getvalue()), again=UNKNOWN_OUTCOME)
    return AddedFile(path, buffer.tell(), content.num_rows, dict(partition), _statistics(table, content))


def write_large_file(
    home: Home, table: Table, parts: Callable[[], Iterable[pa.RecordBatch]], partition: Mapping[str, str]
) -> AddedFile:
    """The same for more rows than memory should hold: record batches of the file's columns, by way of a local file.

    Memory holds one row group. `parts` is called again when the local disk was full. Raises what `parts` raises,
    StorageRefused, StorageUnavailable.
    """
    path, place = _new_path(table, partition), _place(home, table)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.parquet")
        numbers = persistently(f"write {file}", lambda: _write_locally(file, table, parts()))
        size_bytes = file.stat().st_size
        upload(place, path, file)
    return AddedFile(path, size_bytes, numbers.num_rows, dict(partition), _statistics(table, numbers))


def _write_locally(file: Path, table: Table, parts: Iterable[pa.RecordBatch]) -> pa.Table:
    """The numbers among the columns, of which the log has statistics."""
    schema = table.file_schema
    repeating = table.repeating_columns
    measured: list[pa.Table] = []
    with pq.ParquetWriter(file, schema, compression="zstd", store_schema=False, use_dictionary=repeating) as writer:
        for rows in _row_groups(parts):
            writer.write_table(rows, ROW_GROUP_ROWS)
            measured.append(rows.select(table.statistics_columns))
    return pa.concat_tables(measured)


def _row_groups(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for rows in parts:
        waiting.append(rows)
        while sum(some.num_rows for some in waiting) >= ROW_GROUP_ROWS:
            together = pa.Table.from_batches(waiting)
            yield together.slice(0, ROW_GROUP_ROWS)
            waiting = together.slice(ROW_GROUP_ROWS).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting)


def _new_path(table: Table, partition: Mapping[str, str]) -> str:
    folders = "/".join(f"{column}={partition[column]}" for column in table.partitioned_by)
    return f"{folders}/part-{uuid.uuid4()}.zstd.parquet"


def commit(
    home: Home,
    table: Table,
    batch: int,
    nonce: str,
    adds: Sequence[AddedFile],
    tables: OpenTables | None = None,
    gone: Collection[RejectRow] = (),
) -> None:
    """Append a batch's files to a table in one Delta transaction, exactly once; rows of `rejects` in `gone` go with it.

    Replay, also by another process, finds the batch's transaction in the table and changes nothing. A file that holds
    rows of `gone` is rewritten without them; who replaced it meanwhile makes us look again.
    `tables` spares a writer of many batches reading the log for each. Raises AnotherStreamRunning when a rival
    committed this batch while we tried, StorageRefused, and StorageUnavailable at the deadline.
    Protocol: Delta Lake `txn` actions; check and commit go through one handle, so that a commit in between is refused.
    """
    place = _place(home, table)
    tables = tables or OpenTables(home)
    tried = False

    def commit_or_recognise() -> None:
        # After a fault it is unknown whether the write landed; the next look at the table tells.
        nonlocal tried
        with tables.latest(table) as handle:
            if tables.batch_of(table, handle) >= batch:
                if tried:
                    _recognise(home, handle, table, batch, nonce)
                return
            tried = True
            metadata = {"fruits.batch": str(batch), "fruits.nonce": nonce}
            handle = handle or _created(place, table)
            rewritten = _rewritten_without(home, handle, gone)
            _append(home, handle, table, Transaction(APPLICATION, batch), metadata, adds, rewritten)
            tables.committed(table, handle, batch)

    persistently(f"commit batch {batch} to {place.uri}", commit_or_recognise, again=UNKNOWN_OUTCOME)


def standing_rejects(home: Home, rows: Collection[RejectRow]) -> set[RejectRow]:
    """Those of some rows that `rejects` holds now; only files of their days and batches are read.

    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    wanted = set(rows)

    def look() -> set[RejectRow]:
        handle = _opened(_place(home, REJECT_ROWS))
        files = _files_around(handle, wanted) if handle is not None else []
        with _gone_files_as_faults():
            return {row for file in files for row in _rejects_in(home, file) if row in wanted}

    return persistently(f"read {_place(home, REJECT_ROWS).uri}", look, again=UNKNOWN_OUTCOME) if wanted else set()


def _rewritten_without(home: Home, handle: DeltaTable, gone: Collection[RejectRow]) -> list[_Rewritten]:
    rewritten: list[_Rewritten] = []
    with _gone_files_as_faults():
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
def _gone_files_as_faults() -> Iterator[None]:
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


def delete_rows(home: Home, table: Table, handle: DeltaTable, predicate: str, application: str) -> None:
    """Delete the rows that a predicate chooses, unless `application` has committed since the handle was opened.

    Of whole partitions only their files' names go. Replay finds nothing left to do. Raises HomeInUse when it has,
    StorageRefused and StorageUnavailable; the handle has served its turn then.
    Protocol: Delta Lake `txn` actions, through the handle that the decision was made by.
    """
    number = next_transaction(handle, application)
    try:
        handle.delete(
            predicate,
            commit_properties=_properties(home, [Transaction(application, number)]),
            post_commithook_properties=_HOOKS,
        )
    except CommitFailedError as error:
        raise HomeInUse(f"{_place(home, table).uri} was changed meanwhile; nothing was deleted. Try again.") from error
    except (DeltaError, OSError) as error:
        raise given_up(f"delete from {_place(home, table).uri}", error) from error


def replace_files(
    home: Home, table: Table, handle: DeltaTable, removed: Sequence[DataFile], added: AddedFile, application: str
) -> None:
    """Put one file that holds the same rows in the place of several of one partition, in one transaction.

    The files replaced stay on disk. Raises HomeInUse when `application` has committed since the handle was updated, or
    anybody has removed one of the files; StorageRefused and StorageUnavailable. Replay with the same files is refused.
    Protocol: Delta Lake `txn` actions, through the handle that the decision was made by. Without one, a rival that
    replaced the same files would go unnoticed, and their rows would be there twice (seen with deltalake 1.6.6).
    """
    number = next_transaction(handle, application)
    now_ms = int(time.time() * 1000)
    committed_at_ms = round(max(file.committed_at for file in removed).timestamp() * 1000)
    add = AddAction(added.path, added.size_bytes, added.partition, committed_at_ms, False, added.statistics)
    removes = [RemoveAction(file.path, False, now_ms, file.size_bytes, dict(added.partition)) for file in removed]
    try:
        handle.create_write_transaction(
            [add, *removes],
            mode="append",
            schema=table.schema,
            partition_by=list(table.partitioned_by),
            commit_properties=_properties(home, [Transaction(application, number)]),
            post_commithook_properties=_HOOKS,
        )
    except CommitFailedError as error:
        raise HomeInUse(f"{_place(home, table).uri} was changed meanwhile; nothing was replaced. Try again.") from error
    except (DeltaError, OSError) as error:
        raise given_up(f"replace files of {_place(home, table).uri}", error) from error


def next_transaction(handle: DeltaTable, application: str) -> int:
    """The number of the next commit by an application to a table, as the handle knows it."""
    return (handle.transaction_version(application) or 0) + 1


def take_rows_away(
    home: Home,
    table: Table,
    handle: DeltaTable,
    rewritten: Sequence[_Rewritten],
    applications: Sequence[str],
) -> None:
    """Put files with fewer rows, or none, in the place of others of their partitions, in one transaction.

    The log then names files and numbers, and nothing of the rows. The files replaced stay on disk. Raises HomeInUse
    when one of the applications has committed since the handle was updated, or anybody has removed one of the files;
    StorageRefused and StorageUnavailable. Replay with the same files is refused.
    Protocol: as `replace_files`.
    """
    transactions = [Transaction(application, next_transaction(handle, application)) for application in applications]
    try:
        handle.create_write_transaction(
            list(_replacing(rewritten)),
            mode="append",
            schema=table.schema,
            partition_by=list(table.partitioned_by),
            commit_properties=_properties(home, transactions),
            post_commithook_properties=_HOOKS,
        )
    except CommitFailedError as error:
        raise HomeInUse(f"{_place(home, table).uri} was changed meanwhile; nothing was removed. Try again.") from error
    except (DeltaError, OSError) as error:
        raise given_up(f"remove rows from {_place(home, table).uri}", error) from error


def shorten_log(home: Home, table: Table) -> None:
    """Write a checkpoint, and delete what the log holds of versions older than a day.

    Who opened the table before reads on, and its next look or commit finds the newest version by the checkpoint.
    Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """
    place = _place(home, table)

    def shorten() -> None:
        handle = _opened(place)
        if handle is None:
            return
        standing = handle.metadata().configuration
        if any(standing.get(name) != value for name, value in RETENTION.items()):
            # Tables that were made before these were set. A commit at the same moment is refused once, and tried again.
            said = _properties(home, [])
            handle.alter.set_table_properties(RETENTION, commit_properties=said, post_commithook_properties=_HOOKS)
            handle = _opened(place) or handle
        handle.create_checkpoint()
        handle.cleanup_metadata()

    persistently(f"shorten the log of {place.uri}", shorten, again=UNKNOWN_OUTCOME)


def unreferenced_files(home: Home, table: Table) -> list[str]:
    """The files below a table that no version names since a day, nor ever did and are older; the log is none of them.

    Among them may be files of a batch that has its result and waits to be committed.
    Raises StorageRefused, StorageUnavailable.
    """
    hours = int(UNREFERENCED_KEPT.total_seconds() // 3600)

    def look() -> list[str]:
        handle = _opened(_place(home, table))
        if handle is None:
            return []
        return handle.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)

    return persistently(f"list {_place(home, table).uri}", look)


def append_once(
    home: Home,
    table: Table,
    application: str,
    adds: Sequence[AddedFile],
    metadata: Mapping[str, str],
    there_already: Callable[[DeltaTable], bool],
) -> bool:
    """Append files in one transaction unless the table holds what they bring, and say whether it was appended now.

    A lost answer counts as not appended. Raises StorageRefused, and StorageUnavailable at the deadline.
    Protocol: as `commit`; appends by one application number themselves, so of two at once one is refused and looks
    again.
    """
    place = _place(home, table)

    def append_unless_there() -> bool:
        handle = _opened(place) or _created(place, table)
        if there_already(handle):
            return False
        number = next_transaction(handle, application)
        _append(home, handle, table, Transaction(application, number), metadata, adds)
        return True

    return persistently(f"append to {place.uri}", append_unless_there, again=UNKNOWN_OUTCOME)


def _properties(
    home: Home, transactions: list[Transaction], metadata: Mapping[str, str] | None = None
) -> CommitProperties:
    said = dict(metadata or {})
    if home.landing.name is not None:
        said[LANDINGS_SAID] = json.dumps([(one.source, home.location_of(one)) for one in home.landings])
    return CommitProperties(custom_metadata=said, app_transactions=transactions)


def _append(
    home: Home,
    handle: DeltaTable,
    table: Table,
    transaction: Transaction,
    metadata: Mapping[str, str],
    adds: Sequence[AddedFile],
    rewritten: Sequence[_Rewritten] = (),
) -> None:
    now_ms = int(time.time() * 1000)
    added = [AddAction(f.path, f.size_bytes, f.partition, now_ms, True, f.statistics) for f in adds]
    transactions = [transaction]
    if rewritten:
        # Maintenance that replaces the same files at the same time would go unnoticed otherwise, and their rows would
        # be there twice (seen with deltalake 1.6.6).
        transactions.append(Transaction(MAINTENANCE, next_transaction(handle, MAINTENANCE)))
    handle.create_write_transaction(
        [*added, *_replacing(rewritten)],
        mode="append",
        schema=table.schema,
        partition_by=list(table.partitioned_by),
        commit_properties=_properties(home, transactions, metadata),
        post_commithook_properties=_HOOKS,
    )


def _replacing(rewritten: Iterable[_Rewritten]) -> Iterator[AddAction | RemoveAction]:
    now_ms = int(time.time() * 1000)
    for file, added in rewritten:
        partition: dict[str, str | None] = {column: str(value) for column, value in file.partition.items()}
        yield RemoveAction(file.path, True, now_ms, file.size_bytes, partition)
        if added is not None:
            # Compaction is to see when its rows came.
            came_ms = round(file.committed_at.timestamp() * 1000)
            yield AddAction(added.path, added.size_bytes, added.partition, came_ms, True, added.statistics)


def _recognise(home: Home, handle: DeltaTable | None, table: Table, batch: int, nonce: str) -> None:
    history = handle.history(_HISTORY_SEARCHED) if handle is not None else []
    owner = next((entry.get("fruits.nonce") for entry in history if entry.get("fruits.batch") == str(batch)), None)
    if owner != nonce:
        raise AnotherStreamRunning(
            f"Another stream works on this home: it committed batch {batch} to {_place(home, table).uri} first. "
            "Stop one of the two; nothing was lost or doubled."
        )


def _created(place: Place, table: Table) -> DeltaTable:
    return DeltaTable.create(
        place.table_location,
        schema=table.schema,
        mode="ignore",
        partition_by=list(table.partitioned_by),
        name=table.name,
        configuration={"delta.dataSkippingStatsColumns": ",".join(table.statistics_columns)} | RETENTION,
        storage_options=place.table_options(),
    )


def _place(home: Home, table: Table) -> Place:
    return home.root.child(table.name)


def _statistics(table: Table, content: pa.Table) -> str:
    lowest, highest, nulls = {}, {}, {}
    for column in table.statistics_columns:
        extremes = pc.min_max(content[column]).as_py()
        nulls[column] = content[column].null_count
        if extremes["min"] is not None:
            lowest[column], highest[column] = _json_value(extremes["min"]), _json_value(extremes["max"])
    return json.dumps({"numRecords": content.num_rows, "minValues": lowest, "maxValues": highest, "nullCount": nulls})


def _json_value(value: int | datetime | date) -> int | str:
    return value if isinstance(value, int) else value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def vectors_column(vectors: NDArray[np.float32]) -> pa.Array:
    """(n, d) float32 as a column of n lists."""
    rows, width = vectors.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel()))
