"""The parquet files of a table: read column by column, written under names never used before."""

import io
import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from numpy.typing import NDArray

from store.errors import StateDamaged, StorageUnavailable
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, reason, retry_storage
from store.objects.location import StorageLocation
from store.objects.operations import overwrite, read_if_exists
from store.state.plans import AddedFile
from store.tables.schemas import COPY_ROWS, READ_ROWS, Table, table_location

# How the name of a file begins, unless all its rows are of one featurizer: then it begins with that one.
_ANY_NETWORK = "part"

# pyarrow raises OSError for damage, too.
_DAMAGE = (
    *("Couldn't deserialize thrift", "Unexpected end of stream", "Invalid flatbuffers", "decompression failed"),
    "CRC checksum verification failed",
)


@dataclass(frozen=True)
class DataFile:
    """One parquet file of a table as its log knows it.

    `batches` are the lowest and the highest number inside; None for a file without statistics. `committed_at` is when
    the last of its rows came to the table.
    """

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, Any]
    batches: tuple[int, int] | None
    committed_at: datetime

    @property
    def network(self) -> str | None:
        """The featurizer of all rows of a file of features, by its name; None where only its rows tell."""
        name = self.path.rpartition("/")[2].partition("-")[0]
        return None if name == _ANY_NETWORK else name

    def may_hold(self, featurizer: str) -> bool:
        """Whether a file of features has rows of a featurizer, as far as its name tells."""
        return self.network in (None, featurizer)

    @property
    def partition_folders(self) -> dict[str, str]:
        """The partition's values as the names of its folders have them."""
        return {column: str(value) for column, value in self.partition.items()}


# A file, and the file with fewer rows that replaces it; None when no row is left.
Replacement = tuple[DataFile, AddedFile | None]


def data_files(handle: DeltaTable | None, ingest_date: date | None = None) -> list[DataFile]:
    """The files of a table as the handle knows it, by path, all or one day's; partition values have their type."""
    if handle is None:
        return []
    prefix = "partition."
    found = pa.table(handle.get_add_actions(flatten=True))
    if ingest_date is not None:
        found = found.filter(pc.equal(found[f"{prefix}ingest_date"], ingest_date))
    files = found.sort_by("path").to_pylist()
    return [
        DataFile(
            path=file["path"],
            size_bytes=file["size_bytes"],
            rows=file["num_records"],
            partition={name.removeprefix(prefix): value for name, value in file.items() if name.startswith(prefix)},
            batches=None if file.get("min.batch") is None else (file["min.batch"], file["max.batch"]),
            committed_at=datetime.fromtimestamp(file["modification_time"] / 1000, UTC),
        )
        for file in files
    ]


def has_files(handle: DeltaTable, files: Sequence[DataFile]) -> bool:
    """Whether the table, as the handle knows it, still has all of these files."""
    paths = pa.table(handle.get_add_actions(flatten=True))["path"]
    return bool(pc.all(pc.is_in(pa.array([file.path for file in files], paths.type), value_set=paths)).as_py())


def read_file(
    home: Home, table: Table, path: str, columns: Sequence[str], places: NDArray[np.int64] | None = None
) -> Iterator[pa.RecordBatch]:
    """Some columns of one file of a table, in the file's order, at most 2048 rows at a time.

    With `places`, the numbers of some rows in ascending order, only these come. Only the bytes of those columns are
    fetched, of row groups that have such rows, and memory holds one row group of them. After a fault the file is opened
    again, and the parts that were read before are skipped.
    Raises StorageRefused, StorageUnavailable, also when the file is gone, and StateDamaged when it is no parquet file.
    """
    location = table_location(home, table)
    parts: Iterator[pa.RecordBatch] | None = None
    done = 0

    def next_part() -> pa.RecordBatch | None:
        nonlocal parts
        parts = parts or itertools.islice(_rows_of(location, table, path, columns, places), done, None)
        try:
            return next(parts, None)
        except Exception:
            parts = None
            raise

    try:
        while (rows := retry_storage(f"read {location.uri_of(path)}", next_part)) is not None:
            yield rows
            done += 1
    except FileNotFoundError as error:
        raise StorageUnavailable(f"Cannot read {location.uri_of(path)}: {error}.") from error


