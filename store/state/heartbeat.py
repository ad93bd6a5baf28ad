"""The sign of life that a stream leaves in its home, and the request by which others ask it to stop."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from types import TracebackType

from features.errors import FruitsError
from store.errors import AnotherStreamRunning, StorageUnavailable
from store.home import Home
from store.objects.document import Document
from store.objects.operations import delete_all
from store.state.holder import Process, this_process

HEARTBEAT_KEY = "stream.json"
STOP_KEY = "requests/stop.json"
SILENT_AFTER = timedelta(seconds=60)
# A batch lasts some 20 s. A stream in which nothing has moved for so long does not work, whatever its process says.
MOVED_WITHIN = timedelta(minutes=10)
LOOK_EVERY_S = 5.0
LOOKS_A_BEAT = 2
WAIT_LOOK_S = 1.0


@dataclass(frozen=True)
class StreamSettings:
    """How a stream was started, as far as others need to know."""

    landing: str
    trigger_s: float
    clean: str
    queue: str | None = None


@dataclass(frozen=True)
class Waiting:
    """What had arrived and was in no plan at `told_at`; there was more where `at_least` says so."""

    told_at: datetime
    files: int
    bytes: int
    oldest_arrived_at: datetime | None
    at_least: bool = False


@dataclass(frozen=True)
class Messages:
    """Messages of the queue that the stream holds until their photos are planned, and those of unknown shape so far."""

    held: int
    unknown: int


@dataclass(frozen=True)
class FinishedBatch:
    """What a batch was; seconds of `plan`, `work` and `commit` are on the clock, the others summed over tasks."""

    batch: int
    finished_at: datetime
    photos: int
    rejects: int
    stages_s: dict[str, float]


@dataclass(frozen=True)
class Vitals:
    """What a stream knows of itself: numbers, times and places; no key, no label, no person.

    `photos` and `rejects` are those that were committed in the last `window_s` seconds; `passed_over` counts, by kind,
    what the last listing left out on purpose; `uncleared` have their rows and could not be cleared away;
    `uncopied` counts, by reason, photos that have their rows and stay, because no copy can be made of them.
    """

    settings: StreamSettings
    waiting: Waiting | None = None
    messages: Messages | None = None
    window_s: float = 0.0
    photos: int = 0
    rejects: int = 0
    last_batch: FinishedBatch | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    uncleared: int = 0
    uncopied: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Heartbeat:
    """What a stream last said of itself; `batch` is the newest one it committed, `ended_at` is None until its end.

    `error` is the kind of error that it ended with, if it did. Streams of earlier versions left no `vitals`, no
    `process` and no `error`.
    """

    nonce: str
    holder: str
    started_at: datetime
    beat_at: datetime
    ended_at: datetime | None
    batch: int | None
    vitals: Vitals | None = None
    process: Process | None = None
    error: str | None = None


@dataclass(frozen=True)
class StopRequest:
    """A request that the stream with this nonce stop; no other stream obeys it."""

    nonce: str
    asked_at: datetime


_HEARTBEAT = Document(Heartbeat, HEARTBEAT_KEY, remedy="delete it")
_STOP = Document(StopRequest, STOP_KEY, remedy="delete it")


def read_heartbeat(home: Home) -> Heartbeat | None:
    """What the newest stream last said, or None when none ever ran. Raises StateDamaged, StorageUnavailable."""
    return _HEARTBEAT.read(home.state)


def is_alive(heartbeat: Heartbeat, now: datetime) -> bool:
    """Whether this stream has not ended and gave a sign within the last 60 seconds."""
    return heartbeat.ended_at is None and abs(now - heartbeat.beat_at) <= SILENT_AFTER


def check_claim(home: Home, nonce: str) -> None:
    """Raise AnotherStreamRunning if another stream holds the home (a damaged claim is none), or StorageUnavailable."""
    stored = _HEARTBEAT.read(home.state, unreadable_as_missing=True)
    if stored is not None and stored.nonce != nonce:
        raise _superseded(stored)


def request_stop(home: Home, nonce: str) -> None:
    """Ask the stream with this nonce to finish what it is at and end. Replay asks again. Raises StorageUnavailable."""
    _STOP.write(home.state, StopRequest(nonce, datetime.now(UTC)))


def wait_until_stopped(home: Home, nonce: str, timeout_s: float) -> bool:
    """Whether the stream with this nonce ended, or gave way to another, within `timeout_s`.

    False at once when it has given no sign for 60 seconds: nobody knows then. Raises StateDamaged, StorageUnavailable.
    """
    gives_up_at_s = time.monotonic() + timeout_s
    while True:
        heartbeat = read_heartbeat(home)
        if heartbeat is not None and (heartbeat.nonce != nonce or heartbeat.ended_at is not None):
            return True
        is_silent = heartbeat is not None and not is_alive(heartbeat, datetime.now(UTC))
        if is_silent or time.monotonic() >= gives_up_at_s:
            return False
        time.sleep(WAIT_LOOK_S)


class HeartbeatWriter:
    """Works in a thread of its own while entered: a sign of life every 10 s, a look for a stop request every 5 s.

    At the end it deletes the request and writes that the stream has ended, with the kind of the error, if any. It fails
    with AnotherStreamRunning once it finds another stream's sign, and leaves that sign as it is. When storage fails it
    is silent. Leaving raises StorageUnavailable when the end could not be written and nothing else went wrong.
    `failure` is why the writer has failed, if it has; it writes no more signs of life then.
    """

    def __init__(
        self,
        home: Home,
        nonce: str,
        newest_batch: Callable[[], int | None],
        vitals: Callable[[], Vitals | None] = lambda: None,
    ) -> None:
        self.nonce = nonce
        self._home = home
        self._newest_batch = newest_batch
        self._vitals = vitals
        self._process = this_process()
        self._started_at = datetime.now(UTC)
        self._stop_requested = threading.Event()
        self._closing = threading.Event()
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def claim(self, is_free: Callable[[Heartbeat], bool]) -> Heartbeat:
        """Write the first sign of life unless another stream's sign is stored and not free; returns the stored one.

        Of two streams at once one is first. Replay finds its own sign. Raises StorageUnavailable.
        """
        self._started_at = datetime.now(UTC)
        return self._write(is_free=is_free)

    def report(self, newest_batch: Callable[[], int | None], vitals: Callable[[], Vitals | None]) -> None:
        """Set what the signs of life contain from now on; both are called in the thread that beats."""
        self._newest_batch = newest_batch
        self._vitals = vitals

    def __enter__(self) -> "HeartbeatWriter":
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join()
        # After a fault of this very storage another try would take two minutes more, and silence says so.
        if not isinstance(self.failure, StorageUnavailable | AnotherStreamRunning):
            # What went wrong first is what has to be told.
            with suppress(StorageUnavailable) if error is not None else nullcontext():
                if self._has_stop_request():
                    delete_all(self._home.state, [STOP_KEY])
                self._write(has_ended=True, error=_kind(error if error is not None else self.failure))
        if error is None and self.failure is not None:
            raise self.failure

    @property
    def is_stop_requested(self) -> bool:
        """Whether somebody asked this very stream to stop."""
        return self._stop_requested.is_set()

    def _beat(self) -> None:
        try:
            for look in count():
                if look % LOOKS_A_BEAT == 0:
                    stored = self._write()
                    if stored.nonce != self.nonce:
                        raise _superseded(stored)
                if self._has_stop_request():
                    self._stop_requested.set()
                if self._closing.wait(LOOK_EVERY_S):
                    return
        except Exception as error:
            # The stream polls `failure`, and stops.
            self.failure = error

    def _write(
        self,
        has_ended: bool = False,
        error: str | None = None,
        is_free: Callable[[Heartbeat], bool] = lambda _: False,
    ) -> Heartbeat:
        def ours_if_free(stored: Heartbeat | None) -> Heartbeat:
            if stored is not None and stored.nonce != self.nonce and not is_free(stored):
                return stored
            now = datetime.now(UTC)
            return Heartbeat(
                nonce=self.nonce,
                holder=str(self._process),
                started_at=self._started_at,
                beat_at=now,
                ended_at=now if has_ended else None,
                batch=self._newest_batch(),
                vitals=self._vitals(),
                process=self._process,
                error=error,
            )

        # A damaged sign of life is nobody's, and is replaced.
        return _HEARTBEAT.change(self._home.state, ours_if_free, unreadable_as_missing=True)

    def _has_stop_request(self) -> bool:
        request = _STOP.read(self._home.state, unreadable_as_missing=True)
        return request is not None and request.nonce == self.nonce


def _kind(error: BaseException | None) -> str | None:
    # Ctrl-C and the like are no errors. One that nobody foresaw may come wrapped into a sentence.
    if not isinstance(error, Exception):
        return None
    return type(error.__cause__ if type(error) is FruitsError and error.__cause__ else error).__name__


def _superseded(other: Heartbeat) -> AnotherStreamRunning:
    return AnotherStreamRunning(
        f"Another stream works on this home: {other.holder} took over at {other.started_at:%Y-%m-%d %H:%M:%S} UTC, as "
        "from any stream that is silent for a minute; leave the home to it. Nothing was lost or doubled."
    )
