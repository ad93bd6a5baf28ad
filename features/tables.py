"""The tables analysts query: parquet under a Delta log, appended to exactly once per batch."""

import io
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache, partial
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from numpy.typing import NDArray

from features.errors import AnotherStreamRunning, HomeInUse, StateDamaged, StorageUnavailable
from features.faults import UNKNOWN_OUTCOME, given_up, persistently, reason
from features.home import Home
from features.objects import Place
from features.plan import AddedFile

APPLICATION = "fruits"

READ_ROWS = 2048

_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_INSTANT = pa.timestamp("us", tz="UTC")
_HISTORY_SEARCHED = 200
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
    def statistics_columns(self) -> list[str]:
        """Numbers and times only: a string can name a person, and the log outlives the row."""
        kinds = (pa.types.is_integer, pa.types.is_timestamp)
        return [column.name for column in self.file_schema if any(is_kind(column.type) for is_kind in kinds)]


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
        ]
    ),
    ("ingest_date",),
)


@dataclass(frozen=True)
class DataFile:
    """One parquet file of a table as its log knows it.

    `batches` are the lowest and the highest number inside; None when whoever wrote the file left no statistics.
    """

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, Any]
    batches: tuple[int, int] | None


# In the order in which a batch is committed to them.
TABLES = (FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS)


def create_tables(home: Home) -> None:
    """Create the tables that do not exist yet. Replay changes nothing. Raises StorageRefused, StorageUnavailable."""
    for table in TABLES:
        if open_table(home, table) is None:
            place = _place(home, table)
            create = partial(_created, place, table)
            persistently(f"create the table {place.uri}", create, again=UNKNOWN_OUTCOME)


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
        )
        for file in files
    ]


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
            for rows in parquet.iter_batches(READ_ROWS, columns=list(columns), use_threads=False):
                yield rows.select(list(columns)).cast(schema)
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

    `rows` maps every column of the file (all but the partitions) to values of equal length.
    Raises StorageRefused, StorageUnavailable; a file left by a failed attempt is never referenced.
    """
    content = pa.table(dict(rows), schema=table.file_schema)
    buffer = io.BytesIO()
    pq.write_table(content, buffer, compression="zstd", store_schema=False)
    folders = "/".join(f"{column}={partition[column]}" for column in table.partitioned_by)
    path = f"{folders}/part-{uuid.uuid4()}.zstd.parquet"
    place = _place(home, table)
    what = f"write {place.uri_of(path)}"
    persistently(what, lambda: obstore.put(place.store, path, buffer.getvalue()), again=UNKNOWN_OUTCOME)
    return AddedFile(path, buffer.tell(), content.num_rows, dict(partition), _statistics(table, content))


def commit(home: Home, table: Table, batch: int, nonce: str, adds: Sequence[AddedFile]) -> None:
    """Append a batch's files to a table in one Delta transaction, exactly once.

    Replay, also by another process, finds the batch's transaction in the table and changes nothing.
    Raises AnotherStreamRunning when a rival committed this batch while we tried, StorageRefused, and
    StorageUnavailable at the deadline.
    Protocol: Delta Lake `txn` actions; check and commit go through one handle, so that a commit in between is refused.
    """
    place = _place(home, table)
    tried = False

    def commit_or_recognise() -> None:
        # After a fault it is unknown whether the write landed; the next look at the table tells.
        nonlocal tried
        handle = _opened(place)
        if committed_batch(handle) >= batch:
            if tried:
                _recognise(home, handle, table, batch, nonce)
            return
        tried = True
        metadata = {"fruits.batch": str(batch), "fruits.nonce": nonce}
        _append(handle or _created(place, table), table, Transaction(APPLICATION, batch), metadata, adds)

    persistently(f"commit batch {batch} to {place.uri}", commit_or_recognise, again=UNKNOWN_OUTCOME)


def delete_rows(home: Home, table: Table, handle: DeltaTable, predicate: str, application: str) -> None:
    """Delete the rows that a predicate chooses, unless `application` has committed since the handle was opened.

    Of whole partitions only their files' names go. Replay finds nothing left to do. Raises HomeInUse when it has,
    StorageRefused and StorageUnavailable; the handle has served its turn then.
    Protocol: Delta Lake `txn` actions, through the handle that the decision was made by.
    """
    number = (handle.transaction_version(application) or 0) + 1
    try:
        handle.delete(
            predicate,
            commit_properties=CommitProperties(app_transactions=[Transaction(application, number)]),
            post_commithook_properties=_HOOKS,
        )
    except CommitFailedError as error:
        raise HomeInUse(f"{_place(home, table).uri} was changed meanwhile; nothing was deleted. Try again.") from error
    except (DeltaError, OSError) as error:
        raise given_up(f"delete from {_place(home, table).uri}", error) from error


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
        number = (handle.transaction_version(application) or 0) + 1
        _append(handle, table, Transaction(application, number), metadata, adds)
        return True

    return persistently(f"append to {place.uri}", append_unless_there, again=UNKNOWN_OUTCOME)


def _append(
    handle: DeltaTable, table: Table, transaction: Transaction, metadata: Mapping[str, str], adds: Sequence[AddedFile]
) -> None:
    now_ms = int(time.time() * 1000)
    handle.create_write_transaction(
        [AddAction(f.path, f.size_bytes, f.partition, now_ms, True, f.statistics) for f in adds],
        mode="append",
        schema=table.schema,
        partition_by=list(table.partitioned_by),
        commit_properties=CommitProperties(
            custom_metadata=dict(metadata),
            app_transactions=[transaction],
        ),
        post_commithook_properties=_HOOKS,
    )


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
        configuration={"delta.dataSkippingStatsColumns": ",".join(table.statistics_columns)},
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