def rows_of_sources(
    handle: DeltaTable, columns: Sequence[str], which: pc.Expression, sources: Collection[str]
) -> Iterator[pa.RecordBatch]:
    """Some columns, `source` among them, of the rows of some sources, of files in which there may be `which` rows.

    `which` goes by numbers, times and days: what Delta has rewritten holds views of strings, which filters do not take.
    One try; what storage fails of is raised as the library raises it.
    """
    named = pa.array(sorted(sources), pa.string())
    for rows in handle.to_pyarrow_dataset().scanner(list(columns), filter=which).to_batches():
        yield rows.filter(pc.is_in(rows["source"].cast(pa.string()), value_set=named))


def read_small_file(home: Home, table: Table, path: str, columns: Sequence[str]) -> list[pa.RecordBatch] | None:
    """The same with one request for the whole file, as a task wrote it; None when the file is gone.

    Raises as `read_file`.
    """
    location = table_location(home, table)
    body = read_if_exists(location, path)
    return None if body is None else list(_rows_in(pa.BufferReader(body), location, table, path, columns, None))


@contextmanager
def missing_files_as_faults() -> Iterator[None]:
    """For `retry_storage` around a look at a table and a read of its files: a file that is gone is a fault.

    An erasure deletes files at once; the next look at the table finds what replaced them.
    """
    try:
        yield
    except StorageUnavailable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


def _rows_of(
    location: StorageLocation, table: Table, path: str, columns: Sequence[str], places: NDArray[np.int64] | None
) -> Iterator[pa.RecordBatch]:
    with _file_system(location).open_input_file(path) as file:
        yield from _rows_in(file, location, table, path, columns, places)


def _rows_in(
    file: pa.NativeFile,
    location: StorageLocation,
    table: Table,
    path: str,
    columns: Sequence[str],
    places: NDArray[np.int64] | None,
) -> Iterator[pa.RecordBatch]:
    # What Delta has rewritten holds views of strings, which compute functions do not take.
    schema = pa.schema([table.schema.field(column) for column in columns])
    try:
        # Files of tables whose pages have no checksums are read as they are.
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            missing = set(table.missing_in(parquet.schema_arrow.names))
            in_file = [column for column in columns if column not in missing]
            for rows in _batches_of(parquet, in_file, places, min(READ_ROWS, table.row_group_rows)):
                nulls = {name: pa.nulls(rows.num_rows, schema.field(name).type) for name in missing & set(columns)}
                complete = {name: nulls[name] if name in nulls else rows[name] for name in columns}
                yield pa.RecordBatch.from_pydict(complete).cast(schema)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, pa.ArrowInvalid) or any(words in str(error) for words in _DAMAGE):
            raise StateDamaged(f"{location.uri_of(path)} cannot be read; restore it. {reason(error)}.") from error
        raise


def _batches_of(
    parquet: pq.ParquetFile, columns: Sequence[str], places: NDArray[np.int64] | None, most_rows: int
) -> Iterator[pa.RecordBatch]:
    if places is None:
        yield from parquet.iter_batches(most_rows, columns=columns, use_threads=False)
        return
    first = 0
    for group in range(parquet.num_row_groups):
        end = first + parquet.metadata.row_group(group).num_rows
        if (np.searchsorted(places, [first, end]) @ [-1, 1]) > 0:
            for rows in parquet.iter_batches(most_rows, row_groups=[group], columns=columns, use_threads=False):
                start, stop = np.searchsorted(places, [first, first + rows.num_rows])
                if start < stop:
                    yield rows.take(pa.array(places[start:stop] - first))
                first += rows.num_rows
        first = end


@lru_cache(maxsize=8)
def _file_system(location: StorageLocation) -> pyarrow.fs.FileSystem:
    """One connection for all files of a table that this process reads."""
    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(location.deltalake_uri, location.table_options()))


