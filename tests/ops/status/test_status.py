"""Status tells how a home stands, also beside a running stream, and finds every way to break a promise."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deltalake import DeltaTable
from pydantic import TypeAdapter
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from bootstrap.weights.weights import CompiledNetwork
from features.errors import InvalidSetting
from ops.cli.main import app
from ops.status.queue_status import QueueStatus, read_queue_status
from ops.status.status import MANY_SMALL_FILES, Switch, read_status
from store.errors import StateDamaged
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from store.models.registry import publish_featurizer
from store.objects.landing import LandedObject
from store.objects.operations import overwrite
from store.settings import Settings, load_settings
from store.state.heartbeat import HEARTBEAT_KEY, Heartbeat, Messages, StreamSettings, Vitals, Waiting, read_heartbeat
from store.state.plans import Plan, write_plan
from store.tables.commits import append_once, commit
from store.tables.files import write_file
from store.tables.projections import KEPT_COLUMNS, Projected, write_projections
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS
from streaming.discovery.arrivals import Backlog
from tests.support.feature_rows import commit_features, feature_vectors, fitted
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, run_here

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient


ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def finished(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of three photos and a reject, its landing beside it."""
    folder = tmp_path_factory.mktemp("finished")
    settings = load_settings(home=str(folder / "home"), landing=str(folder / "landing"), trigger="100ms", settle="0s")
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint)
    landing = settings.places().landing.directory
    landing.mkdir(parents=True)
    for number in range(3):
        (landing / f"{number}.jpg").write_bytes(jpeg(seed=number))
    (landing / "notes.jpg").write_bytes(text_file())
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings


@pytest.fixture
def drained(finished: Settings, tmp_path: Path) -> Settings:
    """A copy of it to break."""
    shutil.copytree(finished.home, tmp_path / "home")
    return finished.model_copy(update={"home": str(tmp_path / "home")})


def test_a_sound_home(drained: Settings) -> None:
    status = read_status(drained.places(), verify=True)
    assert status.broken == []
    assert status.last_batch is not None
    assert (status.last_batch.batch, status.last_batch.photos, status.last_batch.rejects) == (1, 3, 1)
    assert {table.name: table.rows for table in status.tables} == {"features": 3, "projections": 0, "rejects": 1}
    assert status.backlog.files == 0


def test_the_backlog_is_what_no_batch_holds(drained: Settings) -> None:
    late = drained.places().landing.directory / "late.jpg"
    late.write_bytes(jpeg(seed=9))
    backlog = read_status(drained.places(), verify=False).backlog
    late_bytes = late.stat().st_size
    late.unlink()
    assert (backlog.files, backlog.bytes) == (1, late_bytes)
    assert backlog.oldest_arrived_at is not None


def test_a_home_where_nothing_ran_is_not_touched(tmp_path: Path) -> None:
    status = read_status(load_settings(home=str(tmp_path / "typo")).places(), verify=True)
    assert (status.last_batch, status.broken, status.unfinished_batches) == (None, [], [])
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_not_all_tables_hold_is_unfinished(drained: Settings) -> None:
    shutil.rmtree(drained.places().root.directory / "rejects")
    status = read_status(drained.places(), verify=True)
    assert (status.unfinished_batches, status.broken) == ([1], [])


def _beat(home: Home, vitals: Vitals | None, age: timedelta = timedelta(0), ended: bool = False) -> None:
    at = datetime.now(UTC) - age
    beat = Heartbeat("nonce", "host, process 7", at - timedelta(hours=1), at, at if ended else None, 1, vitals)
    overwrite(home.state, HEARTBEAT_KEY, TypeAdapter(Heartbeat).dump_json(beat))


def _vitals(home: Home, waiting: Waiting | None = None) -> Vitals:
    return Vitals(StreamSettings(home.landing.uri, 2.0, "keep"), waiting, window_s=60.0, photos=30)


