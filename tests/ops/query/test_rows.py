"""Whatever a query gives, each format holds it: strict JSON, CSV, parquet and a table."""

import csv
import io
import json
from typing import Any, NoReturn

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ops.cli.console import Format
from ops.query.query import run_query
from ops.query.rows import show

_DOUBLED = (
    "SELECT a.label, b.label, b.label, count(*) AS label_1 FROM {} AS a(label), {} AS b(label) GROUP BY ALL".format(
        "(VALUES ('kiwi'))", "(VALUES ('lime'))"
    )
)


def _asked(sql: str) -> pa.Table:
    connection = duckdb.connect(config={"enable_external_access": False})
    connection.execute("SET TimeZone = 'UTC'")
    return run_query(connection, sql)


def _written(rows: pa.Table, form: Format, capture: pytest.CaptureFixture[bytes]) -> bytes:
    show(rows, form, Console(width=200))
    return capture.readouterr().out


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _strict(text: bytes | str) -> Any:
    return json.loads(text, parse_constant=_refused)


def test_columns_of_one_name_keep_their_own_values(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    rows, names, values = _asked(_DOUBLED), ["label", "label_2", "label_3", "label_1"], ["kiwi", "lime", "lime", 1]
    shown = _written(rows, "table", capsysbinary).decode().splitlines()
    assert [cell.strip() for cell in shown[1].strip("┃").split("┃")] == ["label", "label", "label", "label_1"]
    assert [cell.strip() for cell in shown[3].strip("│").split("│")] == ["kiwi", "lime", "lime", "1"]
    header, cells = csv.reader(_written(rows, "csv", capsysbinary).decode().splitlines())
    assert (header, cells) == (names, [str(value) for value in values])
    assert list(_strict(_written(rows, "json", capsysbinary)).items()) == list(zip(names, values, strict=True))
    read = pq.read_table(io.BytesIO(_written(rows, "parquet", capsysbinary)))
    assert (read.column_names, [column.to_pylist() for column in read.columns]) == (names, [[v] for v in values])


def test_a_column_without_a_name_gets_the_one_that_athena_would_give(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    rows = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["", "n", ""])
    assert _strict(_written(rows, "json", capsysbinary)) == {"_col0": 1, "n": 2, "_col2": 3}
    assert _written(rows, "csv", capsysbinary) == b"_col0,n,_col2\n1,2,3\n"


def test_no_row_is_no_error(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    rows = _asked("SELECT 1 AS n, [DATE '2026-10-31'] AS days WHERE false")
    assert _written(rows, "json", capsysbinary) == b""
    assert _written(rows, "csv", capsysbinary) == b"n,days\n"
    assert pq.read_table(io.BytesIO(_written(rows, "parquet", capsysbinary))).num_rows == 0
    assert b"days" in _written(rows, "table", capsysbinary)


# What DuckDB calls it, what JSON holds, and what a CSV cell holds unless that is the same, or JSON.
_VALUES: list[tuple[str, object, str | None]] = [
    ("NULL", None, ""),
    ("true", True, "True"),
    ("'nan'::DOUBLE", None, "nan"),
    ("'-inf'::FLOAT", None, "-inf"),
    ("18446744073709551615::UBIGINT", 18446744073709551615, None),
    ("170141183460469231731687303715884105727::HUGEINT", 170141183460469231731687303715884105727, None),
    ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455", None),
    ("123456789012345678901234567890::BIGNUM", "123456789012345678901234567890", None),
    ("sum(9007199254740993)", 9007199254740993, None),
    ("12.30::DECIMAL(5, 2)", "12.30", None),
    ("0.0000000001::DECIMAL(38, 20)", "0.00000000010000000000", None),
    ("'=1+1, \"pêche\"'", '=1+1, "pêche"', None),
    ("'\\xAA\\x00'::BLOB", "aa00", None),
    ("'101'::BIT", "101", None),
    ("'a'::ENUM('a', 'b')", "a", None),
    ("UUID '123e4567-e89b-12d3-a456-426614174000'", "123e4567-e89b-12d3-a456-426614174000", None),
    ("'{\"a\": 1}'::JSON", '{"a": 1}', None),
    ("DATE '2026-10-31'", "2026-10-31", None),
    ("DATE '20000-01-01'", "20000-01-01", None),
    ("DATE 'infinity'", "infinity", None),
    ("TIME '12:00:00.5'", "12:00:00.500000", None),
    ("TIMETZ '12:00:00+02'", "12:00:00+02", None),
    ("TIMESTAMP '2026-10-31 12:00:00.25'", "2026-10-31T12:00:00.250000", "2026-10-31 12:00:00.250000"),
    ("TIMESTAMP '-infinity'", "-infinity", None),
    ("TIMESTAMPTZ '2026-10-31 12:00:00+01'", "2026-10-31T11:00:00+00:00", "2026-10-31 11:00:00+00:00"),
    (
        "TIMESTAMP_NS '2026-10-31 12:00:00.123456789'",
        "2026-10-31T12:00:00.123456789",
        "2026-10-31 12:00:00.123456789",
    ),
    ("INTERVAL '1 year 2 days 3.5 seconds'", "P12M2DT3.5S", None),
    ("INTERVAL '-1 month' - INTERVAL '3.5 seconds'", "P-1M0DT-3.5S", None),
    ("[DATE '2026-10-31', NULL]", ["2026-10-31", None], None),
    ("[1.5, 'nan'::DOUBLE, 'inf'::DOUBLE]", [1.5, None, None], None),
    ("[[1], NULL, []]", [[1], None, []], None),
    ("NULL::INTEGER[2]", None, ""),
    ("[1, NULL]::INTEGER[2]", [1, None], None),
    ("{'a': 'é', 'b': [TIME '12:00:00']}", {"a": "é", "b": ["12:00:00"]}, None),
    ("{'a': INTERVAL 1 DAY, 'b': NULL}", {"a": "P0M1DT0S", "b": None}, None),
    ("row(1, 'x')", {"element1": 1, "element2": "x"}, None),
    ("MAP {'k': 1, 'l': NULL}", {"k": 1, "l": None}, None),
    ("MAP {DATE '2026-10-31': ['x'::BLOB]}", {"2026-10-31": ["78"]}, None),
    ("MAP {1: {'a': 12.30::DECIMAL(5, 2)}}", {"1": {"a": "12.30"}}, None),
    ("union_value(n := 2)", 2, None),
    ("{'u': union_value(s := 'x')}", {"u": "x"}, None),
]


@pytest.mark.parametrize(("sql", "in_json", "in_csv"), _VALUES, ids=[value[0] for value in _VALUES])
def test_every_type_has_its_place_in_every_format(
    sql: str, in_json: object, in_csv: str | None, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    rows = _asked(f"SELECT {sql} AS x, 'next' AS y")
    assert _strict(_written(rows, "json", capsysbinary)) == {"x": in_json, "y": "next"}
    _, (cell, following) = csv.reader(io.StringIO(_written(rows, "csv", capsysbinary).decode(), newline=""))
    assert following == "next"
    if in_csv is None and isinstance(in_json, list | dict):
        assert _strict(cell) == in_json
    else:
        assert cell == (str(in_json) if in_csv is None else in_csv)
    assert pq.read_table(io.BytesIO(_written(rows, "parquet", capsysbinary))).column_names == ["x", "y"]
    assert b"next" in _written(rows, "table", capsysbinary)


def test_null_among_values_keeps_its_row(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for first, last in (("[1]", "[2, 3]"), ("[1]::INTEGER[1]", "[2]::INTEGER[1]"), ("{'a': 1}", "{'a': 2}")):
        rows = _asked(f"SELECT unnest([{first}, NULL, {last}]) AS x")
        found = [_strict(line)["x"] for line in _written(rows, "json", capsysbinary).splitlines()]
        assert found[1] is None
        assert found == [
            _strict(_written(_asked(f"SELECT {sql} AS x"), "json", capsysbinary))["x"] for sql in (first, "NULL", last)
        ]
        assert [_strict(line)["x"] for line in _written(rows.slice(2), "json", capsysbinary).splitlines()] == found[2:]
