"""Maintenance leaves the rows what they are, whoever else is at work and whenever it is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from batch.days import list_days
from batch.maintain import compaction
from batch.maintain.compaction import MAINTENANCE, Group, compact, groups_to_compact
from batch.maintain.maintain import Compaction, Expiry, LogRemoval, MaintenanceStep, OrphanRemoval, maintain
from batch.maintain.retention import Retention, expire_copies, expire_rows
from batch.maintain.vacuum import vacuum_orphans
from batch.refit.refit import RefitOptions, refit
from batch.refit.sums import SumsOfDays, sum_days
from batch.reproject import reproject
from ops.cli.main import app
from ops.query.query import connect, run_query
from ops.status.status import read_status
from store.errors import HomeInUse
from store.home import Home
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.operations import keys_below, overwrite
from store.settings import Settings, load_settings
from store.state import lease
from store.state.lease import hold_lease
from store.state.plans import AddedFile, BatchCounters, Plan, Result, write_plan, write_result
from store.tables import commits, handles, unreferenced
from store.tables.commits import commit, delete_rows, replace_files
from store.tables.files import DataFile, data_files, read_file, write_large_file
from store.tables.handles import OpenTables, committed_batch, create_tables, open_table, tables_of_batches
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS, TABLES, Table
from store.tables.unreferenced import shorten_log
from tests.conftest import REGION
from tests.support.command_run import run_fruits
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.ingested import ingest
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, rows, stream_process

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

DAYS = [date(2026, 10, 3), date(2026, 10, 4)]
NOTHING_EXPIRES = Retention()


@pytest.fixture(scope="module")
def home_with_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight batches on two days long past."""
    folder = tmp_path_factory.mktemp("made") / "home"
    _with_rows(load_settings(home=str(folder)).places())
    return folder


@pytest.fixture
def on_disk(home_with_rows: Path, tmp_path: Path) -> Home:
    """A copy of it, whose files a test can lay hands on."""
    shutil.copytree(home_with_rows, tmp_path / "home")
    return load_settings(home=str(tmp_path / "home")).places()


@pytest.fixture
def on_s3(home_with_rows: Path, bucket: str, s3_server: str, s3: "S3Client") -> Home:
    """A copy of it in a bucket."""
    for path in home_with_rows.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), bucket, f"home/{path.relative_to(home_with_rows)}")
    return load_settings(home=f"s3://{bucket}/home", s3_endpoint=s3_server, s3_region=REGION).places()


@pytest.fixture(params=["disk", pytest.param("S3", marks=pytest.mark.processes)])
def home(request: pytest.FixtureRequest) -> Home:
    made: Home = request.getfixturevalue("on_disk" if request.param == "disk" else "on_s3")
    return made


def _with_rows(home: Home) -> Home:
    if current_featurizer(home) is None:
        publish_featurizer(home, b"a network", "a test", "a test")
    for number in range(1, 9):
        commit_features(home, number, DAYS[number % 2], feature_vectors(6, number), str(current_featurizer(home)))
    return home


def _maintain(home: Home, retention: Retention = NOTHING_EXPIRES, dry_run: bool = False) -> list[MaintenanceStep]:
    pieces: list[MaintenanceStep] = []
    maintain(home, retention, print, pieces.append, dry_run)
    return pieces


def _compact(home: Home, now: datetime) -> list[Group]:
    return [group for group, _ in compact(home, groups_to_compact(home, now), lambda: None)]


def _files(home: Home, table: Table = FEATURE_ROWS) -> list[DataFile]:
    handle = open_table(home, table)
    assert handle is not None
    return data_files(handle)


def _rows(home: Home, sql: str = "SELECT * FROM features ORDER BY image_id") -> list[dict[str, Any]]:
    return list(run_query(connect(home), sql).to_pylist())


def _age(directory: Path, days: float) -> None:
    then_s = time.time() - days * 86400
    for path in directory.rglob("*"):
        os.utime(path, (then_s, then_s))


