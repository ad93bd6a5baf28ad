"""The rows of the report's own queries."""

from typing import Any

import duckdb


def only_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The row of a query that gives one."""
    (row,) = all_rows(connection, sql)
    return row


def all_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as plain values; times have a zone."""
    # DuckDB itself gives times with a zone only where pytz is installed.
    return list(zip(*(column.to_pylist() for column in connection.sql(sql).to_arrow_table().columns), strict=True))
