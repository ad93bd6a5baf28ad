"""What a running stream can tell others of itself, with each sign of life."""

import threading
import time
from collections import deque
from dataclasses import astuple
from datetime import UTC, datetime

from store.settings import Settings
from store.state.heartbeat import FinishedBatch, Messages, StreamSettings, Vitals, Waiting
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport

# Long enough to hold some of the batches of 20 s that there are under backlog.
WINDOW_S = 300.0


class StreamStats:
    """Takes in what the service hears; any thread may read its vitals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = StreamSettings(
            landing=settings.locations().landing.uri,
            trigger_s=settings.trigger.total_seconds(),
            clean=settings.clean,
            queue=settings.queue,
        )
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._planner: PlannerReport | None = None
        self._last: FinishedBatch | None = None
        self._recent: deque[tuple[float, FinishedBatch]] = deque()

    def on_planner_report(self, report: PlannerReport) -> None:
        """The planner's newest report; with the first one the stream is up."""
        with self._lock:
            if self._planner is None:
                self._began_s = time.monotonic()
            self._planner = report

    def on_batch(self, report: BatchReport) -> None:
        with self._lock:
            self._last = FinishedBatch(
                batch=report.batch,
                finished_at=datetime.now(UTC),
                photos=report.photos,
                rejects=sum(report.rejects.values()),
                stages_s={stage: round(seconds, 3) for stage, seconds in report.stages_s.items()},
            )
            self._recent.append((time.monotonic(), self._last))

    def vitals(self) -> Vitals:
        with self._lock:
            now_s = time.monotonic()
            while self._recent and self._recent[0][0] < now_s - WINDOW_S:
                self._recent.popleft()
            batches = [batch for _, batch in self._recent]
            planner = self._planner
            queue = planner.queue if planner else None
            return Vitals(
                settings=self._settings,
                waiting=Waiting(planner.made_at, *astuple(planner.backlog)) if planner else None,
                messages=Messages(queue.held, queue.unknown) if queue else None,
                window_s=round(min(WINDOW_S, now_s - self._began_s), 3),
                photos=sum(batch.photos for batch in batches),
                rejects=sum(batch.rejects for batch in batches),
                last_batch=self._last,
                passed_over=planner.passed_over if planner else {},
            )