def test_days_long_past_become_one_file_each_with_the_same_rows(home: Home) -> None:
    before, was = _rows(home), _files(home)
    done = [piece for piece in _maintain(home) if isinstance(piece, Compaction)]
    assert [(piece.group.ingest_date, len(piece.group.files)) for piece in done] == [(day, 4) for day in DAYS]
    files = _files(home)
    assert [(file.partition["ingest_date"], file.rows, file.batches) for file in sorted(files, key=_day)] == [
        (DAYS[0], 24, (2, 8)),
        (DAYS[1], 24, (1, 7)),
    ]
    assert sum(file.size_bytes for file in files) < sum(file.size_bytes for file in was)
    assert _rows(home) == before
    assert read_status(home, verify=True).broken == []
    # A second run rewrites nothing.
    assert [piece for piece in _maintain(home) if isinstance(piece, Compaction)] == []
    assert _files(home) == files


def _day(file: DataFile) -> date:
    day: date = file.partition["ingest_date"]
    return day


def test_filters_on_every_kind_of_column_find_the_rows_in_compacted_files(on_disk: Home) -> None:
    _maintain(on_disk)
    for where, expected in (
        ("batch = 3", 6),
        ("batch > 6", 12),
        ("width = 640", 48),
        ("width > 640", 0),
        ("arrived_at < TIMESTAMPTZ '2026-10-04 00:00:00Z'", 24),
        ("ingested_at IS NULL", 0),
        ("label = 'kiwi'", 48),
        ("subject IS NULL", 48),
        (f"ingest_date = DATE '{DAYS[1]}' AND batch = 1", 6),
    ):
        assert _rows(on_disk, f"SELECT count(*) AS n FROM features WHERE {where}") == [{"n": expected}], where


def test_the_log_tells_nobodys_name_and_the_protocol_stays(on_disk: Home) -> None:
    _maintain(on_disk)
    handle = open_table(on_disk, FEATURE_ROWS)
    assert handle is not None
    assert (handle.protocol().min_reader_version, handle.protocol().min_writer_version) == (1, 2)
    with_statistics = {name.partition(".")[2] for name in handle.get_add_actions(flatten=True).schema.names}
    assert with_statistics & {"label", "subject", "source", "image_id", "etag"} == set()


def test_a_row_is_rewritten_once_for_its_hour_and_once_for_its_day(on_disk: Home) -> None:
    now = datetime.now(UTC)
    for number in range(9, 13):
        commit_features(on_disk, number, now.date(), feature_vectors(6, number))
    _compact(on_disk, now)
    assert len([file for file in _files(on_disk) if _day(file) == now.date()]) == 4
    later = now + timedelta(hours=2)
    last = max(file.committed_at for file in _files(on_disk))
    groups = _compact(on_disk, later)
    # Dated to when it was written, it would be compacted again with the next hour's.
    assert max(file.committed_at for file in _files(on_disk)) == last
    assert {group.ingest_date for group in groups} == {now.date()}
    assert sum(len(group.files) for group in groups) == 4
    for _ in range(3):
        assert _compact(on_disk, later) == []


