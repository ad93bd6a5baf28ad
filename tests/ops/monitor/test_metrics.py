"""What CloudWatch is told of a stream, and that a stream does not depend on being able to tell it."""

import http.client
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest
from pyspark.sql import SparkSession

from bootstrap.aws.template import read_template
from features.classifier import squared_distances
from features.errors import InvalidSetting
from ops.monitor import metrics
from ops.monitor.metrics import with_metrics
from store.models.pca_models import begin_switch, finish_switch
from store.settings import Settings, load_settings
from store.state.plans import BatchCounters
from streaming.discovery.arrivals import Backlog
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener, stream_in
from tests.conftest import REGION
from tests.support.named_home import KINDS, classifier_of, commit_named, photos_of, publish
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, stream_process

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient

MakeSettings = Callable[..., Settings]
REPORT = BatchReport(
    batch=1,
    photos=30,
    pca_versions=(),
    rejects={"empty": 2, "truncated": 1},
    replayed=False,
    plan_s=0.1,
    work_s=2.0,
    commit_s=0.4,
    counters=BatchCounters(photos=30, fetch_s=1.0, decode_s=3.0, infer_s=2.0, write_s=0.5),
    oldest_waited_s=3.0,
)


@pytest.fixture
def namespace() -> str:
    return f"Fruits/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def cloudwatch(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> "CloudWatchClient":
    """A client for what was told; whatever is created from now on tells it there, often."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", s3_server)
    monkeypatch.setattr(metrics, "EVERY_S", 0.2)
    return boto3.client("cloudwatch", endpoint_url=s3_server, region_name=REGION)


def _told(cloudwatch: "CloudWatchClient", namespace: str, *names: str) -> dict[str, dict[str, float]]:
    """The sum, the smallest and the largest value of each metric, or of some; a dimension follows its name."""
    now = datetime.now(UTC)
    found: dict[str, dict[str, float]] = {}
    metrics = cloudwatch.list_metrics(Namespace=namespace)["Metrics"]
    for metric in (metric for metric in metrics if not names or metric["MetricName"] in names):
        points = cloudwatch.get_metric_statistics(
            Namespace=namespace,
            MetricName=metric["MetricName"],
            Dimensions=[{"Name": d["Name"], "Value": d["Value"]} for d in metric["Dimensions"]],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(hours=1),
            Period=7200,
            Statistics=["Sum", "Minimum", "Maximum"],
        )["Datapoints"]
        name = " ".join([metric["MetricName"], *(d["Value"] for d in metric["Dimensions"])])
        found[name] = {key: float(points[0][key]) for key in ("Sum", "Minimum", "Maximum")}
    # Unlike CloudWatch, moto adds up all dimensions where none is asked for.
    if "Rejects" in found:
        found["Rejects"]["Sum"] -= sum(one["Sum"] for name, one in found.items() if name.startswith("Rejects "))
    return found


def _until(condition: Callable[[], bool]) -> None:
    gives_up_at_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < gives_up_at_s, "timed out"
        time.sleep(metrics.EVERY_S / 2)


def _news(backlog: Backlog | None = None) -> PlannerReport:
    return PlannerReport(backlog or Backlog())


def test_without_the_setting_nothing_is_in_between(local_settings: MakeSettings) -> None:
    inner = Run().watcher
    with with_metrics(local_settings(), inner, print) as watcher:
        assert watcher is inner


def test_a_minute_is_added_up(local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str) -> None:
    settings = local_settings(metrics=namespace)
    finish_switch(settings.places(), begin_switch(settings.places(), 7), "abc")
    inner = Run()
    waiting = Backlog(12, 3456, datetime.now(UTC) - timedelta(seconds=90))
    with with_metrics(settings, inner.watcher, print) as watcher:
        watcher.on_planner_report(_news(waiting))
        watcher.on_batch(REPORT)
        watcher.on_batch(replace(REPORT, photos=10, rejects={"empty": 1}, work_s=4.0))
        _until(lambda: "PcaVersion" in _told(cloudwatch, namespace, "PcaVersion"))
    told = _told(cloudwatch, namespace)
    assert (told["Photos"]["Sum"], told["Rejects"]["Sum"]) == (40, 4)
    assert (told["Rejects empty"]["Sum"], told["Rejects truncated"]["Sum"]) == (3, 1)
    assert told["StageSeconds work"] == {"Sum": 6.0, "Minimum": 2.0, "Maximum": 4.0}
    assert {name for name in told if name.startswith("StageSeconds")} == {
        f"StageSeconds {stage}" for stage in ("plan", "work", "commit", "fetch", "decode", "infer", "write")
    }
    assert (told["BacklogFiles"]["Maximum"], told["BacklogBytes"]["Maximum"]) == (12, 3456)
    assert told["BacklogAgeSeconds"]["Minimum"] >= 90
    assert told["PcaVersion"]["Maximum"] == 7
    assert told["PhotosPerSecond"]["Maximum"] > 0
    assert told["Alive"]["Maximum"] == 1
    assert (len(inner.reports), len(inner.news)) == (2, 1)
    of_answers = {"Answers", "AccuracyPercent", "Named", "UnknownPercent"}
    assert _alarmed() == {"Alive", "BacklogAgeSeconds", "Photos", "Rejects"} | of_answers
    assert _alarmed() - of_answers <= told.keys()


def test_the_accuracy_and_the_share_of_unknowns_are_told_once_there_are_answers(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str
) -> None:
    settings = local_settings(metrics=namespace)
    home, labels = settings.places(), [*KINDS] * 12
    known = classifier_of(photos_of(labels, 1), labels)
    ordinary = np.sort(squared_distances(known, photos_of(labels, 2)).min(axis=1))
    model = publish(home, 1, replace(known, strange_distances=ordinary))
    shown = ["kiwi", "lime", "plum", "a shoe"]
    today = datetime.now(UTC).date()
    commit_named(home, 1, today, photos_of(shown, 3), ["kiwi", "lime", "kiwi", None], [model], model)
    with with_metrics(settings, Run().watcher, print) as watcher:
        watcher.on_planner_report(_news())
        _until(lambda: "UnknownPercent" in _told(cloudwatch, namespace, "UnknownPercent"))
    told = _told(cloudwatch, namespace, "Answers", "AccuracyPercent", "Named", "UnknownPercent")
    assert {name: told[name]["Maximum"] for name in told} == {
        "Answers": 3,
        "AccuracyPercent": pytest.approx(200 / 3),
        "Named": 4,
        "UnknownPercent": 25,
    }


def test_where_the_answers_cannot_be_counted_the_stream_goes_on(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str
) -> None:
    settings = local_settings(metrics=namespace)
    home, said = settings.places(), list[str]()
    publish(home, 1, None)
    commit_named(home, 1, datetime.now(UTC).date(), photos_of(KINDS, 3), KINDS, [])
    [file] = (home.root.directory / "features").rglob("*.parquet")
    file.write_bytes(b"this is not parquet")
    with with_metrics(settings, Run().watcher, said.append):
        _until(lambda: bool(said))
    assert "The accuracy of the answers is not reported to CloudWatch: " in said[0]
    assert "Photos" in _told(cloudwatch, namespace, "Photos")


def _alarmed() -> set[str]:
    """The metrics of a stream that alarms look at."""
    found = set[str]()
    for resource in read_template().sections["Resources"].values():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            alarm = resource["Properties"]
            parts = [part["MetricStat"]["Metric"] for part in alarm.get("Metrics", []) if "MetricStat" in part]
            names = [part["MetricName"] for part in (alarm, *parts) if "Fruits/" in str(part.get("Namespace"))]
            found.update(names)
    return found


def test_when_nothing_waits_the_backlog_has_no_age(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str
) -> None:
    with with_metrics(local_settings(metrics=namespace), Run().watcher, print) as watcher:
        watcher.on_planner_report(_news())
    told = _told(cloudwatch, namespace)
    assert told["BacklogAgeSeconds"] == {"Sum": 0, "Minimum": 0, "Maximum": 0}
    assert told["Rejects"]["Sum"] == 0


def test_a_stream_that_has_not_begun_or_has_ended_is_not_alive(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str
) -> None:
    with with_metrics(local_settings(metrics=namespace), Run().watcher, print) as watcher:
        _until(lambda: "Photos" in _told(cloudwatch, namespace, "Photos"))
        assert "Alive" not in _told(cloudwatch, namespace, "Alive")
        watcher.on_planner_report(_news())
        _until(lambda: "Alive" in _told(cloudwatch, namespace, "Alive"))
    before = _told(cloudwatch, namespace, "Alive")["Alive"]["Sum"]
    time.sleep(3 * metrics.EVERY_S)
    assert _told(cloudwatch, namespace, "Alive")["Alive"]["Sum"] == before


def test_a_stream_whose_service_went_quiet_is_not_alive(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HEARD_WITHIN_S", 0.0)
    with with_metrics(local_settings(metrics=namespace), Run().watcher, print) as watcher:
        watcher.on_planner_report(_news())
        _until(lambda: "BacklogFiles" in _told(cloudwatch, namespace, "BacklogFiles"))
        assert "Alive" not in _told(cloudwatch, namespace, "Alive")


def test_a_stream_in_which_nothing_moves_is_not_alive_until_a_batch_is_committed(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str
) -> None:
    stale = replace(_news(), made_at=datetime.now(UTC) - metrics.MOVED_WITHIN - timedelta(seconds=1))
    with with_metrics(local_settings(metrics=namespace), Run().watcher, print) as watcher:
        watcher.on_planner_report(stale)
        _until(lambda: "BacklogFiles" in _told(cloudwatch, namespace, "BacklogFiles"))
        assert "Alive" not in _told(cloudwatch, namespace, "Alive")
        watcher.on_batch(REPORT)
        _until(lambda: "Alive" in _told(cloudwatch, namespace, "Alive"))


class Gate:
    """A server before another one that can be closed: then it answers 503."""

    def __init__(self, upstream: str) -> None:
        gate = self
        self.is_closed = False

        class Pass(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if gate.is_closed:
                    self.send_error(503)
                    return
                connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
                connection.request("POST", self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Type", "smithy-protocol"):
                    if value := answer.getheader(name):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Pass)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def gate(s3_server: str) -> Iterator[Gate]:
    gate = Gate(s3_server)
    yield gate
    gate.server.shutdown()
    gate.server.server_close()


def test_an_outage_is_said_once_and_what_was_not_taken_comes_later(
    local_settings: MakeSettings,
    cloudwatch: "CloudWatchClient",
    gate: Gate,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", f"http://127.0.0.1:{gate.server.server_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    said: list[str] = []
    with with_metrics(local_settings(metrics=namespace), Run().watcher, said.append) as watcher:
        gate.is_closed = True
        watcher.on_batch(REPORT)
        _until(lambda: bool(said))
        watcher.on_batch(REPORT)
        time.sleep(4 * metrics.EVERY_S)
        assert len(said) == 1
        assert "CloudWatch takes no metrics, the stream goes on" in said[0]
        gate.is_closed = False
        _until(lambda: "Photos" in _told(cloudwatch, namespace, "Photos"))
        gate.is_closed = True
        _until(lambda: len(said) == 2)
        gate.is_closed = False
    assert _told(cloudwatch, namespace)["Photos"]["Sum"] == 60


def test_a_running_stream_is_alive_with_its_counts(
    local_settings: MakeSettings,
    spark: SparkSession,
    cloudwatch: "CloudWatchClient",
    namespace: str,
    tmp_path: Path,
) -> None:
    settings = local_settings(metrics=namespace)
    _drop(settings)
    (tmp_path / "scratch").mkdir()
    stop, reports = threading.Event(), list[BatchReport]()

    def seen(_: PlannerReport) -> None:
        told = _told(cloudwatch, namespace, "Alive", "Photos") if reports else {}
        if "Alive" in told and told["Photos"]["Sum"] == 3:
            stop.set()

    with with_metrics(settings, StreamListener(reports.append, seen), print) as watcher:
        stream_in(spark, settings, False, stop, watcher, tmp_path / "scratch")
    told = _told(cloudwatch, namespace)
    assert (told["Photos"]["Sum"], told["Rejects"]["Sum"], told["Rejects not_an_image"]["Sum"]) == (3, 1, 1)
    assert told["BacklogFiles"]["Minimum"] == 0


@pytest.mark.processes
def test_the_command_reports_a_drain_to_its_end(
    local_settings: MakeSettings, cloudwatch: "CloudWatchClient", namespace: str
) -> None:
    settings = local_settings()
    _drop(settings)
    with stream_process(settings, "--drain", "--metrics", namespace) as process:
        _, message = process.communicate(timeout=120)
    assert (process.returncode, message) == (0, "")
    told = _told(cloudwatch, namespace)
    assert (told["Photos"]["Sum"], told["Rejects not_an_image"]["Sum"]) == (3, 1)
    assert not any("kiwi" in name for name in told)


def _drop(settings: Settings) -> None:
    landing = settings.places().landing.directory / "kiwi"
    landing.mkdir(parents=True)
    for number in range(3):
        (landing / f"{number}.jpg").write_bytes(jpeg(seed=number))
    (landing / "notes.jpg").write_bytes(text_file())


@pytest.mark.parametrize("name", ["AWS/S3", "", ":Fruits", "Früchte", "x" * 256])
def test_what_is_no_namespace_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match="metrics: write a CloudWatch namespace"):
        load_settings(metrics=name)


def test_without_a_region_there_is_nowhere_to_report_to(
    local_settings: MakeSettings, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    settings = local_settings(metrics=namespace)
    with pytest.raises(InvalidSetting, match="needs a region"), with_metrics(settings, Run().watcher, print):
        pass