def write_file(
    home: Home,
    table: Table,
    rows: Mapping[str, Sequence[Any] | pa.Array],
    partition: Mapping[str, str],
    network: str | None = None,
) -> AddedFile:
    """Write rows as one parquet file under a name never used before; nobody sees them until a commit adds the file.

    `rows` maps every column of the file (all but the partitions) to values of equal length; later columns may be
    missing. `network` is the featurizer of all of them, which the file's
    name will tell. Raises StorageRefused, StorageUnavailable; a file left by a failed attempt is never referenced.
    """
    count = len(next(iter(rows.values())))
    nulls = {name: pa.nulls(count, table.schema.field(name).type) for name in table.missing_in(rows)}
    content = pa.table({**rows, **nulls}, schema=table.file_schema)
    buffer = io.BytesIO()
    pq.write_table(content, buffer, **_options(table))
    path, location = _new_path(table, partition, network), table_location(home, table)
    what = f"write {location.uri_of(path)}"
    retry_storage(what, lambda: obstore.put(location.store, path, buffer.getvalue()), again=UNKNOWN_OUTCOME)
    return AddedFile(path, buffer.tell(), content.num_rows, dict(partition), _statistics(table, content))


def write_large_file(
    home: Home,
    table: Table,
    parts: Callable[[], Iterable[pa.RecordBatch]],
    partition: Mapping[str, str],
    network: str | None = None,
) -> AddedFile:
    """The same for more rows than memory should hold: record batches of the file's columns, through a local file.

    Memory holds one row group. `parts` is called again if the local disk was full. Raises as `parts` and `write_file`.
    """
    path, location = _new_path(table, partition, network), table_location(home, table)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.parquet")
        numbers = retry_storage(f"write {file}", lambda: _write_locally(file, table, parts()))
        size_bytes = file.stat().st_size
        overwrite(location, path, file)
    return AddedFile(path, size_bytes, numbers.num_rows, dict(partition), _statistics(table, numbers))


def rewrite_file(
    home: Home, table: Table, file: DataFile, keep: Callable[[pa.RecordBatch], pa.BooleanArray]
) -> AddedFile:
    """Write a file of a table again with the rows that `keep` marks. Raises as `write_large_file`."""

    def kept() -> Iterator[pa.RecordBatch]:
        for rows in read_file(home, table, file.path, table.file_schema.names):
            yield rows.filter(keep(rows))

    return write_large_file(home, table, kept, file.partition_folders, file.network)


def _write_locally(file: Path, table: Table, parts: Iterable[pa.RecordBatch]) -> pa.Table:
    """Write the rows, and return their columns of which the log has statistics."""
    numbers: list[pa.Table] = []
    with pq.ParquetWriter(file, table.file_schema, **_options(table)) as writer:
        for rows in _row_groups(parts, table.row_group_rows):
            writer.write_table(rows, table.row_group_rows)
            numbers.append(rows.select(table.statistics_columns))
    return pa.concat_tables(numbers)


def _options(table: Table) -> dict[str, Any]:
    options = {"compression": table.compression, "use_dictionary": table.repeating_columns, "store_schema": False}
    if table is COPY_ROWS:
        # Readers of pictures go by the day; the smallest and the largest of a group's pictures would be a copy of both.
        # A damaged picture can look like another one, and nothing is left to compare it with.
        options |= {"write_statistics": table.statistics_columns, "write_page_checksum": True}
    return options


def _row_groups(parts: Iterable[pa.RecordBatch], most_rows: int) -> Iterator[pa.Table]:
    buffered: list[pa.RecordBatch] = []
    for rows in parts:
        buffered.append(rows)
        while sum(some.num_rows for some in buffered) >= most_rows:
            together = pa.Table.from_batches(buffered)
            yield together.slice(0, most_rows)
            buffered = together.slice(most_rows).to_batches()
    if buffered:
        yield pa.Table.from_batches(buffered)


def _new_path(table: Table, partition: Mapping[str, str], network: str | None) -> str:
    folders = "/".join(f"{column}={partition[column]}" for column in table.partitioned_by)
    return f"{folders}/{network or _ANY_NETWORK}-{uuid.uuid4()}.zstd.parquet"


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