def test_files_that_are_large_enough_stay(on_disk: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes = max(file.size_bytes for file in _files(on_disk))
    monkeypatch.setattr(compaction, "TARGET_BYTES", 2 * size_bytes)
    monkeypatch.setattr(compaction, "BIG_ENOUGH_BYTES", size_bytes + 1)
    groups = groups_to_compact(on_disk, datetime.now(UTC))
    assert [len(group.files) for group in groups] == [2, 2, 2, 2]
    monkeypatch.setattr(compaction, "BIG_ENOUGH_BYTES", min(file.size_bytes for file in _files(on_disk)))
    assert groups_to_compact(on_disk, datetime.now(UTC)) == []


def test_a_batch_that_not_all_tables_hold_is_left_alone(on_disk: Home) -> None:
    commit(on_disk, FEATURE_ROWS, 9, "a test", [_written(on_disk, 9)])
    _maintain(on_disk)
    assert [file.batches for file in _files(on_disk) if _day(file) == DAYS[0]] in (
        [(9, 9), (2, 8)],
        [(2, 8), (9, 9)],
    )


def _written(home: Home, number: int) -> AddedFile:
    """A file of rows like those of the first day, of another batch, which no table names yet."""
    path = next(file.path for file in _files(home) if _day(file) == DAYS[0])
    parts = list(read_file(home, FEATURE_ROWS, path, FEATURE_ROWS.file_schema.names))
    at = parts[0].schema.get_field_index("batch")
    parts = [part.slice(0, 6).set_column(at, "batch", pa.array([number] * 6, pa.int64())) for part in parts[:1]]
    return write_large_file(home, FEATURE_ROWS, lambda: parts, {"ingest_date": str(DAYS[0])})


def test_of_two_that_replace_the_same_files_one_is_refused(home: Home) -> None:
    first, second = open_table(home, FEATURE_ROWS), open_table(home, FEATURE_ROWS)
    assert first is not None
    assert second is not None
    some = [file for file in data_files(first) if _day(file) == DAYS[0]]
    added = _copy(home, some)
    replace_files(home, FEATURE_ROWS, first, some, [added], MAINTENANCE)
    with pytest.raises(HomeInUse, match="was changed meanwhile; nothing was replaced"):
        replace_files(home, FEATURE_ROWS, second, some, [_copy(home, some)], MAINTENANCE)
    assert sum(file.rows for file in _files(home)) == 48


def test_the_librarys_own_compaction_would_leave_rows_twice(on_disk: Home) -> None:
    properties = CommitProperties(app_transactions=[Transaction(MAINTENANCE, 1)])
    for handle in [open_table(on_disk, FEATURE_ROWS) for _ in range(2)]:
        assert handle is not None
        handle.optimize.compact(commit_properties=properties)
    assert sum(file.rows for file in _files(on_disk)) == 2 * 48


def test_rows_deleted_meanwhile_do_not_come_back(on_disk: Home) -> None:
    handle, deleting = open_table(on_disk, FEATURE_ROWS), open_table(on_disk, FEATURE_ROWS)
    assert handle is not None
    assert deleting is not None
    some = [file for file in data_files(handle) if _day(file) == DAYS[0]]
    delete_rows(on_disk, FEATURE_ROWS, deleting, f"ingest_date = '{DAYS[0]}'", "somebody else")
    with pytest.raises(HomeInUse):
        replace_files(on_disk, FEATURE_ROWS, handle, some, [_copy(on_disk, some)], MAINTENANCE)
    assert {_day(file) for file in _files(on_disk)} == {DAYS[1]}


def test_a_group_of_which_files_were_removed_since_is_left_out(on_disk: Home) -> None:
    groups = groups_to_compact(on_disk, datetime.now(UTC))
    handle = open_table(on_disk, FEATURE_ROWS)
    assert handle is not None
    delete_rows(on_disk, FEATURE_ROWS, handle, f"ingest_date = '{DAYS[0]}'", "somebody else")
    assert [group.ingest_date for group, _ in compact(on_disk, groups, lambda: None)] == [DAYS[1]]
    assert sum(file.rows for file in _files(on_disk)) == 24


def _copy(home: Home, files: list[DataFile]) -> AddedFile:
    names = FEATURE_ROWS.file_schema.names
    parts = [part for file in files for part in read_file(home, FEATURE_ROWS, file.path, names)]
    return write_large_file(home, FEATURE_ROWS, lambda: parts, {"ingest_date": str(_day(files[0]))})


def test_a_writer_and_a_reader_with_older_handles_go_on(home: Home) -> None:
    tables, reader = OpenTables(home), open_table(home, FEATURE_ROWS)
    assert reader is not None
    assert tables.look(FEATURE_ROWS)[1] == 8
    groups = groups_to_compact(home, datetime.now(UTC))
    for group, _ in compact(home, groups, lambda: None):
        commit(home, FEATURE_ROWS, committed_batch(open_table(home, FEATURE_ROWS)) + 1, "a test", [], tables)
        assert group.table is FEATURE_ROWS
    assert reader.to_pyarrow_table().num_rows == 48
    assert tables.look(FEATURE_ROWS)[1] == 10
    assert len(_files(home)) == 2


def test_what_no_version_names_is_removed_after_a_day_and_nothing_else(on_disk: Home) -> None:
    place = on_disk.features
    _age(place.directory, days=3)
    overwrite(place, "ingest_date=2026-10-03/part-old.zstd.parquet", b"an attempt that died")
    half = place.directory / "ingest_date=2026-10-03" / "part-half.zstd.parquet#1"
    half.write_bytes(b"a write that was killed")
    _age(place.directory, days=3)
    overwrite(place, "ingest_date=2026-10-03/part-new.zstd.parquet", b"an attempt at work")
    # The files that these replace are old, but were named until now.
    _compact(on_disk, datetime.now(UTC))
    swept = next(piece for piece in _maintain(on_disk) if isinstance(piece, OrphanRemoval))
    assert (swept.removed.count, swept.removed.size_bytes) == (1, len(b"an attempt that died"))
    assert not half.exists()
    kept = set(keys_below(place))
    assert "ingest_date=2026-10-03/part-new.zstd.parquet" in kept
    assert "ingest_date=2026-10-03/part-old.zstd.parquet" not in kept
    assert len([key for key in kept if not key.startswith("_delta_log")]) == 1 + 8 + 2


def test_on_s3_too_what_no_version_names_is_removed(on_s3: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = on_s3
    overwrite(home.features, "ingest_date=2026-10-03/part-x.zstd.parquet", b"an attempt that died")
    assert vacuum_orphans(home, FEATURE_ROWS, dry_run=False).count == 0
    # Nobody can make objects of S3 older than they are.
    monkeypatch.setattr(unreferenced, "UNREFERENCED_KEPT", timedelta(0))
    assert vacuum_orphans(home, FEATURE_ROWS, dry_run=True).count == 1
    assert vacuum_orphans(home, FEATURE_ROWS, dry_run=False).size_bytes == len(b"an attempt that died")
    assert vacuum_orphans(home, FEATURE_ROWS, dry_run=False).count == 0
    assert len(_rows(home)) == 48


def test_files_of_a_result_that_waits_for_its_commit_stay_however_old_they_are(on_disk: Home) -> None:
    added = _written(on_disk, 9)
    _age(on_disk.features.directory, days=30)
    now = datetime.now(UTC)
    write_plan(on_disk, Plan(9, "n", now, DAYS[0], on_disk.landing.uri, "", "abc", ()))
    write_result(on_disk, Result(9, "n", now, {"features": (added,)}, (), BatchCounters(6)))
    _maintain(on_disk)
    for table in TABLES:
        commit(on_disk, table, 9, "n", [added] if table is FEATURE_ROWS else [])
    assert len(_rows(on_disk)) == 54


def test_a_log_keeps_what_a_day_needs_and_who_opened_the_table_before_goes_on(on_disk: Home) -> None:
    _checkpoint_often(on_disk)
    tables, stale = OpenTables(on_disk), open_table(on_disk, FEATURE_ROWS)
    assert stale is not None
    assert tables.look(FEATURE_ROWS)[1] == 8
    for number in range(9, 50):
        commit(on_disk, FEATURE_ROWS, number, "a test", [])
    log = on_disk.features.directory / "_delta_log"
    _age(log, days=2)
    shortened = next(piece for piece in _maintain(on_disk) if isinstance(piece, LogRemoval))
    assert shortened.removed.count > 30
    assert committed_batch(open_table(on_disk, FEATURE_ROWS)) == 49
    assert stale.to_pyarrow_table().num_rows == 48

    # It looks again before it commits, and finds that it is behind.
    commit(on_disk, FEATURE_ROWS, 49, "a test", [_written(on_disk, 9)], tables)
    commit(on_disk, FEATURE_ROWS, 50, "a test", [], tables)
    assert (committed_batch(open_table(on_disk, FEATURE_ROWS)), len(_rows(on_disk))) == (50, 48)


def test_a_commit_below_what_a_log_still_has_is_refused(on_disk: Home) -> None:
    _checkpoint_often(on_disk)
    stale = open_table(on_disk, FEATURE_ROWS)
    assert stale is not None
    for number in range(9, 50):
        commit(on_disk, FEATURE_ROWS, number, "a test", [])
    _age(on_disk.features.directory / "_delta_log", days=2)
    shorten_log(on_disk, FEATURE_ROWS)
    with pytest.raises(Exception, match=r"Invalid table version|concurrent transaction"):
        commits._write(
            on_disk, FEATURE_ROWS, stale, commits._additions([_written(on_disk, 9)]), [Transaction("fruits", 9)]
        )
    assert len(_rows(on_disk)) == 48


def _checkpoint_often(home: Home) -> None:
    # A log is shortened up to a checkpoint, which otherwise comes with every hundredth commit.
    DeltaTable(str(home.features.directory)).alter.set_table_properties({"delta.checkpointInterval": "20"})


def test_tables_made_before_forget_as_new_ones_do_and_a_stream_goes_on(on_disk: Home) -> None:
    handle = DeltaTable(str(on_disk.features.directory))
    handle.alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})
    tables = OpenTables(on_disk)
    assert tables.look(FEATURE_ROWS)[1] == 8
    _maintain(on_disk)
    commit(on_disk, FEATURE_ROWS, 9, "a test", [], tables)
    configuration = DeltaTable(str(on_disk.features.directory)).metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 1 days"
    assert "batch" in configuration["delta.dataSkippingStatsColumns"]


