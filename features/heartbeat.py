"""The sign of life that a stream leaves in its home, and the request by which others ask it to stop."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from types import TracebackType

from pydantic import TypeAdapter, ValidationError

from features.errors import StateDamaged, StorageUnavailable
from features.home import Home
from features.objects import change, delete_all, overwrite, read_if_there

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
    """What a batch was: counts, and seconds by stage.

    `plan`, `work` and `commit` are on the clock; `fetch`, `decode`, `infer` and `write` are summed over tasks.
    """

    batch: int
    finished_at: datetime
    photos: int
    rejects: int
    stages_s: dict[str, float]


@dataclass(frozen=True)
class Vitals:
    """What a stream knows of itself: numbers, times and places; no key, no label, no person.

    `photos` and `rejects` are those that were committed in the last `window_s` seconds; `uncleared` are those that have
    their rows and could not be cleared away.
    """

    settings: StreamSettings
    waiting: Waiting | None = None
    messages: Messages | None = None
    window_s: float = 0.0
    photos: int = 0
    rejects: int = 0
    last_batch: FinishedBatch | None = None
    uncleared: int = 0


@dataclass(frozen=True)
class Heartbeat:
    """What a stream last said of itself; `batch` is the newest one it committed, `ended_at` is None until its end.

    Streams of earlier versions left no `vitals`.
    """

    nonce: str
    holder: str
    started_at: datetime
    beat_at: datetime
    ended_at: datetime | None
    batch: int | None
    vitals: Vitals | None = None


@dataclass(frozen=True)
class StopRequest:
    """A wish that the stream with this nonce stop; no other stream heeds it."""

    nonce: str
    asked_at: datetime


def read_heartbeat(home: Home) -> Heartbeat | None:
    """What the newest stream last said, or None when none ever ran. Raises StateDamaged, StorageUnavailable."""
    body = read_if_there(home.state, HEARTBEAT_KEY)
    try:
        return None if body is None else _HEARTBEAT.validate_json(body)
    except ValidationError as error:
        raise StateDamaged(f"{home.state.uri_of(HEARTBEAT_KEY)} cannot be read; delete it.") from error


def is_alive(heartbeat: Heartbeat, now: datetime) -> bool:
    """Whether this stream has not ended and gave a sign within the last 60 seconds."""
    return heartbeat.ended_at is None and abs(now - heartbeat.beat_at) <= SILENT_AFTER


def ask_to_stop(home: Home, nonce: str) -> None:
    """Ask the stream with this nonce to finish what is in flight and end. Replay asks again.

    Raises StorageUnavailable.
    """
    overwrite(home.state, STOP_KEY, _STOP.dump_json(StopRequest(nonce, datetime.now(UTC)), indent=1))


def wait_until_stopped(home: Home, nonce: str, timeout_s: float) -> bool:
    """Whether the stream with this nonce ended, or gave way to another, within `timeout_s`.

    False at once when it has given no sign for 60 seconds: nobody knows then. Raises StateDamaged, StorageUnavailable.
    """
    gives_up_at_s = time.monotonic() + timeout_s
    while True:
        standing = read_heartbeat(home)
        if standing is not None and (standing.nonce != nonce or standing.ended_at is not None):
            return True
        is_silent = standing is not None and not is_alive(standing, datetime.now(UTC))
        if is_silent or time.monotonic() >= gives_up_at_s:
            return False
        time.sleep(WAIT_LOOK_S)


class Heart:
    """Beats in a thread of its own while entered: every 10 s a sign of life, every 5 s a look for a request to stop.

    At the end it takes the request away and says that the stream has ended; after a fault of storage silence says so.
    Of two streams on one home the one that started last is heard. Leaving raises StorageUnavailable when the end
    could not be told and nothing else went wrong. `newest_batch` and `vitals` are asked in that thread.
    """

    def __init__(
        self,
        home: Home,
        nonce: str,
        newest_batch: Callable[[], int | None],
        vitals: Callable[[], Vitals | None] = lambda: None,
    ) -> None:
        self._home = home
        self._nonce = nonce
        self._newest_batch = newest_batch
        self._vitals = vitals
        self._holder = f"{socket.gethostname()}, process {os.getpid()}"
        self._started_at = datetime.now(UTC)
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heart":
        self._started_at = datetime.now(UTC)
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure
        if error is None:
            self._end()
        elif not isinstance(error, StorageUnavailable):
            # What went wrong first is what has to be told.
            with suppress(StorageUnavailable):
                self._end()

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody asked this very stream to stop."""
        return self._asked.is_set()

    @property
    def failure(self) -> Exception | None:
        """What it failed of; it beats no more then."""
        return self._failure

    def _beat(self) -> None:
        try:
            for look in count():
                if look % LOOKS_A_BEAT == 0:
                    self._tell(ended_at=None)
                if self._is_ours(read_if_there(self._home.state, STOP_KEY)):
                    self._asked.set()
                if self._closing.wait(LOOK_EVERY_S):
                    return
        except Exception as error:
            # The stream looks for it, and stops.
            self._failure = error

    def _end(self) -> None:
        if self._is_ours(read_if_there(self._home.state, STOP_KEY)):
            delete_all(self._home.state, [STOP_KEY])
        self._tell(ended_at=datetime.now(UTC))

    def _tell(self, ended_at: datetime | None) -> None:
        def ours_unless_newer(body: bytes | None) -> bytes:
            now = datetime.now(UTC)
            if body is not None and self._is_of_a_newer_stream(_parsed(body), now):
                return body
            beat = Heartbeat(
                self._nonce, self._holder, self._started_at, now, ended_at, self._newest_batch(), self._vitals()
            )
            return _HEARTBEAT.dump_json(beat, indent=1)

        change(self._home.state, HEARTBEAT_KEY, ours_unless_newer)

    def _is_of_a_newer_stream(self, other: Heartbeat | None, now: datetime) -> bool:
        if other is None or other.nonce == self._nonce:
            return False
        return is_alive(other, now) and other.started_at > self._started_at

    def _is_ours(self, body: bytes | None) -> bool:
        try:
            return body is not None and _STOP.validate_json(body).nonce == self._nonce
        except ValidationError:
            # What cannot be read names no stream.
            return False


def _parsed(body: bytes) -> Heartbeat | None:
    # What cannot be read is nobody's, and is written anew.
    try:
        return _HEARTBEAT.validate_json(body)
    except ValidationError:
        return None


_HEARTBEAT = TypeAdapter(Heartbeat)
_STOP = TypeAdapter(StopRequest)
