"""Queries on disk and on S3 give the right rows, and skip the files they can."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from features.home import Home
from features.settings import Settings, load_settings
from features.tables import FEATURE_ROWS, commit, create_tables, open_table, vectors_column, write_file
from ops.query import InvalidQuery, connect, run_query
from ops.rows import show

MakeSettings = Callable[..., Settings]

MONDAY = date(2026, 10, 5)


@pytest.fixture(params=["disk", "s3"])
def home(request: pytest.FixtureRequest) -> Home:
    """A home with a batch of four photos on each of three days."""
    make: MakeSettings = request.getfixturevalue("local_settings" if request.param == "disk" else "s3_settings")
    home = make().places()
    create_tables(home)
    for batch in (1, 2, 3):
        day = MONDAY + timedelta(days=batch - 1)
        rows = {
            "image_id": [f"{batch}-{n}" for n in range(4)],
            "source": [f"s3://bucket/landing/it's/{batch}/é{n}.jpg" for n in range(4)],
            "etag": ["e"] * 4,
            "bytes": [1000 * batch + n for n in range(4)],
            "arrived_at": [datetime(day.year, day.month, day.day, 12, n, 0, 123456, UTC) for n in range(4)],
            "label": ["kiwi", "lime", None, "it's"],
            "subject": [None] * 4,
            "format": ["JPEG"] * 4,
            "width": [640] * 4,
            "height": [480] * 4,
            "features": vectors_column(np.full((4, 1280), batch, np.float32)),
            "featurizer": ["abc"] * 4,
            "batch": [batch] * 4,
            "ingested_at": [datetime(day.year, day.month, day.day, 13, tzinfo=UTC)] * 4,
        }
        added = write_file(home, FEATURE_ROWS, rows, {"ingest_date": day.isoformat()})
        commit(home, FEATURE_ROWS, batch, "test", [added])
    return home


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("label = 'it''s'", ["1-3", "2-3", "3-3"]),
        ("label IN ('kiwi', 'lime') AND batch = 2", ["2-0", "2-1"]),
        ("label IS NULL", ["1-2", "2-2", "3-2"]),
        ("source LIKE '%/2/é%' AND bytes > 2001", ["2-2", "2-3"]),
        ("ingest_date = DATE '2026-10-06'", ["2-0", "2-1", "2-2", "2-3"]),
        ("ingest_date > '2026-10-06' AND bytes <= 3001", ["3-0", "3-1"]),
        ("arrived_at >= TIMESTAMPTZ '2026-10-07 12:03:00+00'", ["3-3"]),
        ("arrived_at = TIMESTAMPTZ '2026-10-05 12:01:00.123456+00'", ["1-1"]),
        ("features[1280] = 3 AND width = 640", ["3-0", "3-1", "3-2", "3-3"]),
        ("image_id BETWEEN '2-1' AND '2-2'", ["2-1", "2-2"]),
    ],
)
def test_filters_on_strings_dates_and_numbers_work(home: Home, condition: str, expected: list[str]) -> None:
    found = run_query(connect(home), f"SELECT image_id FROM features WHERE {condition} ORDER BY image_id")
    assert found["image_id"].to_pylist() == expected


@pytest.mark.parametrize("condition", ["ingest_date = DATE '2026-10-06'", "batch = 2", "bytes BETWEEN 2000 AND 2500"])
def test_a_filter_skips_the_files_it_rules_out(home: Home, condition: str) -> None:
    for day in ("2026-10-05", "2026-10-07"):
        [path] = [entry["path"] for page in obstore.list(home.features.store, f"ingest_date={day}") for entry in page]
        obstore.put(home.features.store, path, b"this is not parquet")
    assert len(run_query(connect(home), f"SELECT * FROM features WHERE {condition}")) == 4
    with pytest.raises((InvalidQuery, OSError)):
        run_query(connect(home), "SELECT * FROM features")


def test_the_log_holds_statistics_of_numbers_and_times_only(home: Home) -> None:
    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    columns = pa.table(handle.get_add_actions(flatten=True)).column_names
    bounded = {name.removeprefix("min.") for name in columns if name.startswith("min.")}
    assert bounded == {"bytes", "arrived_at", "width", "height", "batch", "ingested_at"}
    assert handle.protocol().min_reader_version == 1
    assert handle.protocol().min_writer_version == 2


def test_the_formats_hold_the_same_rows(home: Home, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    rows = run_query(connect(home), "SELECT image_id, label, batch FROM features ORDER BY image_id")
    show(rows, "csv", Console())
    as_csv = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    show(rows, "json", Console())
    as_json = [json.loads(line) for line in capsysbinary.readouterr().out.decode().splitlines()]
    show(rows, "parquet", Console())
    as_parquet = pq.read_table(io.BytesIO(capsysbinary.readouterr().out)).to_pylist()
    assert as_json == as_parquet == rows.to_pylist()
    assert [row["image_id"] for row in as_csv] == rows["image_id"].to_pylist()


def test_markup_in_a_label_is_shown_as_it_is(home: Home) -> None:
    console = Console(record=True, width=80)
    show(run_query(connect(home), "SELECT '[red]kiwi[/red] [/]' AS label"), "table", console)
    assert "[red]kiwi[/red] [/]" in console.export_text()


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nowhere", "SELECT nothing FROM features"])
def test_a_wrong_query_says_so(home: Home, sql: str) -> None:
    with pytest.raises(InvalidQuery):
        run_query(connect(home), sql)


def test_a_home_without_tables_says_so_and_is_not_created(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "typo")).places()
    with pytest.raises(InvalidQuery, match="has no tables yet"):
        connect(home)
    assert list(tmp_path.iterdir()) == []