def test_on_s3_too_a_log_is_shortened(on_s3: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = on_s3
    for number in range(9, 21):
        commit(home, FEATURE_ROWS, number, "a test", [])
    monkeypatch.setitem(handles.RETENTION, "delta.logRetentionDuration", "interval 0 seconds")
    shorten_log(home, FEATURE_ROWS)
    shorten_log(home, FEATURE_ROWS)
    assert len([key for key in keys_below(home.features) if key.endswith(".json")]) < 5
    assert committed_batch(open_table(home, FEATURE_ROWS)) == 20
    assert len(_rows(home)) == 48


def test_a_dry_run_tells_and_changes_nothing(on_disk: Home) -> None:
    overwrite(on_disk.features, "ingest_date=2026-10-03/part-old.zstd.parquet", b"an attempt that died")
    overwrite(on_disk.archive, "kiwi/1.e.jpg", b"a photo")
    _age(on_disk.features.directory, days=3)
    before = set(keys_below(on_disk.root))
    pieces = _maintain(on_disk, Retention(timedelta(0), timedelta(days=15)), dry_run=True)
    assert set(keys_below(on_disk.root)) - before <= {"state/lease.json"}
    assert before <= set(keys_below(on_disk.root))
    assert [piece.removed.count for piece in pieces if isinstance(piece, OrphanRemoval)] == [1, 0, 0, 0]
    assert [piece.expired.count for piece in pieces if isinstance(piece, Expiry)] == [1, 48, 0, 0, 0]
    assert len([piece for piece in pieces if isinstance(piece, Compaction)]) == 2


def test_the_command_says_what_it_saved_and_refuses_beside_another(
    on_disk: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["maintain", "--home", str(on_disk.root.directory)]
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert (dry.exit_code, "features of 2026-10-03: 4 files of" in dry.output) == (0, True)
    assert "A dry run: nothing was changed." in dry.output
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "Done: 6 files fewer in the tables" in done.output) == (0, True)
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.1)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    with hold_lease(on_disk, "fruits reproject", lambda _: None):
        refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, HomeInUse)


