"""Tables that were made before they had all of today's columns are read as they are, and get what they lack."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from ops.query.named_queries import named_query
from ops.query.query import connect, run_query, to_duckdb
from store.home import Home
from store.tables.commits import commit
from store.tables.files import data_files, read_file, write_file
from store.tables.handles import OpenTables, create_table, create_tables, open_table
from store.tables.schemas import FEATURE_ROWS, FIRST_VISIBLE, REJECT_ROWS, TABLES, Table

DAY = date(2026, 10, 3)
CAME = datetime(2026, 10, 3, 12, tzinfo=UTC)


def _as_before(table: Table) -> Table:
    return replace(table, schema=pa.schema([column for column in table.schema if column.name != FIRST_VISIBLE]))


@pytest.fixture
def home(home: Home) -> Home:
    """A home with old tables."""
    for table in TABLES:
        create_table(home, _as_before(table))
    _commit(home, 1, _as_before(FEATURE_ROWS))
    return home


def _commit(home: Home, batch: int, table: Table, tables: OpenTables | None = None) -> None:
    row = {column.name: pa.nulls(1, column.type) for column in table.file_schema}
    row |= {"source": [f"{home.landing.source}/{batch}.jpg"], "batch": [batch]}
    row |= {"arrived_at": [CAME - timedelta(days=2000)], "ingested_at": [CAME + timedelta(seconds=batch)]}
    if FIRST_VISIBLE in table.file_schema.names:
        row |= {FIRST_VISIBLE: [CAME]}
    added = write_file(home, table, row, {"ingest_date": DAY.isoformat()})
    for each in TABLES:
        commit(home, each, batch, "a run", [added] if each.name == table.name else [], tables)


def _waits(home: Home) -> list[float]:
    query = named_query("latency")
    [row] = run_query(connect(home), to_duckdb(query.sql), query.values({"since": "2026-10-01"})).to_pylist()
    return [row["photos"], row["p50_s"], row["longest_s"]]


def test_an_old_home_is_queried_as_it_is_and_gets_the_column_with_the_next_stream(home: Home) -> None:
    days_s = 2000 * 86400.0
    assert _waits(home) == [1, days_s + 1, days_s + 1]

    create_tables(home)
    create_tables(home)
    _commit(home, 2, FEATURE_ROWS)

    assert _waits(home) == [2, 2.0, days_s + 1]
    found = connect(home).sql(f"SELECT batch FROM features WHERE {FIRST_VISIBLE} >= TIMESTAMPTZ '2026-10-01'")
    assert found.fetchall() == [(2,)]
    assert connect(home).sql(f"SELECT batch FROM features WHERE {FIRST_VISIBLE} IS NULL").fetchall() == [(1,)]


def test_a_stream_of_before_goes_on_beside_and_its_files_are_compacted_with_the_others(home: Home) -> None:
    # It opened the tables before they got their column.
    before = OpenTables(home)
    assert before.look(FEATURE_ROWS)[1] == 1
    create_tables(home)
    _commit(home, 2, _as_before(FEATURE_ROWS), before)
    _commit(home, 3, FEATURE_ROWS)

    maintain(home, Retention(), print, lambda _: None)

    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    [file] = data_files(handle)
    [rows] = read_file(home, FEATURE_ROWS, file.path, ["batch", FIRST_VISIBLE])
    assert rows.to_pylist() == [
        {"batch": 1, FIRST_VISIBLE: None},
        {"batch": 2, FIRST_VISIBLE: None},
        {"batch": 3, FIRST_VISIBLE: CAME},
    ]


def test_a_file_of_before_is_read_with_the_column_it_lacks(home: Home) -> None:
    added = write_file(
        home,
        _as_before(REJECT_ROWS),
        {column.name: pa.nulls(1, column.type) for column in _as_before(REJECT_ROWS).file_schema},
        {"ingest_date": DAY.isoformat()},
    )
    [rows] = read_file(home, REJECT_ROWS, added.path, [FIRST_VISIBLE, "batch"])
    assert rows.to_pydict() == {FIRST_VISIBLE: [None], "batch": [None]}
