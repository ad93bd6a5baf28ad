"""Queries on Athena, over the tables of a stage on AWS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from bootstrap.aws.athena import run_statement
from bootstrap.aws.cloud import Cloud
from ops.query.named_queries import Value
from store.aws import aws_call

if TYPE_CHECKING:
    from types_boto3_athena.type_defs import ResultSetTypeDef


@dataclass(frozen=True)
class Answer:
    """The rows of a query, and how much Athena read and charges for."""

    rows: pa.Table
    scanned_bytes: int


def run_on_athena(cloud: Cloud, name: str, sql: str, values: Sequence[Value] = ()) -> Answer:
    """Run a query, called `name` in errors, in the stage's database and work group, its `?` bound to values.

    Columns have their types; arrays, maps and rows are text, as Athena writes them. All rows are held in memory.
    Raises AthenaRefused with Athena's own reason, CloudRefused, CloudUnavailable.
    """
    with aws_call(f"run {name}"):
        execution = run_statement(
            cloud.athena, database_of(cloud), cloud.stack_name, name, sql, [_literal(value) for value in values]
        )
        pages = cloud.athena.get_paginator("get_query_results").paginate(QueryExecutionId=execution["QueryExecutionId"])
        rows = _table([page["ResultSet"] for page in pages])
    return Answer(rows, execution.get("Statistics", {}).get("DataScannedInBytes", 0))


def database_of(cloud: Cloud) -> str:
    """The stage's database, as the stack names it: an analyst may not ask the stack."""
    return f"fruits_{cloud.stage}"


def _literal(value: Value) -> str:
    # Athena puts these in the place of the question marks, as SQL.
    # Python's booleans are integers.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return f"CAST('{value.isoformat()}' AS date)"
    if isinstance(value, float):
        # Without an exponent it would be a decimal.
        return f"{value}e0" if "e" not in str(value) else str(value)
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _table(pages: Sequence["ResultSetTypeDef"]) -> pa.Table:
    columns = pages[0].get("ResultSetMetadata", {}).get("ColumnInfo", [])
    names = [column["Name"] for column in columns]
    rows = [
        [cell.get("VarCharValue") for cell in row.get("Data", [])] for page in pages for row in page.get("Rows", [])
    ]
    # A SELECT's first row repeats the names; SHOW and DESCRIBE have none such.
    if rows and rows[0] == names:
        del rows[0]
    arrays = []
    for number, column in enumerate(columns):
        kind, parse = _TYPES.get(column["Type"], (pa.string(), str))
        if column["Type"] == "decimal":
            kind, parse = pa.decimal128(column.get("Precision", 38), column.get("Scale", 0)), Decimal
        texts = (row[number] for row in rows)
        arrays.append(pa.array([None if text is None else parse(text) for text in texts], kind))
    return pa.Table.from_arrays(arrays, names)


def _instant(text: str) -> datetime:
    # The tables' own times are in UTC; a query can ask for another zone, by name or as an offset.
    moment, _, zone = text.rpartition(" ")
    if zone.startswith(("+", "-")):
        return datetime.fromisoformat(f"{moment}{zone}").astimezone(UTC)
    return datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


_TYPES: dict[str, tuple[pa.DataType, Callable[[str], Any]]] = {
    "boolean": (pa.bool_(), lambda text: text == "true"),
    **dict.fromkeys(("tinyint", "smallint", "integer", "bigint"), (pa.int64(), int)),
    **dict.fromkeys(("float", "real", "double"), (pa.float64(), float)),
    "date": (pa.date32(), date.fromisoformat),
    "timestamp": (pa.timestamp("us"), datetime.fromisoformat),
    "timestamp with time zone": (pa.timestamp("us", tz="UTC"), _instant),
}
