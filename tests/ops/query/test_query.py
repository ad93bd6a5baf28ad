"""Queries on disk and on S3 give the right rows, and skip the files they can."""

import csv
import io
import itertools
import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ops.query.query import InvalidQuery, connect, run_query, to_duckdb
from ops.query.rows import show
from ops.wording import escape_controls
from store.errors import NothingIngested
from store.home import Home
from store.models.pca_models import begin_switch, finish_switch
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables, open_table
from store.tables.schemas import FEATURE_ROWS, NAME_COLUMNS, PROJECTION_ROWS, REJECT_ROWS
from tests.conftest import REGION

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MONDAY = date(2026, 10, 5)


@pytest.fixture(scope="module", params=["disk", "s3"])
def place(request: pytest.FixtureRequest) -> Callable[[], Home]:
    """Makes new, empty homes."""
    number = itertools.count()
    if request.param == "disk":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("homes")
        return lambda: load_settings(home=str(folder / f"{next(number)}")).places()
    server, bucket = request.getfixturevalue("s3_server"), f"query-{uuid.uuid4().hex[:12]}"
    s3: S3Client = request.getfixturevalue("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return lambda: load_settings(home=f"s3://{bucket}/{next(number)}", s3_endpoint=server, s3_region=REGION).places()


@pytest.fixture(scope="module")
def home(place: Callable[[], Home]) -> Home:
    """A home with a batch of four photos on each of three days, which tests only read."""
    return _with_photos(place())


@pytest.fixture
def own_home(place: Callable[[], Home]) -> Home:
    """The same, to write to."""
    return _with_photos(place())


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same on disk, for what is the same wherever the tables lie."""
    return _with_photos(load_settings(home=str(tmp_path_factory.mktemp("on_disk") / "home")).places())


def _with_photos(home: Home) -> Home:
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


def test_a_filter_skips_the_files_it_rules_out(own_home: Home) -> None:
    for day in ("2026-10-05", "2026-10-07"):
        [path] = [
            entry["path"] for page in obstore.list(own_home.features.store, f"ingest_date={day}") for entry in page
        ]
        obstore.put(own_home.features.store, path, b"this is not parquet")
    for condition in ("ingest_date = DATE '2026-10-06'", "batch = 2", "bytes BETWEEN 2000 AND 2500"):
        assert len(run_query(connect(own_home), f"SELECT * FROM features WHERE {condition}")) == 4, condition
    with pytest.raises((InvalidQuery, OSError)):
        run_query(connect(own_home), "SELECT * FROM features")


@pytest.fixture
def projected(own_home: Home) -> Home:
    """Such a home with projections of all its photos by versions 1 and 2, and none served yet."""
    kept = ", ".join(name for name in PROJECTION_ROWS.file_schema.names if name not in ("pca", *NAME_COLUMNS))
    for batch in (1, 2, 3):
        day = MONDAY + timedelta(days=batch - 1)
        rows = run_query(connect(own_home), f"SELECT {kept} FROM features WHERE batch = {batch}").to_pydict()
        adds = [
            write_file(
                own_home,
                PROJECTION_ROWS,
                rows | {"pca": vectors_column(np.full((4, 3), version, np.float32))},
                {"pca_version": str(version), "ingest_date": day.isoformat()},
            )
            for version in (1, 2)
        ]
        commit(own_home, PROJECTION_ROWS, batch, "test", adds)
    return own_home


def test_current_projections_follow_the_served_version(projected: Home) -> None:
    def seen() -> tuple[list[object], list[object]]:
        connection = connect(projected)
        rows = run_query(
            connection, "SELECT pca_version, pca[3] AS last, count(*) AS n FROM current_projections GROUP BY ALL"
        )
        return run_query(connection, "SELECT serving FROM pca_current")["serving"].to_pylist(), rows.to_pylist()

    assert seen() == ([None], [])
    first = begin_switch(projected, 1)
    assert seen() == ([None], [])
    finish_switch(projected, first, "abc")
    assert seen() == ([1], [{"pca_version": 1, "last": 1.0, "n": 12}])
    second = begin_switch(projected, 2)
    assert seen() == ([1], [{"pca_version": 1, "last": 1.0, "n": 12}])
    finish_switch(projected, second, "abc")
    assert seen() == ([2], [{"pca_version": 2, "last": 2.0, "n": 12}])


def test_current_projections_read_no_file_of_another_version_or_day(projected: Home) -> None:
    finish_switch(projected, begin_switch(projected, 2), "abc")
    wanted = "pca_version=2/ingest_date=2026-10-06"
    store = projected.projections.store
    paths = [entry["path"] for page in obstore.list(store) for entry in page if entry["path"].endswith(".parquet")]
    for path in paths:
        if not path.startswith(wanted):
            obstore.put(store, path, b"this is not parquet")
    assert len(paths) == 6
    tuesday = "SELECT * FROM current_projections WHERE ingest_date = DATE '2026-10-06'"
    assert len(run_query(connect(projected), tuesday)) == 4
    with pytest.raises((InvalidQuery, OSError)):
        run_query(connect(projected), "SELECT * FROM current_projections")


def test_every_object_with_an_outcome_is_an_arrival(own_home: Home) -> None:
    at = datetime(2026, 10, 6, 12, tzinfo=UTC)
    rejected = {
        "source": ["s3://bucket/landing/kiwi/broken.jpg"],
        "etag": ["e"],
        "bytes": [7],
        "arrived_at": [at],
        "reason": ["truncated"],
        "detail": ["It ends early."],
        "batch": [2],
        "ingested_at": [at],
    }
    commit(
        own_home, REJECT_ROWS, 2, "test", [write_file(own_home, REJECT_ROWS, rejected, {"ingest_date": "2026-10-06"})]
    )
    columns = "source, label, outcome, batch, ingest_date"
    arrivals = run_query(
        connect(own_home), f"SELECT {columns} FROM arrivals WHERE batch = 2 ORDER BY source"
    ).to_pylist()
    tuesday = {"batch": 2, "ingest_date": date(2026, 10, 6)}
    folder = "s3://bucket/landing/it's/2/é"
    labels = ["kiwi", "lime", None, "it's"]
    photos = [{"source": f"{folder}{n}.jpg", "label": label, "outcome": "photo"} for n, label in enumerate(labels)]
    broken = {"source": "s3://bucket/landing/kiwi/broken.jpg", "label": None, "outcome": "truncated"}
    assert arrivals == [row | tuesday for row in (*photos, broken)]


def test_views_hold_plain_times_in_utc(projected: Home) -> None:
    finish_switch(projected, begin_switch(projected, 1), "abc")
    connection = connect(projected)
    for zone in ("UTC", "Asia/Kolkata"):
        connection.execute(f"SET TimeZone = '{zone}'")
        for view in ("photos", "current_projections", "arrivals"):
            rows = run_query(
                connection, f"SELECT arrived_at, ingested_at FROM {view} WHERE batch = 1 ORDER BY arrived_at"
            )
            assert set(rows.schema.types) == {pa.timestamp("us")}
            assert rows["arrived_at"].to_pylist() == [datetime(2026, 10, 5, 12, n, 0, 123456) for n in range(4)]
            assert set(rows["ingested_at"].to_pylist()) == {datetime(2026, 10, 5, 13)}


def test_photos_and_current_projections_have_their_tables_columns(on_disk: Home) -> None:
    connection = connect(on_disk)
    for view, table in (("photos", FEATURE_ROWS), ("current_projections", PROJECTION_ROWS)):
        columns = run_query(connection, f"SELECT * FROM {view} LIMIT 0").column_names
        assert columns == [*table.schema.names, "folder_label", "label_origin"]


def test_the_log_holds_statistics_of_numbers_and_times_only(on_disk: Home) -> None:
    handle = open_table(on_disk, FEATURE_ROWS)
    assert handle is not None
    columns = pa.table(handle.get_add_actions(flatten=True)).column_names
    bounded = {name.removeprefix("min.") for name in columns if name.startswith("min.")}
    assert bounded == {"bytes", "arrived_at", "width", "height", "batch", "ingested_at"}
    assert handle.protocol().min_reader_version == 1
    assert handle.protocol().min_writer_version == 2


def test_the_formats_hold_the_same_rows(on_disk: Home, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    rows = run_query(connect(on_disk), "SELECT image_id, label, batch FROM features ORDER BY image_id")
    show(rows, "csv", Console())
    as_csv = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    show(rows, "json", Console())
    as_json = [json.loads(line) for line in capsysbinary.readouterr().out.decode().splitlines()]
    show(rows, "parquet", Console())
    as_parquet = pq.read_table(io.BytesIO(capsysbinary.readouterr().out)).to_pylist()
    assert as_json == as_parquet == rows.to_pylist()
    assert [row["image_id"] for row in as_csv] == rows["image_id"].to_pylist()


def test_markup_in_a_label_is_shown_as_it_is(on_disk: Home) -> None:
    console = Console(record=True, width=80)
    show(run_query(connect(on_disk), "SELECT '[red]kiwi[/red] [/]' AS label"), "table", console)
    assert "[red]kiwi[/red] [/]" in console.export_text()


@pytest.mark.parametrize(
    "hostile", ["\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\u202eiwik", "\\[bold]kiwi[/bold]", "[/]\\"]
)
def test_a_label_is_no_command_to_the_terminal(hostile: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    show(pa.table({"label": [hostile], hostile: ["x"]}), "table", console)
    written = cast(io.StringIO, console.file).getvalue()
    assert not set(written) & set("\x1b\x07\x9b\u202e")
    assert written.count(escape_controls(hostile)) == 2
    assert "kiwi" not in hostile or hostile in written


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE x AS SELECT 1", "DELETE FROM features", "SELECT 1; DROP VIEW photos", "SET threads = 1"]
)
def test_what_would_change_something_is_refused(on_disk: Home, sql: str) -> None:
    with pytest.raises(InvalidQuery, match="only reads"):
        run_query(connect(on_disk), sql)


def test_a_pivot_reads(on_disk: Home) -> None:
    assert run_query(connect(on_disk), "PIVOT (SELECT 1 AS n, 'kiwi' AS label) ON label USING count(*)").num_rows == 1


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nowhere", "SELECT nothing FROM features", "", "-- x"])
def test_a_wrong_query_says_so(on_disk: Home, sql: str) -> None:
    with pytest.raises(InvalidQuery):
        run_query(connect(on_disk), sql)


def test_a_home_without_tables_says_so_and_is_not_created(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "typo")).places()
    with pytest.raises(NothingIngested, match="Nothing was ingested into"):
        connect(home)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "COPY (SELECT 1) TO '{file}'",
        "ATTACH '{file}' AS other",
        "SET enable_external_access = true",
    ],
)
def test_a_query_reaches_nothing_but_the_tables(tmp_path: Path, sql: str) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    create_tables(home)
    file = tmp_path / "secret.csv"
    file.write_text("a secret")
    with pytest.raises(InvalidQuery):
        run_query(connect(home), sql.format(file=file))
    assert file.read_text() == "a secret"


def test_values_are_bound(on_disk: Home) -> None:
    sql = "SELECT image_id FROM features WHERE label = ? AND ingest_date >= ? AND batch <= ? ORDER BY image_id"
    assert run_query(connect(on_disk), sql, ["it's", MONDAY, 2])["image_id"].to_pylist() == ["1-3", "2-3"]
    assert len(run_query(connect(on_disk), sql, ["' OR 1 = 1 --", MONDAY, 2])) == 0
    with pytest.raises(InvalidQuery):
        run_query(connect(on_disk), sql, ["it's"])


@pytest.mark.parametrize(
    "sql", ["SELECT reduce(x, 0, (a, b) -> a + b, a -> a * 2) FROM t", "SELECT (", "SELECT 1; SELECT 2"]
)
def test_what_duckdb_cannot_run_as_athena_would_says_so(sql: str) -> None:
    with pytest.raises(InvalidQuery, match="DuckDB cannot run this as Athena would"):
        to_duckdb(sql)


def test_text_is_composed_as_athena_composes_it(on_disk: Home) -> None:
    sql = "SELECT normalize(normalize('e\u0301'), NFC) = '\u00e9' AND normalize(CAST(NULL AS varchar)) IS NULL AS same"
    assert run_query(connect(on_disk), to_duckdb(sql)).to_pylist() == [{"same": True}]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (12.3456, "12.35"), (123456.789, "123457"), (1e-7, "1e-07"), (2e16, "2e+16")]
)
def test_numbers_are_shown_short(value: float, shown: str) -> None:
    console = Console(record=True, width=80)
    show(pa.table({"x": [value]}), "table", console)
    assert f" {shown} " in console.export_text()


def test_an_image_id_is_shown_short_and_written_whole(capsys: pytest.CaptureFixture[str]) -> None:
    console, rows = Console(record=True, width=80), pa.table({"image_id": ["0123456789abcdef" * 4]})
    show(rows, "table", console)
    assert " 0123456789ab… " in console.export_text()
    show(rows, "csv", console)
    assert "0123456789abcdef" * 4 in capsys.readouterr().out