def test_a_stream_that_ended_left_the_stages_of_its_last_batch(drained: Settings) -> None:
    standing = read_heartbeat(drained.places())
    assert standing is not None and standing.vitals is not None
    assert standing.vitals.waiting is not None and standing.vitals.waiting.files == 0
    status = read_status(drained.places(), verify=False)
    assert status.stream is not None and status.stream.state == "stopped"
    assert status.last_batch is not None
    assert set(status.last_batch.stages_s) == {"plan", "work", "commit", "fetch", "decode", "infer", "write"}
    assert (status.today.photos, status.today.rejects, status.today.reasons) == (3, 1, {"not_an_image": 1})
    assert status.pace.photos_per_s is None


@pytest.mark.processes
def test_a_home_whose_stream_ended_with_an_error_is_not_healthy_until_one_runs_well(
    local_settings: Callable[..., Settings], drain: Callable[[Settings], Run]
) -> None:
    settings = local_settings()
    current = settings.places().root.directory / "models/featurizer/CURRENT.json"
    aside = current.rename(current.with_name("aside"))
    settings.places().landing.create()
    (settings.places().landing.directory / "late.jpg").write_bytes(jpeg(seed=9))
    with pytest.raises(StateDamaged, match="has no featurizer"):
        drain(settings)
    aside.rename(current)

    failed = CliRunner().invoke(app, ["status", "--home", settings.home])

    assert failed.exit_code == 1
    assert "Not healthy: the stream ended with an error (StateDamaged) at 2" in failed.output
    drain(settings)
    healthy = CliRunner().invoke(app, ["status", "--home", settings.home])
    assert (healthy.exit_code, "error" in healthy.output) == (0, False)


def test_beside_a_running_stream_the_backlog_is_what_it_says_unless_it_is_counted(drained: Settings) -> None:
    home = drained.places()
    told_at = datetime.now(UTC) - timedelta(seconds=8)
    oldest = told_at - timedelta(minutes=4)
    _beat(home, _vitals(home, Waiting(told_at, 7, 7000, oldest, at_least=True)))
    told = read_status(home, verify=False)
    assert (told.backlog, told.backlog_as_of) == (Backlog(7, 7000, oldest, at_least=True), told_at)
    assert told.pace.photos_per_s == 0.5
    assert read_status(home, verify=False, count=True).backlog == Backlog(0, 0, None)
    assert read_status(home, verify=True).backlog.files == 0


def test_what_was_planned_before_the_stream_told_waits_too_and_what_was_planned_since_was_told(
    drained: Settings,
) -> None:
    home = drained.places()
    told_at = datetime.now(UTC)
    arrived_at = told_at - timedelta(minutes=9)
    _beat(home, _vitals(home, Waiting(told_at, 1, 10, told_at)))
    for batch, planned_at in ((2, told_at - timedelta(seconds=1)), (3, told_at + timedelta(seconds=1))):
        photo = LandedObject(f"{batch}.jpg", 100, "e", arrived_at)
        day = planned_at.date()
        write_plan(home, Plan(batch, "nonce", planned_at, day, home.landing.uri, "", "featurizer", (photo,)))
    status = read_status(home, verify=False)
    assert status.unfinished_batches == [2, 3]
    assert status.backlog == Backlog(2, 110, arrived_at)


def test_a_stream_of_an_earlier_version_says_nothing_of_its_backlog(drained: Settings) -> None:
    home = drained.places()
    at = datetime.now(UTC).isoformat()
    beat = {"nonce": "n", "holder": "h", "started_at": at, "beat_at": at, "ended_at": None, "batch": 1}
    overwrite(home.state, HEARTBEAT_KEY, json.dumps(beat).encode())
    status = read_status(home, verify=False)
    assert status.stream is not None
    assert (status.stream.state, status.stream.moved_at, status.backlog.files) == ("running", None, 0)


def test_a_last_batch_whose_result_is_gone_is_still_named(drained: Settings) -> None:
    for path in (drained.places().root.directory / "state/batches").iterdir():
        path.unlink()
    last = read_status(drained.places(), verify=False).last_batch
    assert last is not None
    assert (last.batch, last.finished_at, last.photos) == (1, None, None)
    assert "1, more than a day ago" in _status(drained)[1]


