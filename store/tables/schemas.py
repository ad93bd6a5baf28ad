"""The tables analysts query: their columns, their partitions, and what their log may say."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from store.home import Home
from store.objects.location import StorageLocation

# Columns that tables got later: files written before lack them, and their values there are null.
FIRST_VISIBLE = "first_visible_at"
ANSWER_COLUMNS = ("answer", "answer_confidence", "answer_version")
NAME_COLUMNS = ("predicted", "confidence", "top3", "distance", "novelty", "in_fit")
LATER_COLUMNS = {FIRST_VISIBLE, *ANSWER_COLUMNS, *NAME_COLUMNS}
READ_ROWS = 2048
# 40 MB of features: what a writer of a large file and a reader of it hold at a time.
ROW_GROUP_ROWS = 8192
# The same of copies, of 40 to 75 KB each: some 4 MB, so that one picture costs little to look up.
COPY_ROW_GROUP_ROWS = 64
INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, and which of them are partition folders."""

    name: str
    schema: pa.Schema
    partitioned_by: tuple[str, ...]
    row_group_rows: int = ROW_GROUP_ROWS

    @property
    def file_schema(self) -> pa.Schema:
        """The columns inside a file: all but the partitions."""
        return pa.schema([column for column in self.schema if column.name not in self.partitioned_by])

    @property
    def repeating_columns(self) -> list[str]:
        """All but vectors and pictures: a dictionary of what hardly ever repeats costs more than it saves."""
        is_dense = (pa.types.is_list, pa.types.is_binary)
        return [column.name for column in self.file_schema if not any(is_kind(column.type) for is_kind in is_dense)]

    @property
    def compression(self) -> str | dict[str, str]:
        """How each column of a file is compressed; a JPEG only costs time."""
        if not any(pa.types.is_binary(column.type) for column in self.file_schema):
            return "zstd"
        kinds = {column.name: column.type for column in self.file_schema}
        return {name: "none" if pa.types.is_binary(kind) else "zstd" for name, kind in kinds.items()}

    @property
    def statistics_columns(self) -> list[str]:
        """Numbers and times only: a string can name a person, and the log outlives the row.

        No later columns: to deltalake a file without statistics of a column that has some elsewhere would be empty.
        """
        kinds = (pa.types.is_integer, pa.types.is_timestamp)
        columns = [column for column in self.file_schema if column.name not in LATER_COLUMNS]
        return [column.name for column in columns if any(is_kind(column.type) for is_kind in kinds)]

    def missing_in(self, names: Collection[str]) -> list[str]:
        """The later columns that a file or a table with columns of these names lacks."""
        return [column.name for column in self.schema if column.name in LATER_COLUMNS and column.name not in names]


FEATURE_ROWS = Table(
    "features",
    pa.schema(
        [
            ("image_id", pa.string()),
            ("source", pa.string()),
            ("etag", pa.string()),
            ("bytes", pa.int64()),
            ("arrived_at", INSTANT),
            ("label", pa.string()),
            ("subject", pa.string()),
            ("format", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("features", pa.list_(pa.float32())),
            ("featurizer", pa.string()),
            ("batch", pa.int64()),
            ("ingested_at", INSTANT),
            ("ingest_date", pa.date32()),
            (FIRST_VISIBLE, INSTANT),
            ("answer", pa.string()),
            ("answer_confidence", pa.float32()),
            ("answer_version", pa.int32()),
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
            ("arrived_at", INSTANT),
            ("pca", pa.list_(pa.float32())),
            ("featurizer", pa.string()),
            ("batch", pa.int64()),
            ("ingested_at", INSTANT),
            ("pca_version", pa.int32()),
            ("ingest_date", pa.date32()),
            ("predicted", pa.string()),
            ("confidence", pa.float32()),
            ("top3", pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32())]))),
            ("distance", pa.float32()),
            ("novelty", pa.float32()),
            ("in_fit", pa.bool_()),
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
            ("arrived_at", INSTANT),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("batch", pa.int64()),
            ("ingested_at", INSTANT),
            ("ingest_date", pa.date32()),
            (FIRST_VISIBLE, INSTANT),
        ]
    ),
    ("ingest_date",),
)
# Small pictures without metadata, from which features can be made again.
COPY_ROWS = Table(
    "copies",
    pa.schema(
        [
            ("image_id", pa.string()),
            ("source", pa.string()),
            ("etag", pa.string()),
            ("jpeg", pa.binary()),
            ("arrived_at", INSTANT),
            ("batch", pa.int64()),
            ("ingest_date", pa.date32()),
        ]
    ),
    ("ingest_date",),
    COPY_ROW_GROUP_ROWS,
)
# Those of batches that each home has.
TABLES = (FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS)
# In the order in which a batch is committed to them. A home has `copies` once copies were asked for.
COMMIT_ORDER = (FEATURE_ROWS, PROJECTION_ROWS, COPY_ROWS, REJECT_ROWS)
# What people said of photos: no part of a batch, so no part of its commit.
LABEL_ROWS = Table(
    "labels",
    pa.schema(
        [
            ("image_id", pa.string()),
            ("label", pa.string()),
            ("origin", pa.string()),
            ("said_at", INSTANT),
            ("said_by", pa.string()),
            ("ingest_date", pa.date32()),
        ]
    ),
    ("ingest_date",),
)
# Those that each home has.
ALL_TABLES = (*TABLES, LABEL_ROWS)


def table_location(home: Home, table: Table) -> StorageLocation:
    """Where a table lies."""
    return home.root.child(table.name)
