"""The long-running stream: starts the query, reports every batch, stops between batches."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from py4j.protocol import Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from features.task_errors import last_words
from store.errors import BatchFailed
from store.settings import Settings
from store.state.claim import hold_claim
from store.state.heartbeat import HeartbeatWriter, Vitals
from store.state.landing_names import remember_landing
from store.state.plans import Plan, Result
from store.tables.handles import create_copies, create_tables
from streaming.answering import Answering
from streaming.batches_in_flight import BatchInHand
from streaming.cleaning.cleaner import Cleaner
from streaming.cleaning.leftovers import LeftoverCopies
from streaming.cleaning.retried import delete_archived_originals
from streaming.conditions import check_conditions
from streaming.micro_batch import BatchReport, MicroBatches
from streaming.pipeline import Pipeline
from streaming.planner import Planner, PlannerReport, PlannerThread
from streaming.session import SparkUnavailable, spark_session
from streaming.source import SOURCE_NAME, LandingSource, publish_plan
from streaming.vitals import StreamStats

POLL_S = 0.2
GRACE_S = 10.0
_BEGIN_POLL_S = 0.05


@dataclass(frozen=True)
class StreamListener:
    """What a stream calls: with each finished batch, five times a second with the planner's newest report, and at each
    stage's end (`plan`, `work`, `commit`) with its batch, which may be one of two at a time, and its seconds.

    `on_start` gets, once and before the first batch, a function that returns the batches in hand.
    """

    on_batch: Callable[[BatchReport], None]
    on_planner_report: Callable[[PlannerReport], None]
    on_stage: Callable[[int, str, float], None] = lambda batch, stage, seconds: None
    on_start: Callable[[Callable[[], tuple[BatchInHand, ...]]], None] = lambda in_hand: None


def claim_home(
    settings: Settings, stop: threading.Event, say: Callable[[str], None], wait: bool | None = None
) -> AbstractContextManager[HeartbeatWriter | None]:
    """Hold the home for a stream; entered before anything slow, so that others see the stream at once.

    Yields None if `stop` was set while another stream held the home. With `wait` (the default on YARN) the other stream
    is waited for as long as it lives, and `say` reports that; without, entering raises AnotherStreamRunning. Raises
    UnknownLanding, InvalidSetting, StateDamaged, StorageUnavailable.
    """
    waits = settings.master.startswith("yarn") if wait is None else wait
    # Before the claim: in a home made before names were kept, the sign of life that it replaces can tell the name.
    home = remember_landing(settings.locations())
    return hold_claim(home, stop, say, waits, StreamStats(settings).vitals)


def run_stream(
    settings: Settings,
    drain: bool,
    stop: threading.Event,
    listener: StreamListener,
    heart: HeartbeatWriter,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Featurize what lands until `stop` is set or the home asks for it, or with `drain` until what was there is done.

    `heart` holds the home; `on_start` is called once Spark is there. Finishes the batches in hand. After a kill at any
    point the next run goes on where this one was.
    Raises AnotherStreamRunning, BatchFailed, StorageUnavailable or StateDamaged; nothing is half-done then.
    """
    with spark_session(settings.master, "fruits-stream") as (session, scratch):
        on_start()
        _Stream(session, settings, drain, listener, scratch, heart).run_until(stop)


def stream_in(
    session: SparkSession,
    settings: Settings,
    drain: bool,
    stop: threading.Event,
    listener: StreamListener,
    scratch: Path,
) -> None:
    """Claim the home and do the same in a session that is already open; `scratch` is for Spark's checkpoint, empty."""
    with claim_home(settings, stop, lambda line: print(line, file=sys.stderr)) as heart:
        if heart is not None:
            _Stream(session, settings, drain, listener, scratch, heart).run_until(stop)