def test_small_files_are_counted_and_many_of_them_are_looked_at_as_maintenance_would(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    days = [datetime(2026, 10, 3, tzinfo=UTC).date(), datetime.now(UTC).date()]
    for batch, (day, files) in enumerate(zip(days, (MANY_SMALL_FILES, 3), strict=True), start=1):
        commit_features(home, batch, day, feature_vectors(files, seed=batch), files=files)
    status = read_status(home, verify=False)
    assert status.tables[0].small_files == MANY_SMALL_FILES + 3
    assert status.compactable_files == MANY_SMALL_FILES


def test_a_queue_tells_its_messages_and_its_dead_letters(sqs: "SQSClient", queue_url: str) -> None:
    dead_url = sqs.create_queue(QueueName=f"{queue_url.rpartition('/')[2]}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    region = arn.split(":")[3]
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    found = read_queue_status(queue_url, region, Messages(4, 1))
    assert found == QueueStatus(queue_url, 1, 0, 0, dead_letters=None, held=4, unknown=1)
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": policy})
    for _ in range(2):
        sqs.send_message(QueueUrl=dead_url, MessageBody="never settled")
    assert read_queue_status(queue_url, region, None) == QueueStatus(queue_url, 1, 0, 0, dead_letters=2)
    gone = read_queue_status(f"{queue_url}-gone", region, None)
    assert gone.visible is None
    assert gone.refused is not None and gone.refused.startswith("There is no queue")


def _status(settings: Settings, *arguments: str) -> tuple[int, str]:
    places = ("--home", settings.home, "--landing", str(settings.landing))
    answer = CliRunner().invoke(app, ["status", *places, *arguments], catch_exceptions=False)
    return answer.exit_code, answer.stdout


def test_the_first_line_and_the_exit_code_say_whether_photos_flow(drained: Settings) -> None:
    code, sound = _status(drained)
    assert (code, sound.splitlines()[0]) == (0, "Healthy: no stream runs and nothing waits.")
    _beat(drained.places(), None, age=timedelta(minutes=2))
    code, killed = _status(drained)
    assert code == 1
    assert killed.startswith("Not healthy: the stream (host, process 7) gave no sign for 2 min")
    assert "silent since " in killed


@pytest.mark.processes
def test_a_watch_looks_again_until_it_is_interrupted(drained: Settings) -> None:
    home = drained.places()
    command = [
        sys.executable,
        "-m",
        "ops",
        "status",
        "--home",
        drained.home,
        "--landing",
        str(drained.landing),
    ]
    command += ["--watch", "--every", "50ms", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["healthy"]
        late = home.landing.directory / "late.jpg"
        late.write_bytes(jpeg(seed=9))
        looks = (json.loads(line) for line in process.stdout)
        waits = next(look for look in looks if not look["healthy"])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    late.unlink()
    assert (waits["backlog"]["files"], [finding["name"] for finding in waits["findings"]]) == (1, ["stream_stopped"])
    assert (process.returncode, said) == (130, "fruits: interrupted.\n")


def test_an_interval_that_is_none_is_refused(drained: Settings) -> None:
    with pytest.raises(InvalidSetting, match="--every: write a number and a unit"):
        _status(drained, "--watch", "--every", "soon")
    with pytest.raises(InvalidSetting, match="--every: write how long to wait"):
        _status(drained, "--watch", "--every", "0s")


def test_json_has_the_documented_names(drained: Settings) -> None:
    code, line = _status(drained, "--json", "--verify")
    told: dict[str, Any] = json.loads(line)
    assert (code, told["healthy"], told["findings"], told["broken"]) == (0, True, [], [])
    documented = (ROOT / "docs/telemetry.md").read_text()
    assert [name for name in told if f"`{name}`" not in documented] == []
    assert [name for part in ("stream", "today", "pace") for name in told[part] if f"`{name}`" not in documented] == []
    assert datetime.fromisoformat(told["looked_at"]).tzinfo is not None
    assert told["stream"]["started_at"].endswith("Z")


def test_doubled_rows_are_found(drained: Settings) -> None:
    home = drained.places()
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    again = {name: rows[name].combine_chunks() for name in FEATURE_ROWS.file_schema.names}
    added = write_file(home, FEATURE_ROWS, again, {"ingest_date": str(rows["ingest_date"][0])})
    commit(home, FEATURE_ROWS, 2, "a wrong hand", [added])
    broken = read_status(drained.places(), verify=True).broken
    assert broken == ["3 photos have more than one row of one featurizer for one arrival: doubled."]


def test_a_version_with_feature_rows_of_two_batches_is_found(drained: Settings) -> None:
    home = drained.places()
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    again = {name: rows[name].combine_chunks() for name in FEATURE_ROWS.file_schema.names}
    again["batch"] = [2] * rows.num_rows
    added = write_file(home, FEATURE_ROWS, again, {"ingest_date": str(rows["ingest_date"][0])})
    commit(home, FEATURE_ROWS, 2, "a wrong hand", [added])
    broken = read_status(drained.places(), verify=True).broken
    assert broken == ["3 versions of photos have feature rows of more than one batch: doubled."]


def test_rows_missing_from_a_committed_batch_are_found(drained: Settings) -> None:
    DeltaTable(drained.places().features.uri).delete("width = 320")
    broken = read_status(drained.places(), verify=True).broken
    assert broken is not None
    assert any("3 planned objects have no row" in sentence for sentence in broken)


@pytest.fixture
def served(drained: Settings) -> Home:
    """A home whose three photos have a projection in the version that is served."""
    home = drained.places()
    _publish(home, 1)
    _project(home, 1)
    return home


def _publish(home: Home, version: int) -> None:
    pca = replace(fitted(), components=fitted().components[:2])
    featurizer = DeltaTable(home.features.uri).to_pyarrow_table()["featurizer"][0].as_py()
    meta = PcaMeta(version, featurizer, 3, 2, 1.0, datetime.now(UTC), None, None, "a test")
    publish_model(home, PcaModel(meta, pca))
    finish_switch(home, begin_switch(home, version), "abc")


def _project(home: Home, version: int, source: str | None = None, value: float = 0.0) -> None:
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    columns = {name: rows[name].combine_chunks() for name in (*KEPT_COLUMNS, "ingested_at")}
    if source is not None:
        columns["source"] = [source] * rows.num_rows
    meta = PcaMeta(version, "", 3, 2, 1.0, datetime.now(UTC), None, None, "a test")
    projected = Projected(meta, np.full((rows.num_rows, 2), value, np.float32))
    added = write_projections(home, columns, projected, rows["ingest_date"][0].as_py())
    assert append_once(home, PROJECTION_ROWS, "a test", [added], {}, lambda _: False)


def _broken(home: Home) -> list[str]:
    broken = read_status(home, verify=True).broken
    assert broken is not None
    return broken


def test_a_home_whose_rows_have_their_projections_is_sound(served: Home) -> None:
    assert _broken(served) == []
    assert read_status(served, verify=False).pca == Switch(1, None, 0)


def test_a_served_version_that_rows_lack_is_found(served: Home) -> None:
    _publish(served, 2)
    assert _broken(served) == ["3 feature rows have no projection in the served PCA version."]


def test_a_missing_projection_is_found(served: Home) -> None:
    first = DeltaTable(served.features.uri).to_pyarrow_table()["image_id"][0]
    DeltaTable(served.projections.uri).delete(f"image_id = '{first}'")
    assert _broken(served) == [
        "1 feature rows have no projection in the served PCA version.",
        "1 times a batch and a PCA version have other numbers of projections than of photos.",
    ]


def test_doubled_projections_are_found(served: Home) -> None:
    _project(served, 1)
    assert "3 photos have more than one projection in one PCA version: doubled." in _broken(served)


def test_projections_of_no_feature_row_are_found_in_every_version(served: Home) -> None:
    _project(served, 7, source="s3://elsewhere/a.jpg")
    assert "3 projections belong to no feature row." in _broken(served)


def test_projections_that_are_no_numbers_are_found(served: Home) -> None:
    _project(served, 7, value=np.nan)
    assert _broken(served) == ["3 projections are not finite numbers."]


def test_a_switch_under_way_says_how_many_batches_lack_the_next_version(served: Home) -> None:
    _publish(served, 2)
    finish_switch(served, begin_switch(served, 1), "abc")
    begin_switch(served, 2)
    assert read_status(served, verify=False).pca == Switch(1, 2, 1)
