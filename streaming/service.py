"""The long-running stream: starts the query, reports every batch, stops between batches."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from py4j.protocol import Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from features import errors
from features.errors import FruitsError, last_words
from store import errors as store_errors
from store.errors import BatchFailed
from store.home import Home
from store.settings import Settings
from store.state.claim import hold_claim
from store.state.heartbeat import HeartbeatWriter, Vitals
from store.state.landing_names import remember_landing
from store.state.plans import Plan, Result
from store.tables.handles import create_tables
from streaming.batches_in_flight import BatchInHand
from streaming.cleaning import Cleaner, CleaningRule
from streaming.conditions import check_conditions
from streaming.discovery.snapshot import outcome_of
from streaming.micro_batch import BatchReport, MicroBatches
from streaming.news import PlannerChannel, PlannerReport
from streaming.pacing import Caps
from streaming.pipeline import Pipeline
from streaming.session import SparkUnavailable, spark_session
from streaming.source import SOURCE_NAME, LandingSource, PlanningRequest, request_option
from streaming.vitals import StreamStats

POLL_S = 0.2
GRACE_S = 10.0


@dataclass(frozen=True)
class Watcher:
    """Who follows the stream: told of each finished batch, every so often of the backlog, and of each stage's end.

    A stage has its batch, its name (`plan`, `work`, `commit`) and its seconds; batches run two at a time. `on_start` is
    told once, before the first batch, how to ask which batches are in hand.
    """

    on_batch: Callable[[BatchReport], None]
    on_news: Callable[[PlannerReport], None]
    on_stage: Callable[[int, str, float], None] = lambda batch, stage, seconds: None
    on_start: Callable[[Callable[[], tuple[BatchInHand, ...]]], None] = lambda in_hand: None


def claim_home(
    settings: Settings, stop: threading.Event, say: Callable[[str], None], wait: bool | None = None
) -> AbstractContextManager[HeartbeatWriter | None]:
    """Hold the home for the stream that is to run: entered before anything slow, it shows at once that one is there.

    None says that `stop` was set while another stream held the home. With `wait` that one is waited for as long as it
    lives, which is what a stream on YARN does unless it is told otherwise, since nobody looks at it; without, entering
    raises AnotherStreamRunning. `say` is told of a wait. Raises UnknownLanding, InvalidSetting, StateDamaged,
    StorageUnavailable.
    """
    waits = settings.master.startswith("yarn") if wait is None else wait
    # Before the claim: in a home made before names were kept, the sign of life that it replaces can tell the name.
    home = remember_landing(settings.locations())
    return hold_claim(home, stop, say, waits, StreamStats(settings).vitals)


def run_stream(
    settings: Settings,
    drain: bool,
    stop: threading.Event,
    watcher: Watcher,
    heart: HeartbeatWriter,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Featurize what lands until `stop` is set or the home asks for it, or with `drain` until what was there is done.

    `heart` holds the home; `on_start` is called once Spark is there. Finishes the batches in hand. Killed at any point,
    the next run takes up where this one was.
    Raises AnotherStreamRunning, BatchFailed, StorageUnavailable or StateDamaged; nothing is half-done then.
    """
    with spark_session(settings.master, "fruits-stream") as (session, scratch):
        on_start()
        _stream_in(session, settings, drain, stop, watcher, scratch, heart)


def stream_in(
    session: SparkSession, settings: Settings, drain: bool, stop: threading.Event, watcher: Watcher, scratch: Path
) -> None:
    """Claim the home and do the same in a session that is already open; `scratch` is for Spark's checkpoint, empty."""
    with claim_home(settings, stop, lambda line: print(line, file=sys.stderr)) as heart:
        if heart is not None:
            _stream_in(session, settings, drain, stop, watcher, scratch, heart)


def _stream_in(
    session: SparkSession,
    settings: Settings,
    drain: bool,
    stop: threading.Event,
    watcher: Watcher,
    scratch: Path,
    heart: HeartbeatWriter,
) -> None:
    home = settings.places()
    check_conditions(home, settings.clean)
    home.landing.create()
    create_tables(home)
    _Stream(session, home, settings, drain, watcher, scratch, heart).run_until(stop)


