"""Queries over the tables of a home, on this machine: the local Athena."""

from dataclasses import dataclass

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from features.errors import FruitsError
from features.home import Home
from features.pca_models import Current, current_models
from features.tables import PROJECTION_ROWS, TABLES, Table, open_table

CURRENT_PROJECTIONS = "current_projections"


class InvalidQuery(FruitsError):
    """A query that cannot be run as written."""


def connect(home: Home) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in which `features`, `projections` and `rejects` are the home's tables as they stand now.

    The view `current_projections` is the projections with the served PCA model. Filters on partitions, numbers and
    times skip files. Raises InvalidQuery when the home has no tables yet, StorageUnavailable.
    """
    return connect_to(take_snapshot(home))


def connect_to(snapshot: "Snapshot") -> duckdb.DuckDBPyConnection:
    """The same for the tables of one moment."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, handle in snapshot.tables.items():
        connection.register(name, handle.to_pyarrow_dataset())
    # No version is negative: nothing is served before the first switch.
    serving = -1 if snapshot.models.serving is None else snapshot.models.serving
    connection.execute(
        f"CREATE VIEW {CURRENT_PROJECTIONS} AS SELECT * FROM {PROJECTION_ROWS.name} WHERE pca_version = {serving}"
    )
    return connection


@dataclass(frozen=True)
class Snapshot:
    """The tables by name as they stood at one moment, and the models that were served then."""

    tables: dict[str, DeltaTable]
    models: Current


def take_snapshot(home: Home) -> Snapshot:
    """The tables and the served model of one moment. Raises InvalidQuery when a table is missing."""
    while True:
        # A switch ends, and old versions are pruned, between one look and the next.
        models = current_models(home)
        tables = {table.name: _opened(home, table) for table in reversed(TABLES)}
        if current_models(home) == models:
            return Snapshot(tables, models)


def _opened(home: Home, table: Table) -> DeltaTable:
    handle = open_table(home, table)
    if handle is None:
        raise InvalidQuery(f"{home.root.uri} has no tables yet; check --home, or run `fruits stream`.")
    return handle


def run_query(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The rows a query gives. Raises InvalidQuery with the database's own words."""
    try:
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise InvalidQuery(str(error).strip()) from error