def test_archived_photos_go_after_their_time_and_others_stay(home: Home) -> None:
    for place, key in ((home.archive, "kiwi/1.e.jpg"), (home.landing, "kiwi/2.jpg")):
        place.create()
        overwrite(place, key, b"a photo")
    _maintain(home, Retention(archive=timedelta(days=1)))
    assert list(keys_below(home.archive)) == ["kiwi/1.e.jpg"]
    pieces = _maintain(home, Retention(archive=timedelta(0)))
    assert [(p.place, p.expired.count, p.expired.size_bytes) for p in pieces if isinstance(p, Expiry)] == [
        ("archive", 1, 7)
    ]
    assert list(keys_below(home.archive)) == []
    assert list(keys_below(home.landing)) == ["kiwi/2.jpg"]


def test_old_pages_go_and_certificates_stay(on_disk: Home) -> None:
    for key in ("20261001T000000Z.html", "erasures/1.json"):
        overwrite(on_disk.reports, key, b"<html>")
    _age(on_disk.reports.directory, days=31)
    overwrite(on_disk.reports, "20261101T000000Z.html", b"<html>")
    pieces = _maintain(on_disk, Retention(reports=timedelta(days=30)))
    assert [(p.place, p.expired.count, p.expired.size_bytes) for p in pieces if isinstance(p, Expiry)] == [
        ("reports", 1, 6)
    ]
    assert sorted(keys_below(on_disk.reports)) == ["20261101T000000Z.html", "erasures/1.json"]