class _Stream:
    def __init__(
        self,
        session: SparkSession,
        settings: Settings,
        drain: bool,
        listener: StreamListener,
        scratch: Path,
        heart: HeartbeatWriter,
    ) -> None:
        home = settings.places()
        check_conditions(home, settings.clean)
        home.landing.create()
        create_tables(home)
        if settings.keeps_copies:
            create_copies(home)
        self._session = session
        self._drain = drain
        self._listener = listener
        self._scratch = scratch
        self._heart = heart
        self._plan_file = scratch / "newest-plan"
        self._leftovers = LeftoverCopies(
            session.sparkContext,
            home,
            settings,
            heart.nonce,
            lambda: self._has_new_photos,
            lambda landing, objects: self._cleaner.copied(landing, objects),
        )
        self._cleaner = Cleaner(home, settings, lambda: self._answering.through, self._leftovers)
        self._answering = Answering(home, settings.answers, heart.nonce, self._cleaner.committed)
        self._planner = PlannerThread(
            partial(Planner, home, settings, drain, heart.nonce, self._cleaner, scratch),
            partial(publish_plan, self._plan_file),
            settings.trigger.total_seconds(),
        )
        self._batches = MicroBatches(
            session.sparkContext,
            home,
            settings.limits,
            heart.nonce,
            self._on_commit,
            listener.on_stage,
            settings.storage_patience.total_seconds(),
            partial(delete_archived_originals, home) if settings.clean == "reduce" else lambda plan, result: None,
        )
        listener.on_start(self._batches.in_hand.now)
        self._pipeline = Pipeline(self._batches, self._on_report)
        self._begun: int | None = None
        self._committed: int | None = None
        self._stats = StreamStats(settings)
        heart.report(lambda: self._committed, self._vitals)

    def run_until(self, stop: threading.Event) -> None:
        try:
            self._run(stop)
        except (ConnectionError, Py4JNetworkError) as error:
            raise _java_ended() from error
        except Py4JJavaError as error:
            # The words come from Java, which a signal to all of a service's processes ends, too.
            try:
                words = last_words(error)
            except (ConnectionError, Py4JNetworkError):
                raise _java_ended() from None
            raise SparkUnavailable(f"Spark ended the stream: {words}. Start it again.") from error

    def _run(self, stop: threading.Event) -> None:
        try:
            query = self._start_query()
        except (Py4JJavaError, PySparkException) as error:
            raise SparkUnavailable(f"Spark cannot start the stream: {last_words(error)}.") from error
        self._cleaner.start()
        self._leftovers.start()
        self._answering.start()
        self._planner.start()
        try:
            while not (stop.wait(POLL_S) or self._heart.is_stop_requested or self._failure) and query.isActive:
                report = self._planner.report
                if report is not None:
                    # What was planned before this report and is still in flight is not committed yet.
                    report = report if self._pipeline.idle else replace(report, caught_up_to=None)
                    self._stats.on_planner_report(report)
                    self._listener.on_planner_report(report)
                    if self._drain and report.caught_up_to is not None and not self._leftovers.waiting:
                        break
        finally:
            self._pipeline.hurry()
            try:
                self._planner.close(GRACE_S)
                # What is planned already is begun rather than left to the next start.
                deadline_s = time.monotonic() + GRACE_S
                while self._planner.newest != self._begun and query.isActive and time.monotonic() < deadline_s:
                    time.sleep(_BEGIN_POLL_S)
            finally:
                self._pipeline.close()
                self._leftovers.close()
                self._answering.close()
                self._cleaner.close()
            failure = query.exception()
            query.stop()
        if self._failure is not None:
            raise self._failure
        if failure is not None:
            raise BatchFailed(f"Spark ended the stream: {last_words(failure)}. Start it again.") from failure

    def _start_query(self) -> StreamingQuery:
        self._session.dataSource.register(LandingSource)
        rows = self._session.readStream.format(SOURCE_NAME).option("plan_file", str(self._plan_file)).load()
        # The source answers when there is a plan: the planner keeps to the trigger. The checkpoint is a file of the
        # driver, its only reader: a path without its scheme would be one of HDFS on a cluster, and stay there.
        return (
            rows.writeStream.foreachBatch(self._on_batch)
            .option("checkpointLocation", (self._scratch / "checkpoint").as_uri())
            .trigger(processingTime="0 seconds")
            .start()
        )

    @property
    def _failure(self) -> BaseException | None:
        parts = (self._pipeline, self._planner, self._answering, self._leftovers, self._cleaner, self._heart)
        return next((part.failure for part in parts if part.failure is not None), None)

    @property
    def _has_new_photos(self) -> bool:
        report = self._planner.report
        return report is None or bool(report.backlog.files) or bool(self._batches.in_hand.now())

    def _on_commit(self, plan: Plan, result: Result) -> None:
        self._committed = plan.batch
        self._answering.committed(plan, result)
        self._planner.committed(plan, result)

    def _vitals(self) -> Vitals:
        # The cleaner goes on after the planner's last report.
        return replace(self._stats.vitals(), uncleared=self._cleaner.uncleared, uncopied=self._cleaner.uncopied)

    def _on_report(self, report: BatchReport) -> None:
        self._stats.on_batch(report)
        self._listener.on_batch(report)

    def _on_batch(self, _: DataFrame, __: int) -> None:
        # The batch's one row says no more than the planner; reading it would take a job and a third Python process.
        # Spark's first batch may be empty.
        newest = self._planner.newest
        if newest is not None and newest != self._begun:
            self._begun = newest
            self._pipeline.begin(newest)
            self._planner.go_on()


def _java_ended() -> SparkUnavailable:
    return SparkUnavailable("Spark's Java process has ended; start the stream again: it goes on where it was.")