class _Stream:
    def __init__(
        self,
        session: SparkSession,
        home: Home,
        settings: Settings,
        drain: bool,
        watcher: Watcher,
        scratch: Path,
        heart: HeartbeatWriter,
    ) -> None:
        self._home = home
        self._session = session
        self._settings = settings
        self._drain = drain
        self._watcher = watcher
        self._scratch = scratch
        folder = scratch / "channel"
        folder.mkdir()
        self._channel = PlannerChannel(folder)
        rule = CleaningRule(settings.clean, settings.clean_after, settings.settle, settings.storage_patience)
        self._cleaner = Cleaner(home, rule, self._channel.left)
        self._request = PlanningRequest(
            home=home,
            caps=Caps(settings.max_files, settings.max_bytes),
            key_pattern=settings.key_pattern,
            queue=settings.queue,
            backfill=settings.backfill,
            only_new=settings.only_new,
            drain=drain,
            settle=settings.settle,
            cleaning=rule,
            nonce=heart.nonce,
            folder=folder,
        )
        self._batches = MicroBatches(
            session.sparkContext,
            home,
            settings.limits,
            heart.nonce,
            self._on_commit,
            watcher.on_stage,
            settings.storage_patience.total_seconds(),
        )
        watcher.on_start(self._batches.in_hand)
        self._begun: int | None = None
        self._committed: int | None = None
        self._watch = StreamStats(settings)
        self._heart = heart
        heart.report(lambda: self._committed, self._vitals)
        self._pipeline = Pipeline(self._batches, self._on_report)

    def run_until(self, stop: threading.Event) -> None:
        try:
            self._run(stop)
        except (ConnectionError, Py4JNetworkError) as error:
            raise _java_ended() from error
        except Py4JJavaError as error:
            # Its words are asked of Java, which a signal to all of a service's processes ends, too.
            try:
                words = last_words(error)
            except (ConnectionError, Py4JNetworkError):
                raise _java_ended() from None
            raise SparkUnavailable(f"Spark ended the stream: {words}. Start it again.") from error

    def _run(self, stop: threading.Event) -> None:
        try:
            query = self._start()
        except (Py4JJavaError, PySparkException) as error:
            raise SparkUnavailable(f"Spark cannot start the stream: {last_words(error)}.") from error
        self._cleaner.start()
        try:
            while self._goes_on(stop) and query.isActive and self._failure is None:
                news = self._channel.hear()
                if news is not None and news.error is None:
                    # What was planned before this news and is still in flight is not committed yet.
                    news = news if self._pipeline.idle else replace(news, caught_up_to=None)
                    self._watch.on_news(news)
                    self._watcher.on_news(news)
                    if self._drain and news.caught_up_to is not None:
                        break
        finally:
            self._channel.hold()
            self._pipeline.hurry()
            try:
                self._let_begin(query)
            finally:
                self._pipeline.close()
                self._cleaner.close()
            if self._settings.queue is not None:
                self._let_close(query)
            failure = query.exception()
            query.stop()
        if self._failure is not None:
            raise self._failure
        if failure is not None:
            raise self._explained(failure) from failure

    def _start(self) -> StreamingQuery:
        self._session.dataSource.register(LandingSource)
        rows = self._session.readStream.format(SOURCE_NAME).option("request", request_option(self._request)).load()
        return (
            rows.writeStream.foreachBatch(self._on_batch)
            .option("checkpointLocation", f"{self._scratch}/checkpoint")
            .trigger(processingTime=f"{int(self._settings.trigger.total_seconds() * 1000)} milliseconds")
            .start()
        )

    def _goes_on(self, stop: threading.Event) -> bool:
        return not stop.wait(POLL_S) and not self._heart.is_stop_requested

    @property
    def _failure(self) -> BaseException | None:
        return self._pipeline.failure or self._cleaner.failure or self._heart.failure

    def _on_commit(self, plan: Plan, result: Result) -> None:
        self._committed = plan.batch
        self._channel.committed(plan.batch, outcome_of(self._home, plan, result))
        self._cleaner.committed(plan, result)

    def _vitals(self) -> Vitals:
        vitals = self._watch.vitals()
        return replace(vitals, uncleared=vitals.uncleared + self._channel.left_and_not_taken)

    def _on_report(self, report: BatchReport) -> None:
        self._watch.on_batch(report)
        self._watcher.on_batch(report)

    def _on_batch(self, _: DataFrame, __: int) -> None:
        # The batch's one row says no more than the news, which Spark's next look at the source will be the first to
        # change; and reading it would take a job and a third Python process. Spark's first batch may be empty.
        news = self._channel.hear()
        if news is not None and news.planned is not None and news.planned != self._begun:
            self._begun = news.planned
            self._pipeline.begin(news.planned)

    def _let_begin(self, query: StreamingQuery) -> None:
        # What is planned already is begun rather than left to the next start; a listing that hangs is not waited for.
        deadline_s = time.monotonic() + GRACE_S
        while query.isActive and query.status["isTriggerActive"] and time.monotonic() < deadline_s:
            time.sleep(POLL_S)

    def _let_close(self, query: StreamingQuery) -> None:
        # Messages that are not given back now are hidden from the next start for two minutes.
        deadline_s = time.monotonic() + GRACE_S
        while query.isActive and not self._channel.is_closed and time.monotonic() < deadline_s:
            time.sleep(POLL_S)

    def _explained(self, failure: StreamingQueryException) -> Exception:
        news = self._channel.hear()
        if news is not None and news.error is not None:
            kind = getattr(errors, news.error, getattr(store_errors, news.error, FruitsError))
            return kind(news.message)
        return BatchFailed(f"Spark ended the stream: {last_words(failure)}. Start it again.")


def _java_ended() -> SparkUnavailable:
    return SparkUnavailable("Spark's Java process has ended; start the stream again: it goes on where it was.")
