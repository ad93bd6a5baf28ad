"""CloudWatch's metrics of a running stream: once a minute, numbers only; no key, no person, no picture."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from features.errors import FruitsError
from ops.status.answers import count_answers, count_unknown
from store.aws import make_client
from store.home import Home
from store.models.pca_models import current_models
from store.objects.faults import is_fault, reason
from store.settings import Settings
from store.state.heartbeat import MOVED_WITHIN
from store.tables.files import data_files
from store.tables.handles import OpenTables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.literals import StandardUnitType
    from types_boto3_cloudwatch.type_defs import MetricDatumTypeDef

EVERY_S = 60.0
# Files that came since the last time are read for it; in between its numbers are repeated.
ANSWERS_EVERY_S = 3600.0
# The service passes reports on five times a second while its query runs and nothing has failed.
HEARD_WITHIN_S = 15.0
# What CloudWatch takes in one request, and what is kept while it takes nothing: half an hour and more.
MOST_DATA = 1000


@contextmanager
def with_metrics(settings: Settings, watcher: StreamListener, warn: Callable[[str], None]) -> Iterator[StreamListener]:
    """The watcher to give to the stream instead of `watcher`: with the setting `metrics`, CloudWatch gets numbers, too.

    Each minute: `Alive` (1, and only while the stream works), `Photos`, `Rejects` (all, and by `Reason`),
    `PhotosPerSecond`, `StageSeconds` by `Stage` of the batches that ended, `BacklogFiles`, `BacklogBytes`,
    `BacklogAgeSeconds` of the oldest file that waits (0 when none does) and `PcaVersion`, the served one. As of at most
    an hour ago: `Answers` of the last 28 days to photos with a label, their `AccuracyPercent`, `Named` photos of today
    and their `UnknownPercent`. What CloudWatch does not take is sent a minute later with its time; `warn` is called
    once in each outage.
    Raises InvalidSetting when no region is known.
    """
    if settings.metrics is None:
        yield watcher
        return
    # The end of the stream waits for the last try.
    client: CloudWatchClient = make_client("cloudwatch", settings.s3_region, attempts=4, read_timeout_s=10)
    with Metrics(client, settings.metrics, settings.locations(), settings.unknown_novelty, warn) as metrics:

        def on_batch(report: BatchReport) -> None:
            watcher.on_batch(report)
            metrics.on_batch(report)

        def on_planner_report(report: PlannerReport) -> None:
            watcher.on_planner_report(report)
            metrics.on_planner_report(report)

        yield replace(watcher, on_batch=on_batch, on_planner_report=on_planner_report)


class Metrics:
    """Adds up batches, and sends the sums from a thread of its own: each minute while entered, and once when left."""

    def __init__(
        self,
        client: "CloudWatchClient",
        namespace: str,
        home: Home,
        unknown_above: float,
        warn: Callable[[str], None],
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._home = home
        self._unknown_above = unknown_above
        self._tables = OpenTables(home)
        self._counted_at_s = float("-inf")
        self._answers: dict[str, float] = {}
        self._warn = warn
        self._lock = threading.Lock()
        self._since_s = time.monotonic()
        self._batches: list[BatchReport] = []
        self._news: PlannerReport | None = None
        self._heard_at_s = float("-inf")
        self._committed_at = datetime.fromtimestamp(0, UTC)
        self._unsent: list[MetricDatumTypeDef] = []
        self._is_out = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> "Metrics":
        self._since_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        # A stream that has ended is not alive, however well it did.
        self._send(self._counts(datetime.now(UTC)))

    def on_batch(self, report: BatchReport) -> None:
        """A batch is committed."""
        with self._lock:
            self._batches.append(report)
            self._committed_at = datetime.now(UTC)

    def on_planner_report(self, news: PlannerReport) -> None:
        """The stream's query runs, and this is the planner's last report."""
        with self._lock:
            self._news = news
            self._heard_at_s = time.monotonic()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            now = datetime.now(UTC)
            alive = [_datum(now, "Alive", "Count", 1)] if self._is_alive(now) else []
            self._send([*alive, *self._counts(now), *self._served(now)])
            # After what must not wait for so many files to be read.
            self._count_answers(now)

    def _is_alive(self, now: datetime) -> bool:
        with self._lock:
            is_heard = self._news is not None and time.monotonic() - self._heard_at_s <= HEARD_WITHIN_S
            moved_at = max(self._committed_at, self._news.made_at) if self._news else self._committed_at
            return is_heard and now - moved_at <= MOVED_WITHIN

    def _counts(self, now: datetime) -> "list[MetricDatumTypeDef]":
        with self._lock:
            batches, self._batches = self._batches, []
            since_s, self._since_s = self._since_s, time.monotonic()
            lasted_s = max(self._since_s - since_s, 1.0)
            news = self._news
        photos = sum(report.photos for report in batches)
        rejects = sum((Counter(report.rejects) for report in batches), Counter[str]())
        stages_s: defaultdict[str, list[float]] = defaultdict(list)
        for report in batches:
            for stage, seconds in report.stages_s.items():
                stages_s[stage].append(seconds)
        data = [
            _datum(now, "Photos", "Count", photos),
            _datum(now, "PhotosPerSecond", "Count/Second", photos / lasted_s),
            _datum(now, "Rejects", "Count", rejects.total()),
            *(_datum(now, "Rejects", "Count", count, Reason=name) for name, count in rejects.items()),
            *(_datum(now, "StageSeconds", "Seconds", *values_s, Stage=stage) for stage, values_s in stages_s.items()),
        ]
        if news is not None:
            oldest = news.backlog.oldest_arrived_at
            # On another clock than ours it may have arrived in the future.
            age_s = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
            data += [
                _datum(now, "BacklogFiles", "Count", news.backlog.files),
                _datum(now, "BacklogBytes", "Bytes", news.backlog.bytes),
                _datum(now, "BacklogAgeSeconds", "Seconds", age_s),
            ]
        return data

    def _served(self, now: datetime) -> "list[MetricDatumTypeDef]":
        try:
            version = current_models(self._home).serving
        except FruitsError as error:
            self._warn(f"The served PCA version is not reported to CloudWatch: {reason(error)}.")
            return []
        if version is None:
            return []
        answers = [
            _datum(now, name, "Percent" if name.endswith("Percent") else "Count", value)
            for name, value in self._answers.items()
        ]
        return [_datum(now, "PcaVersion", "None", version), *answers]

    def _count_answers(self, now: datetime) -> None:
        if time.monotonic() - self._counted_at_s < ANSWERS_EVERY_S:
            return
        self._counted_at_s = time.monotonic()
        try:
            current, today = current_models(self._home), now.date()
            if current.serving is None:
                return
            files, projections = (data_files(self._tables.look(table)[0]) for table in (FEATURE_ROWS, PROJECTION_ROWS))
            accuracy = count_answers(self._home, files, current.featurizer, today).accuracy
            unknown = count_unknown(self._home, projections, current.serving, today, self._unknown_above)
        except FruitsError as error:
            self._warn(f"The accuracy of the answers is not reported to CloudWatch: {reason(error)}.")
            self._answers = {}
            return
        self._answers = {"Answers": accuracy.of, "Named": unknown.of}
        if accuracy.share is not None:
            self._answers["AccuracyPercent"] = 100 * accuracy.share
        if unknown.share is not None:
            self._answers["UnknownPercent"] = 100 * unknown.share

    def _send(self, data: "Sequence[MetricDatumTypeDef]") -> None:
        self._unsent = [*self._unsent, *data][-MOST_DATA:]
        try:
            self._client.put_metric_data(Namespace=self._namespace, MetricData=self._unsent)
        except Exception as error:
            if not is_fault(error):
                raise
            if not self._is_out:
                self._warn(f"CloudWatch takes no metrics, the stream goes on: {reason(error)}.")
            self._is_out = True
        else:
            self._unsent = []
            self._is_out = False


def _datum(
    at: datetime, name: str, unit: "StandardUnitType", *values: float, **dimensions: str
) -> "MetricDatumTypeDef":
    return {
        "MetricName": name,
        "Timestamp": at,
        "StatisticValues": {
            "SampleCount": float(len(values)),
            "Sum": float(sum(values)),
            "Minimum": float(min(values)),
            "Maximum": float(max(values)),
        },
        "Unit": unit,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
    }
