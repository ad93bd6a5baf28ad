"""A reject that is tried again becomes a photo or is rejected again, once, whoever is killed where."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from batch.erase.erase import ErasureRequest, erase
from bootstrap.weights.weights import CompiledNetwork
from features.rejects import Reason, Rejected
from ops.cli.main import app
from ops.rejects import RejectFilter, select_retries
from ops.status.status import read_status
from ops.status.verification import check_invariants
from store.home import Home
from store.models.registry import publish_featurizer
from store.objects.landing import LandedObject, archived_name, fetch
from store.objects.operations import overwrite
from store.settings import Settings, load_settings
from store.state.claim import hold_claim
from store.state.heartbeat import read_heartbeat
from store.state.plans import AddedFile, Plan, Retried, delete_from_plan, read_plan
from store.state.retries import Retry, list_requests, request_retries
from store.tables import reject_rows
from store.tables.commits import MAINTENANCE, commit, replace_files
from store.tables.files import data_files, write_file
from store.tables.handles import create_tables, open_table
from store.tables.reject_rows import RejectRow, existing_rejects
from store.tables.schemas import REJECT_ROWS
from streaming.cleaning.cleaner import Cleaner
from streaming.discovery.processed_index import Day, Outcome, ProcessedIndex
from streaming.discovery.snapshot import load_processed_index, write_snapshot
from streaming.planner import Planner
from streaming.service import stream_in
from tests.support.feature_rows import serve_a_model
from tests.support.pictures import jpeg, text_file, truncated_jpeg
from tests.support.stream_run import Run, rows, run_here

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

NOW = datetime(2026, 10, 3, 12, tzinfo=UTC)
DROPPED = {
    "kiwi/small.jpg": jpeg(seed=1),
    "kiwi/big.jpg": jpeg(seed=2, width_px=640, height_px=480),
    "kiwi/cut.jpg": truncated_jpeg(),
    "pear/notes.jpg": text_file(),
}


@pytest.fixture(scope="module")
def rejected(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a photo and three rejects, one for its size, all moved to the archive, which lies beside it."""
    folder = tmp_path_factory.mktemp("rejected")
    places = {name: str(folder / name) for name in ("home", "landing", "archive")}
    settings = load_settings(**places, trigger="100ms", settle="0s", clean="archive", max_pixels=100_000)
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint)
    serve_a_model(settings.places())
    for key, body in DROPPED.items():
        path = settings.places().landing.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings


@pytest.fixture(scope="module")
def retried(rejected: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """A copy of it in which the big photo and the notes were tried again by a stream with a raised limit."""
    home = tmp_path_factory.mktemp("retried") / "home"
    settings = _copied(rejected, home).model_copy(update={"max_pixels": 1_000_000})
    with _running(spark, settings, tmp_path_factory.mktemp("scratch")):
        command = ["rejects", "retry", "--wait", "--home", settings.home, "--landing", str(settings.landing)]
        asked = CliRunner().invoke(app, [*command, "--source", "kiwi/big.jpg", "--source", "pear/notes.jpg"])
    assert asked.exit_code == 0, asked.output
    return settings, asked.stdout


def _copied(settings: Settings, home: Path) -> Settings:
    shutil.copytree(settings.home, home)
    return settings.model_copy(update={"home": str(home)})


@contextmanager
def _running(spark: SparkSession, settings: Settings, scratch: Path) -> Iterator[None]:
    before = read_heartbeat(settings.places())
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(stream_in, spark, settings, False, stop, Run().watcher, scratch)
        try:
            while (sign := read_heartbeat(settings.places())) is None or (before and sign.nonce == before.nonce):
                assert not stream.done(), stream.exception()
                time.sleep(0.02)
            yield
        finally:
            stop.set()
        stream.result()


@pytest.fixture
def before(rejected: Settings, tmp_path: Path) -> Settings:
    """A copy of the home to ask something of."""
    return _copied(rejected, tmp_path / "home")


@pytest.fixture
def after(retried: tuple[Settings, str], tmp_path: Path) -> Settings:
    """A copy of the home after the retry, to break."""
    return _copied(retried[0], tmp_path / "home")


def test_a_raised_limit_makes_a_photo_of_a_reject_exactly_once(
    rejected: Settings, retried: tuple[Settings, str]
) -> None:
    settings, said = retried
    assert "Photos now: 1. Rejected again: not_an_image 1." in said
    photos = (
        "SELECT split_part(source, '/landing/', 2) AS key, label, batch, arrived_at, first_visible_at FROM features "
        "ORDER BY batch"
    )
    small, big = rows(settings, photos)
    assert (small["key"], big["key"], big["label"], big["batch"]) == ("kiwi/small.jpg", "kiwi/big.jpg", "kiwi", 2)
    when = "SELECT arrived_at, first_visible_at FROM rejects WHERE source LIKE '%/kiwi/big.jpg'"
    [reject] = rows(rejected, when)
    assert (big["arrived_at"], big["first_visible_at"]) == (reject["arrived_at"], reject["first_visible_at"])
    assert rows(settings, "SELECT count(*) AS n FROM features JOIN current_projections USING (batch, source)") == [
        {"n": 2}
    ]
    left = "SELECT split_part(source, '/landing/', 2) AS key, reason, batch FROM rejects ORDER BY key"
    assert rows(settings, left) == [
        {"key": "kiwi/cut.jpg", "reason": "truncated", "batch": 1},
        {"key": "pear/notes.jpg", "reason": "not_an_image", "batch": 2},
    ]
    assert read_status(settings.places(), verify=True).broken == []
    assert list_requests(settings.places()) == []


def test_the_books_hold_from_plans_from_a_snapshot_and_from_the_tables(after: Settings, tmp_path: Path) -> None:
    home = after.places()
    today = _recalled(home, tmp_path / "plans.sqlite")
    assert [(day.batches, day.photos, day.rejects) for day in today] == [(2, 2, 2)]
    seen = load_processed_index(home, tmp_path / "snapshot.sqlite")
    write_snapshot(home, seen)
    seen.close()
    assert _recalled(home, tmp_path / "from_snapshot.sqlite") == today
    assert read_status(home, verify=True).broken == []
    shutil.rmtree(home.state.directory)
    assert read_status(home, verify=True).broken == []


def _recalled(home: Home, file: Path) -> list[Day]:
    seen = load_processed_index(home, file)
    days = seen.days
    seen.close()
    return days


def test_a_retry_that_commits_while_promises_are_checked_breaks_none(
    rejected: Settings, retried: tuple[Settings, str], tmp_path: Path
) -> None:
    seen = load_processed_index(rejected.places(), tmp_path / "seen.sqlite")
    assert check_invariants(retried[0].places(), 1, [1], seen.days, seen.info) == []
    assert check_invariants(retried[0].places(), 2, [1, 2], seen.days, seen.info) == []
    seen.close()


def test_a_retried_reject_whose_old_row_is_still_there_is_found(rejected: Settings, after: Settings) -> None:
    home = after.places()
    standing = open_table(rejected.places(), REJECT_ROWS)
    assert standing is not None
    old = standing.to_pyarrow_table()
    columns = {name: old[name].to_pylist() for name in REJECT_ROWS.file_schema.names}
    added = write_file(home, REJECT_ROWS, columns, {"ingest_date": str(old["ingest_date"][0])})
    commit(home, REJECT_ROWS, 3, "a wrong hand", [added])
    broken = read_status(home, verify=True).broken
    assert broken is not None
    assert "2 rows belong to no object of their batch's plan." in broken
    assert "1 batches hold other numbers of rows than their results counted." in broken


def test_who_was_tried_again_can_be_erased_and_leaves_no_name_and_right_books(
    retried: tuple[Settings, str], after: Settings, tmp_path: Path
) -> None:
    home = _with_an_archive_of_its_own(after, tmp_path)
    request_retries(home, home.landing.uri, _retries(after, "pear/notes.jpg"), 0)
    for key in ("kiwi/big.jpg", "pear/notes.jpg"):
        _erase(home, key)
    assert read_status(home, verify=True).broken == []
    assert [(row.key, row.batch) for row in _plan(home, 2).retried] == [(None, 1), (None, 1)]
    for state in (home.batches, home.state.child("requests")):
        assert not [path for path in state.directory.iterdir() if b"notes" in path.read_bytes()]


def test_who_is_erased_before_the_retry_is_planned_is_not_tried_again(before: Settings, tmp_path: Path) -> None:
    home = _with_an_archive_of_its_own(before, tmp_path)
    request_retries(home, home.landing.uri, _retries(before, "kiwi/big.jpg", "pear/notes.jpg"), 0)
    _erase(home, "kiwi/big.jpg")
    with _planner(before, tmp_path / "channel") as planner:
        assert _next_batch(planner) == 2
    assert [landed.key for landed in _plan(home, 2).objects] == ["pear/notes.jpg"]
    assert list_requests(home) == []
    dropped = delete_from_plan(home, 2, lambda _, landed: landed.key == "pear/notes.jpg")
    assert dropped is not None
    assert (dropped.objects, dropped.retried) == ((), ())


def _with_an_archive_of_its_own(settings: Settings, folder: Path) -> Home:
    shutil.copytree(settings.places().archive.directory, folder / "archive")
    return settings.model_copy(update={"archive": str(folder / "archive")}).places()


def _erase(home: Home, key: str) -> None:
    erase(home, ErasureRequest("source", home.landing.uri_of(key)), print, lambda _, __: None, copy_s=0)


def test_killed_between_the_result_and_the_rejects_commit_it_is_rolled_forward(
    retried: tuple[Settings, str], after: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    (Path(after.home) / "rejects/_delta_log/00000000000000000002.json").unlink()
    everything = "SELECT source, batch, reason FROM rejects ORDER BY source"
    assert len(rows(after, everything)) == 3

    [report] = run_here(spark, after, tmp_path).reports

    assert (report.batch, report.replayed) == (2, True)
    assert rows(after, everything) == rows(retried[0], everything)
    assert len(rows(after, "SELECT * FROM features")) == 2
    assert read_status(after.places(), verify=True).broken == []


@contextmanager
def _planner(settings: Settings, folder: Path) -> Iterator[Planner]:
    folder.mkdir()
    home = settings.places()
    with hold_claim(home, threading.Event(), print, False, lambda: None) as heart:
        assert heart is not None
        settings = settings.model_copy(update={"clean": "archive"})
        yield Planner(home, settings, False, heart.nonce, Cleaner(home, settings), folder)


def _next_batch(planner: Planner) -> int:
    planner.next_batch()
    return planner.newest


def _plan(home: Home, batch: int) -> Plan:
    plan = read_plan(home, batch)
    assert plan is not None
    return plan


def _retries(settings: Settings, *keys: str) -> tuple[Retry, ...]:
    home = settings.places()
    sources = tuple(home.landing.uri_of(key) for key in keys)
    return select_retries(home, RejectFilter(sources=sources)).retries


def test_what_two_requests_name_is_planned_once_also_after_a_kill_before_their_deletion(
    before: Settings, tmp_path: Path
) -> None:
    home = before.places()
    both, one = _retries(before, "kiwi/big.jpg", "kiwi/cut.jpg"), _retries(before, "kiwi/big.jpg")
    request_retries(home, home.landing.uri, both, 0)
    request_retries(home, home.landing.uri, one, 0)

    with _planner(before, tmp_path / "first") as planner:
        assert [_next_batch(planner), _next_batch(planner)] == [2, 2]

    plan = _plan(home, 2)
    assert {landed.key for landed in plan.objects} == {"kiwi/big.jpg", "kiwi/cut.jpg"}
    assert {row.key for row in plan.retried} == {"kiwi/big.jpg", "kiwi/cut.jpg"}
    assert list_requests(home) == []
    request_retries(home, home.landing.uri, both, 0)
    with _planner(before, tmp_path / "second") as planner:
        assert [_next_batch(planner) for _ in range(3)] == [2, 2, 2]
    assert read_plan(home, 3) is None
    assert len(list_requests(home)) == 1


def test_a_request_whose_rows_are_gone_plans_nothing_and_is_deleted(
    rejected: Settings, after: Settings, tmp_path: Path
) -> None:
    home = after.places()
    request_retries(home, home.landing.uri, _retries(rejected, "kiwi/big.jpg", "pear/notes.jpg"), 0)
    with _planner(after, tmp_path / "channel") as planner:
        assert _next_batch(planner) == 2
    assert list_requests(home) == []


def test_an_upload_under_the_same_key_is_planned_after_the_retry(before: Settings, tmp_path: Path) -> None:
    home = before.places()
    [retry] = _retries(before, "kiwi/big.jpg")
    request_retries(home, home.landing.uri, [retry], 0)
    upload = home.landing.directory / "kiwi/big.jpg"
    upload.write_bytes(jpeg(seed=3))
    try:
        with _planner(before, tmp_path / "channel") as planner:
            _until(lambda: _next_batch(planner) == 3)
    finally:
        upload.unlink()

    first, second = _plan(home, 2), _plan(home, 3)
    assert [(landed.key, landed.etag) for landed in first.objects] == [("kiwi/big.jpg", retry.landed.etag)]
    assert first.retried == (Retried("kiwi/big.jpg", 1, retry.ingest_date),)
    assert [landed.key for landed in second.objects] == ["kiwi/big.jpg"]
    assert (second.objects[0].etag != retry.landed.etag, second.retried) == (True, ())


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.05)


def test_a_request_of_another_landing_or_that_cannot_be_read_stops_nothing_and_stays(
    before: Settings, tmp_path: Path
) -> None:
    home = before.places()
    request_retries(home, "file:///elsewhere", _retries(before, "kiwi/big.jpg"), 0)
    overwrite(home.state, "requests/retry-torn.json", b"{")
    with _planner(before, tmp_path / "channel") as planner:
        assert _next_batch(planner) == 1
    assert len(list_requests(home)) == 2


def test_who_compacts_at_the_same_moment_neither_brings_rows_back_nor_doubles_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = load_settings(home=str(tmp_path)).places()
    create_tables(home)
    for batch in (1, 2):
        commit(home, REJECT_ROWS, batch, "a test", [_rejects(home, batch, range(3))])
    really_write, compactions = reject_rows.rewrite_file, []

    def write_after_a_compaction(*arguments: object) -> AddedFile:
        if not compactions:
            compactions.append(_compact(home))
        return really_write(*arguments)

    monkeypatch.setattr(reject_rows, "rewrite_file", write_after_a_compaction)
    gone = {_row(home, 1, 0), _row(home, 2, 2)}
    commit(home, REJECT_ROWS, 3, "a test", [_rejects(home, 3, range(1))], deleted=gone)

    assert len(compactions) == 1
    everything = [_row(home, batch, number) for batch in (1, 2) for number in range(3)]
    assert existing_rejects(home, everything) == set(everything) - gone
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    assert sum(file.rows for file in data_files(handle)) == 5
    log = "".join(path.read_text() for path in Path(tmp_path, "rejects/_delta_log").glob("*.json"))
    assert "anna" not in log


def _rejects(home: Home, batch: int, numbers: range) -> AddedFile:
    count = len(numbers)
    return write_file(
        home,
        REJECT_ROWS,
        {
            "source": [_row(home, batch, number).source for number in numbers],
            "etag": ["e"] * count,
            "bytes": [1000] * count,
            "arrived_at": [NOW] * count,
            "reason": ["empty"] * count,
            "detail": ["The file has no bytes."] * count,
            "batch": [batch] * count,
            "ingested_at": [NOW] * count,
        },
        {"ingest_date": NOW.date().isoformat()},
    )


def _row(home: Home, batch: int, number: int) -> RejectRow:
    return RejectRow(f"{home.landing.uri}/anna/{batch}-{number}.jpg", "e", batch, NOW.date())


def _compact(home: Home) -> str:
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    files = data_files(handle)
    columns = handle.to_pyarrow_table().drop(["ingest_date"])
    content = {name: columns[name].to_pylist() for name in columns.column_names}
    added = write_file(home, REJECT_ROWS, content, {"ingest_date": NOW.date().isoformat()})
    replace_files(home, REJECT_ROWS, handle, files, [added], MAINTENANCE)
    return added.path


def test_days_and_rows_of_which_no_day_is_known_lose_what_was_retried(tmp_path: Path) -> None:
    seen = ProcessedIndex(tmp_path / "seen.sqlite")
    day, next_day = date(2026, 10, 3), date(2026, 10, 4)
    seen.set_info(through=4, days_since=4, rows_before_days=10)
    seen.committed(5, Outcome(NOW, day, 3, 2, (b"a", b"b")))
    later = Outcome(NOW, next_day, 2, 1, (b"c",), retried=((3, day), (5, day), (5, day)))
    seen.committed(6, later)
    seen.committed(6, later)
    assert seen.days == [Day(day, 1, 3, 0), Day(next_day, 1, 2, 1)]
    assert seen.info.rows_before_days == 9
    seen.close()


def test_on_s3_a_photo_that_is_tried_again_comes_from_the_landing_or_from_the_archive(
    bucket: str, s3_server: str, s3: "S3Client"
) -> None:
    home = load_settings(home=f"s3://{bucket}", s3_endpoint=s3_server, s3_region="eu-west-3").places()
    body = jpeg(seed=1)
    put = s3.put_object(Bucket=bucket, Key="landing/kiwi/a.jpg", Body=body)
    landed = LandedObject("kiwi/a.jpg", len(body), put["ETag"].strip('"'), NOW)
    archived = f"archive/{archived_name(landed)}"
    assert fetch(home.landing, landed, home.archive) == body
    s3.put_object(Bucket=bucket, Key="landing/kiwi/a.jpg", Body=b"another")
    s3.put_object(Bucket=bucket, Key=archived, Body=body)
    assert fetch(home.landing, landed, home.archive) == body
    with pytest.raises(Rejected) as replaced:
        fetch(home.landing, landed)
    s3.delete_object(Bucket=bucket, Key=archived)
    with pytest.raises(Rejected) as replaced_and_not_archived:
        fetch(home.landing, landed, home.archive)
    s3.delete_object(Bucket=bucket, Key="landing/kiwi/a.jpg")
    with pytest.raises(Rejected) as gone:
        fetch(home.landing, landed, home.archive)
    assert replaced.value.reason == replaced_and_not_archived.value.reason == Reason.REPLACED
    assert gone.value.reason == Reason.MISSING
