"""What CloudWatch hears of a running stream: once a minute, numbers only; no key, no person, no picture."""

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from features.errors import FruitsError, InvalidSetting
from store.home import Home
from store.models.pca_models import current_models
from store.objects.faults import is_fault, reason
from store.settings import Settings
from store.state.heartbeat import MOVED_WITHIN
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.literals import StandardUnitType
    from types_boto3_cloudwatch.type_defs import MetricDatumTypeDef

EVERY_S = 60.0
# The service passes news on five times a second while its query runs and nothing has failed.
HEARD_WITHIN_S = 15.0
# What CloudWatch takes in one request, and what is kept while it takes nothing: half an hour and more.
MOST_DATA = 1000

T = TypeVar("T")


@contextmanager
def measured(settings: Settings, watcher: StreamListener, say: Callable[[str], None]) -> Iterator[StreamListener]:
    """What to hand to the stream in place of `watcher`, so that CloudWatch hears of it too if `metrics` is set.

    Each minute: `Alive` (1, and only while the stream works), `Photos`, `Rejects` (all, and by `Reason`),
    `PhotosPerSecond`, `StageSeconds` by `Stage` of the batches that ended, `BacklogFiles`, `BacklogBytes`,
    `BacklogAgeSeconds` of the oldest that waits (0 when nothing does) and `PcaVersion`, the served one. What CloudWatch
    does not take is kept and sent a minute later, with the time it is of; `say` is told once of each outage, and the
    stream goes on. Raises InvalidSetting when no region is known.
    """
    if settings.metrics is None:
        yield watcher
        return
    with Metrics(_client(settings), settings.metrics, settings.locations(), say) as metrics:
        on_batch, on_planner_report = (
            _both(watcher.on_batch, metrics.on_batch),
            _both(watcher.on_planner_report, metrics.on_planner_report),
        )
        yield replace(watcher, on_batch=on_batch, on_planner_report=on_planner_report)


class Metrics:
    """Adds up what it is told and sends it, in a thread of its own while entered and once more when left."""

    def __init__(self, client: "CloudWatchClient", namespace: str, home: Home, say: Callable[[str], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._home = home
        self._say = say
        self._lock = threading.Lock()
        self._since = _Interval()
        self._news: PlannerReport | None = None
        self._heard_at_s = float("-inf")
        self._committed_at = datetime.fromtimestamp(0, UTC)
        self._unsent: list[MetricDatumTypeDef] = []
        self._is_out = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> "Metrics":
        self._since = _Interval()
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
            self._since.add(report)
            self._committed_at = datetime.now(UTC)

    def on_planner_report(self, news: PlannerReport) -> None:
        """The stream's query runs, and this is what its planner last told."""
        with self._lock:
            self._news = news
            self._heard_at_s = time.monotonic()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            now = datetime.now(UTC)
            alive = [_datum(now, "Alive", 1, "Count")] if self._is_alive(now) else []
            self._send([*alive, *self._counts(now), *self._served(now)])

    def _is_alive(self, now: datetime) -> bool:
        with self._lock:
            is_heard = self._news is not None and time.monotonic() - self._heard_at_s <= HEARD_WITHIN_S
            moved_at = max(self._committed_at, self._news.made_at) if self._news else self._committed_at
            return is_heard and now - moved_at <= MOVED_WITHIN

    def _counts(self, now: datetime) -> "list[MetricDatumTypeDef]":
        with self._lock:
            done, self._since = self._since, _Interval()
            news = self._news
        data = done.data(now)
        if news is not None:
            oldest = news.backlog.oldest_arrived_at
            # On another clock than ours it may have arrived in the future.
            age_s = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
            data += [
                _datum(now, "BacklogFiles", news.backlog.files, "Count"),
                _datum(now, "BacklogBytes", news.backlog.bytes, "Bytes"),
                _datum(now, "BacklogAgeSeconds", age_s, "Seconds"),
            ]
        return data

    def _served(self, now: datetime) -> "list[MetricDatumTypeDef]":
        try:
            version = current_models(self._home).serving
        except FruitsError as error:
            self._say(f"The served PCA version is not reported to CloudWatch: {reason(error)}.")
            return []
        return [] if version is None else [_datum(now, "PcaVersion", version, "None")]

    def _send(self, data: "Sequence[MetricDatumTypeDef]") -> None:
        self._unsent = [*self._unsent, *data][-MOST_DATA:]
        try:
            self._client.put_metric_data(Namespace=self._namespace, MetricData=self._unsent)
        except Exception as error:
            if not is_fault(error):
                raise
            if not self._is_out:
                self._say(f"CloudWatch takes no metrics, the stream goes on: {reason(error)}.")
            self._is_out = True
        else:
            self._unsent = []
            self._is_out = False


@dataclass
class _Interval:
    """What happened since some moment."""

    began_s: float = field(default_factory=time.monotonic)
    photos: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    stages_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, report: BatchReport) -> None:
        self.photos += report.photos
        self.rejects.update(report.rejects)
        for stage, seconds in report.stages_s.items():
            self.stages_s[stage].append(seconds)

    def data(self, now: datetime) -> "list[MetricDatumTypeDef]":
        lasted_s = max(time.monotonic() - self.began_s, 1.0)
        return [
            _datum(now, "Photos", self.photos, "Count"),
            _datum(now, "PhotosPerSecond", self.photos / lasted_s, "Count/Second"),
            _datum(now, "Rejects", self.rejects.total(), "Count"),
            *(_datum(now, "Rejects", count, "Count", Reason=reason) for reason, count in self.rejects.items()),
            *(_spread(now, "StageSeconds", values_s, Stage=stage) for stage, values_s in self.stages_s.items()),
        ]


def _datum(at: datetime, name: str, value: float, unit: "StandardUnitType", **dimensions: str) -> "MetricDatumTypeDef":
    return {
        "MetricName": name,
        "Timestamp": at,
        "Value": float(value),
        "Unit": unit,
        "Dimensions": [{"Name": key, "Value": which} for key, which in dimensions.items()],
    }


def _spread(at: datetime, name: str, values_s: Sequence[float], **dimensions: str) -> "MetricDatumTypeDef":
    return {
        "MetricName": name,
        "Timestamp": at,
        "StatisticValues": {
            "SampleCount": float(len(values_s)),
            "Sum": sum(values_s),
            "Minimum": min(values_s),
            "Maximum": max(values_s),
        },
        "Unit": "Seconds",
        "Dimensions": [{"Name": key, "Value": which} for key, which in dimensions.items()],
    }


def _client(settings: Settings) -> "CloudWatchClient":
    import boto3
    from botocore.config import Config
    from botocore.exceptions import NoRegionError

    try:
        return boto3.client(
            "cloudwatch",
            # boto3 itself does not know the name that all other clients read.
            region_name=settings.s3_region or os.environ.get("AWS_REGION"),
            # The end of the stream waits for the last try.
            config=Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=5, read_timeout=10),
        )
    except NoRegionError as error:
        raise InvalidSetting("Metrics need a region to go to; give --s3-region, or set AWS_REGION.") from error


def _both(first: Callable[[T], None], second: Callable[[T], None]) -> Callable[[T], None]:
    def tell(what: T) -> None:
        first(what)
        second(what)

    return tell
