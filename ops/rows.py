"""Rows as a person or a program reads them."""

import csv
import io
import json
import re
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from features.errors import InvalidSetting
from ops.wording import visible

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

Format = Literal["table", "csv", "json", "parquet"]

_SHOWN_ELEMENTS = 4
_SHOWN_DIGITS = 12
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
# Between these a number is easier to read without an exponent, though it shows more than four digits.
_SHORT, _LONG = 1e4, 1e15


def show(rows: "pa.Table", form: Format, console: "Console", title: str | None = None) -> None:
    """Write rows to the terminal as a table, or to standard output as CSV, JSON lines or parquet.

    A table shortens vectors and image_ids.
    Raises InvalidSetting when parquet would go to a terminal.
    """
    if form == "table":
        console.print(_rich(rows, title))
    elif form == "csv":
        sys.stdout.write(_csv(rows))
    elif form == "json":
        for row in rows.to_pylist():
            print(json.dumps(row, default=str, ensure_ascii=False))
    elif sys.stdout.isatty():
        raise InvalidSetting(
            "parquet is not for a terminal; redirect it: fruits query --format parquet '...' > rows.parquet"
        )
    else:
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        sys.stdout.buffer.write(buffer.getvalue())


def _rich(rows: "pa.Table", title: str | None) -> Table:
    import pyarrow as pa

    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in rows.schema:
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        shown.add_column(Text(visible(column.name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows.to_pylist():
        # Keys are other people's words: Rich must not read them as markup, nor a terminal as commands.
        shown.add_row(*(Text(visible(_cell(value))) for value in row.values()))
    return shown


def _csv(rows: "pa.Table") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows(
        [json.dumps(value) if isinstance(value, list) else value for value in row.values()] for row in rows.to_pylist()
    )
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if _SHORT <= abs(value) < _LONG else f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list) and len(value) > _SHOWN_ELEMENTS:
        return f"[{', '.join(_cell(element) for element in value[:_SHOWN_ELEMENTS])}, … {len(value)}]"
    if isinstance(value, str) and _IMAGE_ID.fullmatch(value):
        return f"{value[:_SHOWN_DIGITS]}…"
    return str(value)
