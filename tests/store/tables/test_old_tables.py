"""Tables that were made before they had all of today's columns are read as they are, and get what they lack."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch.erase.erase import ErasureRequest, erase
from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from ops.query.named_queries import named_query
from ops.query.query import connect, run_query, to_duckdb
from store.home import Home
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.files import data_files, read_file, write_file
from store.tables.handles import OpenTables, create_table, create_tables, open_table
from store.tables.schemas import (
    ANSWER_COLUMNS,
    FEATURE_ROWS,
    FIRST_VISIBLE,
    NAME_COLUMNS,
    PROJECTION_ROWS,
    REJECT_ROWS,
    TABLES,
    Table,
)

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
    row |= {"source": [f"{home.landing.source}/{batch}.jpg"], "batch": [batch], "featurizer": ["abc"]}
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


def test_names_are_added_to_tables_of_the_last_release_and_kept_by_compaction_and_erasure(
    tmp_path: Path,
) -> None:
    home = load_settings(home=str(tmp_path / "last release")).places()
    home.landing.create()
    for table in TABLES:
        create_table(home, _of_last_release(table))
    # Its stream goes on beside.
    before = OpenTables(home)
    _commit_both(home, 1, _of_last_release, before)
    create_tables(home)
    _commit_both(home, 2, _of_last_release, before)
    _commit_both(home, 3, lambda table: table)
    assert connect(home).sql("SELECT batch, answer FROM features ORDER BY batch").fetchall() == [
        *((1, None), (2, None), (3, "kiwi")),
    ]

    maintain(home, Retention(), print, lambda _: None)
    _check_names(home, [1, 2, 3])
    removed = erase(home, ErasureRequest("source", "1.jpg"), print, lambda _, __: None).removed
    assert (removed["features rows"], removed["projections rows"]) == (1, 1)
    _check_names(home, [2, 3])


ANSWER: dict[str, Any] = {"answer": "kiwi", "answer_confidence": 0.5, "answer_version": 7}
TOP = [{"label": "kiwi", "confidence": 0.5}, {"label": "plum", "confidence": 0.25}]
NAMES: dict[str, Any] = {
    "predicted": "kiwi",
    "confidence": 0.5,
    "top3": TOP,
    "distance": 1.5,
    "novelty": 0.25,
    "in_fit": False,
}


def _of_last_release(table: Table) -> Table:
    new = {*ANSWER_COLUMNS, *NAME_COLUMNS}
    return replace(table, schema=pa.schema([column for column in table.schema if column.name not in new]))


def _commit_both(home: Home, batch: int, release: Callable[[Table], Table], tables: OpenTables | None = None) -> None:
    """Commit one row to features and projections as a release does."""
    adds = {}
    for table, names in ((FEATURE_ROWS, ANSWER), (PROJECTION_ROWS, NAMES)):
        written = release(table)
        row = {column.name: pa.nulls(1, column.type) for column in written.file_schema}
        row |= {"source": [f"{home.landing.source}/{batch}.jpg"], "batch": [batch], "featurizer": ["abc"]}
        row |= {"arrived_at": [CAME], "ingested_at": [CAME]}
        row |= {name: [value] for name, value in names.items() if name in written.file_schema.names}
        partition = {"ingest_date": DAY.isoformat(), "pca_version": "7"}
        adds[table.name] = write_file(home, written, row, {name: partition[name] for name in table.partitioned_by})
    for each in TABLES:
        commit(home, each, batch, "a run", [adds[each.name]] if each.name in adds else [], tables)


def _check_names(home: Home, batches: list[int]) -> None:
    """Each table has one file with a row of each batch; only that of batch 3 has names."""
    for table, names in ((FEATURE_ROWS, ANSWER), (PROJECTION_ROWS, NAMES)):
        handle = open_table(home, table)
        assert handle is not None
        [file] = data_files(handle)
        [rows] = read_file(home, table, file.path, ["batch", *names])
        assert rows.to_pylist() == [
            {"batch": batch, **(names if batch == 3 else dict.fromkeys(names))} for batch in batches
        ]
        columns = ", ".join(names)
        found = connect(home).sql(f"SELECT {columns} FROM {table.name} WHERE batch = 3").fetchall()
        assert found == [tuple(names.values())]
