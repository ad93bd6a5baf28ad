"""Killed anywhere, raced by a rival, lied to by the network: every photo has one row."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter
from pyspark.sql import SparkSession

from batch.reproject import reproject
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.errors import AnotherStreamRunning, StateDamaged
from store.objects.operations import delete_all, overwrite, read
from store.settings import Settings, load_settings
from store.state import claim, heartbeat
from store.state.heartbeat import HEARTBEAT_KEY, Heartbeat, read_heartbeat
from store.state.plans import planned_batches, read_plan, write_plan
from store.tables.schemas import TABLES
from streaming.service import stream_in
from tests.support.fault_proxy import Rule, set_rules, unused_rules
from tests.support.feature_rows import serve_a_model
from tests.support.pictures import jpeg, text_file, truncated_jpeg
from tests.support.stream_run import Run, drop, outcomes, rows, run_here, stream_process, with_featurizer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

PHOTOS = {
    f"{label}/{number}.jpg": jpeg(seed=100 * len(label) + number)
    for number in range(6)
    for label in ("kiwi", "pear-tree")
}
DROPPED = {**PHOTOS, "pear-tree/notes.jpg": text_file(), "kiwi/cut.jpg": truncated_jpeg()}


def _as_after_the_plan(home: Path) -> None:
    for table in TABLES:
        shutil.rmtree(home / table.name)
    (home / "state/batches/000000000001.result.json").unlink()


def _as_after_the_result(home: Path) -> None:
    for table in TABLES:
        (home / table.name / "_delta_log/00000000000000000001.json").unlink()


def _as_between_commits(home: Path) -> None:
    for table in TABLES[1:]:
        (home / table.name / "_delta_log/00000000000000000001.json").unlink()


def _as_after_all_commits(home: Path) -> None:
    assert (home / "rejects/_delta_log/00000000000000000001.json").exists()


@pytest.fixture(scope="module")
def finished(
    spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, list[dict[str, Any]]]:
    """A home that ran undisturbed, and its outcomes."""
    home = tmp_path_factory.mktemp("finished") / "home"
    settings = with_featurizer(load_settings(home=str(home), trigger="100ms", settle="0s"), untrained)
    serve_a_model(settings.places())
    drop(settings, DROPPED)
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings, outcomes(settings)


@pytest.fixture
def copied(finished: tuple[Settings, list[dict[str, Any]]], tmp_path: Path) -> Settings:
    """A copy of it, to damage."""
    settings, _ = finished
    shutil.copytree(settings.home, tmp_path / "home")
    return settings.model_copy(update={"home": str(tmp_path / "home")})


@pytest.fixture
def landed(local_settings: MakeSettings) -> Settings:
    """A home with a model and with photos that no stream has seen."""
    settings = local_settings()
    serve_a_model(settings.places())
    drop(settings, DROPPED)
    return settings


@pytest.mark.processes
@pytest.mark.parametrize("state_is_lost", [False, True], ids=["state kept", "state lost"])
@pytest.mark.parametrize(
    "as_killed", [_as_after_the_plan, _as_after_the_result, _as_between_commits, _as_after_all_commits]
)
def test_a_home_as_a_kill_leaves_it_ends_with_the_same_rows(
    finished: tuple[Settings, list[dict[str, Any]]],
    copied: Settings,
    spark: SparkSession,
    drain: Drain,
    as_killed: Callable[[Path], None],
    state_is_lost: bool,
) -> None:
    _, undisturbed = finished
    as_killed(Path(copied.home))
    if state_is_lost:
        shutil.rmtree(Path(copied.home) / "state")

    drain(copied)
    if state_is_lost:
        # Without a result nobody knows the projections of a batch that only `features` holds.
        reproject(spark.sparkContext, copied.places(), print, lambda _, __: None)

    status = read_status(copied.places(), verify=True)
    assert outcomes(copied) == undisturbed
    assert (status.broken, status.backlog.files) == ([], 0)


def test_a_result_that_is_gone_while_a_table_holds_its_batch_stops_the_stream_and_says_what_to_do(
    finished: tuple[Settings, list[dict[str, Any]]], copied: Settings, spark: SparkSession, drain: Drain
) -> None:
    _, undisturbed = finished
    _as_between_commits(Path(copied.home))
    state = Path(copied.home) / "state/batches"
    (state / "000000000001.result.json").unlink()

    with pytest.raises(StateDamaged, match=r"Delete .*1\.plan\.json and start again.*Then run `fruits reproject`"):
        drain(copied)
    (state / "000000000001.plan.json").unlink()
    drain(copied)
    reproject(spark.sparkContext, copied.places(), print, lambda _, __: None)

    assert outcomes(copied) == undisturbed


def test_a_result_is_rolled_forward_without_running_a_task(copied: Settings, drain: Drain) -> None:
    home = Path(copied.home)
    files = sorted(home.glob("features/ingest_date=*/*"))
    _as_after_the_result(home)
    # A task would need what it works on and with.
    shutil.rmtree(home / "landing")
    shutil.rmtree(home / "models/featurizer")

    [report] = drain(copied).reports

    assert (report.replayed, report.counters.slots) == (True, 2)
    assert sorted(home.glob("features/ingest_date=*/*")) == files
    assert len(outcomes(copied)) == len(DROPPED)


@pytest.mark.processes
def test_a_batch_whose_result_came_first_waits_for_the_one_before(landed: Settings, drain: Drain) -> None:
    in_two = landed.model_copy(update={"max_files": 7})
    assert len(drain(in_two).reports) == 2
    undisturbed = outcomes(landed)
    home = landed.places().root.directory
    for table in TABLES:
        shutil.rmtree(home / table.name / "_delta_log")
    (home / "state/batches/000000000001.result.json").unlink()

    reports = drain(in_two).reports

    assert [(report.batch, report.replayed) for report in reports] == [(1, False), (2, True)]
    assert outcomes(landed) == undisturbed
    assert read_status(landed.places(), verify=True).broken == []


def test_a_photo_that_changes_between_attempts_has_one_outcome(copied: Settings, drain: Drain) -> None:
    _as_after_the_plan(Path(copied.home))
    drop(copied, {"kiwi/0.jpg": text_file()})

    drain(copied)

    of_the_key = "SELECT batch, reason FROM rejects WHERE source LIKE '%/kiwi/0.jpg' ORDER BY batch"
    assert rows(copied, of_the_key) == [{"batch": 1, "reason": "replaced"}, {"batch": 2, "reason": "not_an_image"}]
    assert rows(copied, "SELECT * FROM features WHERE source LIKE '%/kiwi/0.jpg'") == []
    assert read_status(copied.places(), verify=True).broken == []


@pytest.mark.processes
def test_sigkill_at_steps_that_leave_work_half_done_on_s3(
    s3_settings: MakeSettings,
    finished: tuple[Settings, list[dict[str, Any]]],
    drain: Drain,
    proxy: str,
    s3: "S3Client",
) -> None:
    settings = s3_settings(clean="archive")
    serve_a_model(settings.places())
    bucket = settings.home.removeprefix("s3://").split("/")[0]
    for key, body in DROPPED.items():
        s3.put_object(Bucket=bucket, Key=f"home/landing/{key}", Body=body)
    steps = [
        Rule("GET", r"/home/landing/", skip=5),
        Rule("DELETE", r"/home/landing/", skip=3),
    ]
    for step in steps:
        with stream_process(settings, "--drain", "--clean", "archive", endpoint=proxy) as process:
            set_rules(proxy, replace(step, signal_after=(process.pid, signal.SIGKILL)))
            assert process.wait(120) == -signal.SIGKILL, step.path
        assert unused_rules(proxy) == []

    drain(settings)

    _, undisturbed = finished
    assert outcomes(settings) == undisturbed
    assert read_status(settings.places(), verify=True).broken == []
    left = s3.list_objects_v2(Bucket=bucket, Prefix="home/landing/").get("Contents", [])
    archived = s3.list_objects_v2(Bucket=bucket, Prefix="home/archive/")["Contents"]
    assert (len(left), len(archived)) == (0, len(DROPPED))


@pytest.mark.processes
def test_writes_that_landed_though_their_answers_were_errors_are_our_own(
    s3_settings: MakeSettings, drain: Drain, proxy: str, s3: "S3Client"
) -> None:
    settings = s3_settings(s3_endpoint=proxy)
    serve_a_model(settings.places())
    bucket = settings.home.removeprefix("s3://").split("/")[0]
    for key, body in PHOTOS.items():
        s3.put_object(Bucket=bucket, Key=f"home/landing/{key}", Body=body)
    state = [Rule("PUT", rf"/state/batches/0+1\.{name}\.json", answer=500) for name in ("plan", "result")]
    set_rules(proxy, *state, Rule("PUT", r"/_delta_log/0+1\.json", answer=500, times=len(TABLES)))

    drain(settings)

    assert unused_rules(proxy) == []
    assert len(outcomes(settings)) == len(PHOTOS)
    assert read_status(settings.places(), verify=True).broken == []
    assert read_plan(settings.places(), 2) is None


@pytest.mark.processes
def test_of_two_streams_whose_claim_was_lost_at_least_one_stops_and_nothing_is_lost_or_doubled(
    landed: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    stop = threading.Event()
    run = Run()
    with ThreadPoolExecutor(1) as pool, stream_process(landed) as process:
        _wait_until(lambda: planned_batches(landed.places()) != [], timeout_s=90)
        (landed.places().state.directory / HEARTBEAT_KEY).unlink()
        here = pool.submit(stream_in, spark, landed, False, stop, run.watcher, tmp_path)
        try:
            # Photos keep coming, so that both have something to plan, until one of the two ends.
            for number in range(1000):
                (landed.places().landing.directory / f"kiwi/late-{number}.jpg").write_bytes(jpeg(seed=number))
                if here.done() or process.poll() is not None:
                    break
                time.sleep(0.1)
        finally:
            stop.set()
        if here.exception() is None:
            _, message = process.communicate(timeout=60)
            assert process.returncode == 3
            assert "Another stream works on this home" in message
        else:
            assert isinstance(here.exception(), AnotherStreamRunning)
            process.send_signal(signal.SIGTERM)
            _, message = process.communicate(timeout=60)
            # With batches in flight on both, each may lose one to the other.
            assert process.returncode == 0 or "Another stream works on this home" in message
    assert read_status(landed.places(), verify=True).broken == []


@pytest.mark.processes
def test_a_driver_paused_while_another_took_over_cannot_commit(
    s3_settings: MakeSettings, drain: Drain, proxy: str, s3: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "TAKEN_OVER_AFTER_S", 3.0)
    settings = s3_settings()
    serve_a_model(settings.places())
    bucket = settings.home.removeprefix("s3://").split("/")[0]
    for key, body in DROPPED.items():
        s3.put_object(Bucket=bucket, Key=f"home/landing/{key}", Body=body)
    with stream_process(settings, "--drain", endpoint=proxy) as paused:
        set_rules(proxy, Rule("PUT", r"/features/ingest_date", signal_before=(paused.pid, signal.SIGSTOP)))
        _wait_until(lambda: unused_rules(proxy) == [], timeout_s=90)
        drain(settings)
        undisturbed = outcomes(settings)
        theirs = read(settings.places().state, HEARTBEAT_KEY)
        paused.send_signal(signal.SIGCONT)
        _, message = paused.communicate(timeout=90)
    assert paused.returncode == 3
    assert "Another stream works on this home" in message
    assert read(settings.places().state, HEARTBEAT_KEY) == theirs
    assert outcomes(settings) == undisturbed
    assert len(undisturbed) == len(DROPPED)
    assert read_status(settings.places(), verify=True).broken == []


@pytest.mark.parametrize(
    "claim_is", ["lost", "another's", pytest.param("another's that ended", marks=pytest.mark.processes)]
)
def test_only_the_stream_that_holds_the_home_plans(
    local_settings: MakeSettings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_is: str
) -> None:
    # Nothing but the planner looks for another stream.
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 600.0)
    settings = local_settings()
    home, stop, run = settings.places(), threading.Event(), Run()
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(stream_in, spark, settings, False, stop, run.watcher, tmp_path)
        try:
            _wait_until(lambda: run.news != [] or here.done(), timeout_s=90)
            ours = read_heartbeat(home)
            assert ours is not None
            if claim_is == "lost":
                delete_all(home.state, [HEARTBEAT_KEY])
            else:
                ended_at = ours.beat_at if "ended" in claim_is else None
                theirs = TypeAdapter(Heartbeat).dump_json(replace(ours, nonce="theirs", ended_at=ended_at))
                overwrite(home.state, HEARTBEAT_KEY, theirs)
            drop(settings, DROPPED)
            _wait_until(lambda: run.photos >= len(PHOTOS) or here.done(), timeout_s=90)
        finally:
            stop.set()
    if claim_is == "lost":
        assert here.exception() is None
        assert (run.photos, read_heartbeat(home) is not None) == (len(PHOTOS), True)
    else:
        assert isinstance(here.exception(), AnotherStreamRunning)
        assert planned_batches(home) == []
        assert read(home.state, HEARTBEAT_KEY) == theirs


def test_a_plan_of_another_stream_is_not_overwritten(copied: Settings) -> None:
    home = copied.places()
    plan = read_plan(home, 1)
    assert plan is not None
    with pytest.raises(AnotherStreamRunning):
        write_plan(home, replace(plan, nonce="rival"))
    assert read_plan(home, 1) == plan


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_the_plan_names_what_its_batch_is(finished: tuple[Settings, list[dict[str, Any]]]) -> None:
    plan = json.loads((Path(finished[0].home) / "state/batches/000000000001.plan.json").read_bytes())
    assert {entry["key"] for entry in plan["objects"]} == set(DROPPED)