def test_a_photo_that_was_old_when_it_was_archived_is_kept_as_long(on_disk: Home) -> None:
    overwrite(on_disk.archive, "kiwi/1.e.jpg", b"a photo")
    _age(on_disk.archive.directory, days=400)
    _maintain(on_disk, Retention(archive=timedelta(days=1)))
    assert list(keys_below(on_disk.archive)) == ["kiwi/1.e.jpg"]


@pytest.mark.processes
def test_old_rows_go_from_all_tables_and_every_promise_holds(spark: SparkSession, local_settings: MakeSettings) -> None:
    settings = local_settings()
    home = _with_rows(settings.places())
    _land(home, range(3))
    ingest(settings)
    _refit(spark, home)
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    assert read_status(home, verify=True).broken == []

    _maintain(home, Retention(rows=timedelta(days=15)))
    assert read_status(home, verify=True).broken == []
    assert [len(rows(settings, f"SELECT * FROM {table.name}")) for table in TABLES] == [3, 3, 1]
    incremental, full = (_sum(spark, home, full=full).sums.moments for full in (False, True))
    np.testing.assert_allclose(incremental.mean, full.mean, rtol=1e-12)
    np.testing.assert_allclose(incremental.triangle, full.triangle, rtol=0, atol=1e-9)
    assert incremental.rows == full.rows == 3


def test_photos_whose_rows_expired_are_not_taken_for_new(local_settings: MakeSettings, drain: Drain) -> None:
    settings = local_settings()
    home = settings.places()
    _land(home, range(3))
    ingest(settings)
    in_a_while = datetime.now(UTC) + timedelta(days=40)
    expire_rows(home, FEATURE_ROWS, timedelta(days=15), in_a_while, dry_run=False)
    # Killed between two tables: nobody calls that lost or doubled.
    assert read_status(home, verify=True).broken == []
    assert drain(settings).photos == 0
    for table in TABLES:
        expire_rows(home, table, timedelta(days=15), in_a_while, dry_run=False)
    assert drain(settings).photos == 0
    assert rows(settings, "SELECT * FROM features") == []
    assert read_status(home, verify=True).broken == []


def test_old_copies_are_compacted_and_go_alone_or_with_their_rows(local_settings: MakeSettings, drain: Drain) -> None:
    settings = local_settings()
    home = settings.places()
    for numbers in (range(2), range(2, 4)):
        _land(home, numbers)
        ingest(settings.model_copy(update={"copies": True}))
    in_a_while = datetime.now(UTC) + timedelta(days=40)
    [group] = [group for group in groups_to_compact(home, in_a_while) if group.table is COPY_ROWS]
    before = rows(settings, "SELECT * FROM copies ORDER BY source")
    [(_, size_bytes)] = compact(home, [group], check=lambda: None)
    assert rows(settings, "SELECT * FROM copies ORDER BY source") == before
    [file] = data_files(open_table(home, COPY_ROWS))
    assert (file.rows, file.batches, file.size_bytes) == (4, (1, 2), size_bytes)
    # The smallest and the largest picture would be a copy of both.
    metadata = pq.read_metadata(home.copies.directory / file.path)
    assert metadata.row_group(0).column(metadata.schema.names.index("jpeg")).statistics is None
    pieces = _maintain(home, Retention(copies=timedelta(days=15)))
    assert [piece.expired.count for piece in pieces if isinstance(piece, Expiry) and piece.place == "copies"] == [0]
    assert "copies" in {piece.table for piece in pieces if isinstance(piece, OrphanRemoval)}
    assert len(rows(settings, "SELECT * FROM copies")) == 4

    assert expire_copies(home, timedelta(days=15), in_a_while, dry_run=True).count == 4
    assert expire_copies(home, timedelta(days=15), in_a_while, dry_run=False).count == 4
    assert rows(settings, "SELECT * FROM copies") == []
    assert len(rows(settings, "SELECT * FROM features")) == 4
    assert read_status(home, verify=True).broken == []
    assert drain(settings).photos == 0
    # Rows that are too old are no more, whatever is kept of copies.
    for table in tables_of_batches(home):
        expire_rows(home, table, timedelta(days=15), in_a_while, dry_run=False)
        assert read_status(home, verify=True).broken == []


