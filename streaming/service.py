"""The long-running stream: starts the query, reports every batch, stops between batches."""

import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from features import errors
from features.errors import BatchFailed, FruitsError
from features.home import Home
from features.settings import Settings
from features.tables import create_tables
from streaming.micro_batch import BatchReport, MicroBatches
from streaming.pacing import Caps
from streaming.session import SparkUnavailable, close_session, last_words, open_session
from streaming.source import SOURCE_NAME, LandingSource, News, PlanningRequest, hear, request_option

POLL_S = 0.2


@dataclass(frozen=True)
class Watcher:
    """Who follows the stream: told of each finished batch, and every so often of the backlog."""

    on_batch: Callable[[BatchReport], None]
    on_news: Callable[[News], None]


def run_stream(settings: Settings, drain: bool, stop: threading.Event, watcher: Watcher) -> None:
    """Featurize what lands until `stop` is set, or with `drain` until what was there at the start is done.

    Finishes the batch in hand. Killed at any point, the next run takes up where this one was.
    Raises AnotherStreamRunning, BatchFailed, StorageUnavailable or StateDamaged; nothing is half-done then.
    """
    with tempfile.TemporaryDirectory(prefix="fruits-stream-") as scratch:
        session = open_session(settings.master, Path(scratch))
        try:
            stream_in(session, settings, drain, stop, watcher, Path(scratch))
        finally:
            close_session(session)


def stream_in(
    session: SparkSession, settings: Settings, drain: bool, stop: threading.Event, watcher: Watcher, scratch: Path
) -> None:
    """The same in a session that is already open; `scratch` is an empty directory for Spark's checkpoint."""
    home = settings.places()
    home.landing.create()
    create_tables(home)
    stream = _Stream(session, home, settings, drain, watcher, scratch)
    stream.run_until(stop)


class _Stream:
    def __init__(
        self, session: SparkSession, home: Home, settings: Settings, drain: bool, watcher: Watcher, scratch: Path
    ) -> None:
        nonce = uuid.uuid4().hex
        self._session = session
        self._settings = settings
        self._drain = drain
        self._watcher = watcher
        self._scratch = scratch
        self._news_file = str(scratch / "news.json")
        self._request = PlanningRequest(
            home=home,
            caps=Caps(settings.max_files, settings.max_bytes),
            key_pattern=settings.key_pattern,
            drain=drain,
            nonce=nonce,
            news_file=self._news_file,
        )
        self._batches = MicroBatches(session.sparkContext, home, settings.limits, settings.clean, nonce)
        self._between_batches = threading.Lock()
        self._stopping = False
        self._failure: Exception | None = None

    def run_until(self, stop: threading.Event) -> None:
        self._batches.finish_cleaning()
        try:
            query = self._start()
        except (Py4JJavaError, PySparkException) as error:
            raise SparkUnavailable(f"Spark cannot start the stream: {last_words(error)}.") from error
        try:
            while not stop.wait(POLL_S) and query.isActive:
                news = hear(self._news_file)
                if news is not None and news.error is None:
                    self._watcher.on_news(news)
                    if self._drain and news.caught_up_to is not None:
                        break
        finally:
            # Not in the middle of a batch: Spark would interrupt it.
            with self._between_batches:
                self._stopping = True
            failure = query.exception()
            query.stop()
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

    def _on_batch(self, rows: DataFrame, _: int) -> None:
        with self._between_batches:
            for row in rows.collect():
                if self._stopping:
                    # The plan is durable; the next start takes it up.
                    return
                try:
                    report = self._batches.run(row["batch"])
                except Exception as error:
                    self._failure = error
                    raise
                self._watcher.on_batch(report)

    def _explained(self, failure: StreamingQueryException) -> Exception:
        if self._failure is not None:
            return self._failure
        news = hear(self._news_file)
        if news is not None and news.error is not None:
            kind = getattr(errors, news.error, FruitsError)
            return kind(news.message)
        return BatchFailed(f"Spark ended the stream: {last_words(failure)}. Start it again.")
