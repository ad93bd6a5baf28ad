"""Queries over the tables of a home, on this machine: the local Athena."""

import duckdb
import pyarrow as pa

from features.errors import FruitsError
from features.home import Home
from features.tables import TABLES, open_table


class InvalidQuery(FruitsError):
    """A query that cannot be run as written."""


def connect(home: Home) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in which `features`, `projections` and `rejects` are the home's tables as they stand now.

    Filters on partitions, numbers and times skip files.
    Raises InvalidQuery when the home has no tables yet, StorageUnavailable.
    """
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for table in TABLES:
        handle = open_table(home, table)
        if handle is None:
            raise InvalidQuery(f"{home.root.uri} has no table {table.name} yet; check --home, or run `fruits stream`.")
        connection.register(table.name, handle.to_pyarrow_dataset())
    return connection


def run_query(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The rows a query gives. Raises InvalidQuery with the database's own words."""
    try:
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise InvalidQuery(str(error).strip()) from error