def _land(home: Home, numbers: range) -> None:
    for number in numbers:
        overwrite(home.landing, f"kiwi/{number}.jpg", jpeg(number))
    overwrite(home.landing, "kiwi/notes.txt", text_file())


def _refit(spark: SparkSession, home: Home) -> None:
    refit(spark.sparkContext, home, RefitOptions(2, None, 2), False, False, lambda _, __: None)


def _sum(spark: SparkSession, home: Home, full: bool = False) -> SumsOfDays:
    """What a refit fits on."""
    featurizer = str(current_featurizer(home))
    return sum_days(
        spark.sparkContext, home, featurizer, list_days(home), full=full, keep=True, on_progress=lambda _, __: None
    )


def test_stored_sums_hold_after_compaction(spark: SparkSession, on_disk: Home) -> None:
    _sum(spark, on_disk)
    _maintain(on_disk)
    again = _sum(spark, on_disk)
    assert (sum(again.rows_read.values()), sum(again.rows_stored.values())) == (0, 48)


@pytest.mark.parametrize(
    "sign", ["state/lease.json", "*/ingest_date=*/*", "*/_delta_log/*.json", "*/_delta_log/*check*"]
)
@pytest.mark.processes
def test_killed_once_there_is_a_sign_of_its_work_it_loses_nothing_and_a_replay_finishes(
    on_disk: Home, sign: str
) -> None:
    root = on_disk.root.directory
    before, files = _rows(on_disk), set(root.glob(sign))
    command = [sys.executable, "-m", "ops", "maintain", "--home", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and set(root.glob(sign)) <= files:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert _rows(on_disk) == before
    assert read_status(on_disk, verify=True).broken == []

    _end_lease(on_disk)
    assert run_fruits("maintain", "--home", str(root)).returncode == 0
    assert _rows(on_disk) == before
    assert len(_files(on_disk)) == 2
    assert read_status(on_disk, verify=True).broken == []


def _end_lease(home: Home) -> None:
    # As if the 22 seconds had passed.
    (home.state.directory / "lease.json").unlink(missing_ok=True)


@pytest.mark.processes
def test_beside_a_stream_a_refit_and_a_reprojection(s3_settings: Callable[..., Settings], spark: SparkSession) -> None:
    settings = s3_settings()
    home = _with_rows(settings.places())
    home.landing.create()
    soon = timedelta(hours=1)
    with stream_process(settings) as process:
        for number in range(6):
            overwrite(home.landing, f"kiwi/{number}.jpg", jpeg(number))
            if number == 0:
                _wait_for(lambda: _photos(settings) == 1)
            if number % 4 == 1:
                _refit(spark, home)
                reproject(spark.sparkContext, home, print, lambda _, __: None)
            # What came in this hour, too, as if it were the next one.
            _compact(home, datetime.now(UTC) + soon)
            _maintain(home)
        _wait_for(lambda: _photos(settings) == 6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    _compact(home, datetime.now(UTC) + soon)
    assert len(rows(settings, "SELECT * FROM features")) == 48 + 6
    assert read_status(home, verify=True).broken == []


def _photos(settings: Settings) -> int:
    found = rows(settings, "SELECT count(*) AS n FROM features WHERE batch > 8")
    return int(found[0]["n"])


def _wait_for(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.5)


def test_a_home_without_tables_has_nothing_to_do(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "new")).places()
    assert [piece for piece in _maintain(home) if isinstance(piece, Compaction)] == []
    create_tables(home)
    assert [piece.removed.count for piece in _maintain(home) if isinstance(piece, OrphanRemoval)] == [0, 0, 0, 0]
