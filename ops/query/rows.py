"""Rows written as a table, CSV, JSON lines or parquet."""

import csv
import io
import json
import re
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from features.errors import InvalidSetting
from ops.cli.console import Format
from ops.cli.process.terminal import write_exactly
from ops.query.cell_values import column_values, distinct_names, has_interval_or_union
from ops.wording import escape_controls

_SHOWN_ELEMENTS = 4
_SHOWN_DIGITS = 12
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
# A time to the second, without its zone, which is UTC.
_TO_THE_SECOND = len("2026-10-31 12:00:00")
# Between these a number is easier to read without an exponent, though it shows more than four digits.
_SHORT, _LONG = 1e4, 1e15


def show(rows: pa.Table, form: Format, console: Console, title: str | None = None) -> None:
    """Write rows to the terminal as a table, or to standard output as CSV, JSON lines or parquet, in UTF-8.

    A table shortens vectors and image_ids. The other formats give each column a name of its own.
    Raises InvalidSetting when parquet would go to a terminal.
    """
    if form == "table":
        console.print(_rich(rows, title))
        return
    # Dictionaries, JSON's objects and most readers of parquet hold one column of a name.
    named = rows.rename_columns(distinct_names(rows.column_names))
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(named.column_names)
        writer.writerows(zip(*map(_csv_cells, named.columns), strict=True))
        write_exactly(text.getvalue())
    elif form == "json":
        columns = (column_values(column, finite=True) for column in named.columns)
        lines = (_as_json(dict(zip(named.column_names, row, strict=True))) for row in zip(*columns, strict=True))
        write_exactly("".join(f"{line}\n" for line in lines))
    elif sys.stdout.isatty():
        raise InvalidSetting(
            "parquet is not for a terminal; redirect it: fruits query --format parquet '...' > rows.parquet"
        )
    else:
        buffer = io.BytesIO()
        pq.write_table(_with_parquets_types(named), buffer, compression="zstd")
        write_exactly(buffer.getvalue())


def _rich(rows: pa.Table, title: str | None) -> Table:
    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in rows.schema:
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        shown.add_column(Text(escape_controls(column.name)), justify="right" if numeric else "left", overflow="fold")
    for row in zip(*map(_shown, rows.columns), strict=True):
        # Keys are other people's words: Rich must not read them as markup, nor a terminal as commands.
        shown.add_row(*(Text(escape_controls(_cell(value))) for value in row))
    return shown


def _csv_cells(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return _with_spaces(column)
    values = column_values(column, finite=pa.types.is_nested(column.type))
    return [_as_json(value) if isinstance(value, list | dict) else value for value in values]


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _with_parquets_types(rows: pa.Table) -> pa.Table:
    for position, column in enumerate(rows.schema):
        if has_interval_or_union(column.type):
            cells = pa.array([None if cell is None else str(cell) for cell in _csv_cells(rows[position])], pa.string())
            rows = rows.set_column(position, column.name, cells)
    return rows


def _shown(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if text is None else text[:_TO_THE_SECOND] for text in _with_spaces(column)]
    return column_values(column, finite=False)


def _with_spaces(times: pa.ChunkedArray) -> list[str | None]:
    # Spreadsheets and people expect no T.
    return [None if text is None else text.replace("T", " ", 1) for text in column_values(times, finite=False)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if _SHORT <= abs(value) < _LONG else f"{value:.4g}"
    if isinstance(value, list) and len(value) > _SHOWN_ELEMENTS:
        return f"[{', '.join(_cell(element) for element in value[:_SHOWN_ELEMENTS])}, … {len(value)}]"
    if isinstance(value, str) and _IMAGE_ID.fullmatch(value):
        return f"{value[:_SHOWN_DIGITS]}…"
    return str(value)
