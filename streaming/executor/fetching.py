"""Reading the objects of a task: one that cannot be read costs itself its outcome, and the others no time."""

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from features.rejects import Rejected
from store.errors import StorageUnavailable
from store.objects.faults import REFUSALS, backoff_s, fault_of, is_fault, reason, storage_error
from store.objects.landing import LandedObject, ObjectAccessDenied, fetch_once
from store.objects.location import StorageLocation
from store.objects.page_cache import announce
from streaming.executor.probing import answers, hands_out_one
from streaming.executor.watchdog import WATCHDOG
from streaming.threads import SpareThreads

AHEAD_FILES = 8
AHEAD_BYTES = 96 * 2**20
# A read on disk that takes longer is left to itself while others are read; each time the next one is given half as
# long, so that a folder of files that hang does not hold up the rest.
HANGS_AFTER_S = 2.0
SHORTEST_WAIT_S = 0.1
# One that takes longer ends a worker on a task's first try.
ENDS_AFTER_S = 10.0
# Of a disk, as of S3 by the limit for a whole request: a slower one does not read, it fails.
SLOWEST_BYTES_PER_S = 250_000
# Storage that answered for another object longer ago is asked once more before an object is given up.
RECENT_S = 10.0

_NO_ANSWER = "no answer came"


@dataclass(frozen=True)
class Fetched:
    """An object's bytes, or why it has none."""

    landed: LandedObject
    body: bytes | Rejected


@dataclass(frozen=True)
class Shelf:
    """Where objects are read: in the landing, and those under a key in `archived` in the archive if they left it.

    `patience_s` is how long what may pass is tried again, from an object's first failure on.
    """

    landing: StorageLocation
    archive: StorageLocation
    archived: Collection[str]
    patience_s: float


def fetch_all(shelf: Shelf, objects: Sequence[LandedObject], may_end_worker: bool = False) -> Iterator[Fetched]:
    """What became of each object, once, in the order in which it is known.

    With `may_end_worker` a read on disk that hangs ends this process; whoever runs this again leaves it out then.

    An object that fails with what may pass is put aside, and tried again beside the others. One that fails until its
    time is over is `unreadable` (Refused) if storage answers for another object then. If it does not, raises
    StorageUnavailable; raises StorageRefused when storage refuses everything. Replay reads everything anew.
    """
    fetching = _Fetching(shelf)
    try:
        if shelf.landing.is_local and may_end_worker:
            yield from fetching.here(objects)
        elif shelf.landing.is_local:
            yield from fetching.in_turn(objects)
        else:
            yield from fetching.ahead(objects)
    finally:
        fetching.close()


@dataclass(eq=False)
class _Attempt:
    """An object that is being read, or waits for its next try at `due_s`; times are of the monotonic clock."""

    landed: LandedObject
    reading: "Future[bytes]"
    due_s: float = 0.0
    failed_s: float = 0.0
    waits: Iterator[float] | None = None
    words: str = _NO_ANSWER

    @property
    def is_put_aside(self) -> bool:
        return self.waits is not None


class _Fetching:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._threads = SpareThreads()
        self._running: list[_Attempt] = []
        self._hanging: list[_Attempt] = []
        self._aside: list[_Attempt] = []
        self._good: LandedObject | None = None
        self._answered_s = float("-inf")

    def close(self) -> None:
        self._threads.close()

    def here(self, objects: Sequence[LandedObject]) -> Iterator[Fetched]:
        """From disk, in turn with what is done with each: the kernel reads ahead by itself once it is told.

        Threads would take turns with the decoder on its core, and what they read would lie too long for the core's
        cache: 1 ms more for each 12 MP photo; even one that is waited for costs 2 to 4 % of small photos.
        """
        landing = self._shelf.landing
        with WATCHDOG.ends_process_after(ENDS_AFTER_S):
            _announce_all(landing, objects[:AHEAD_FILES])
        for landed, coming in zip_longest(objects, objects[AHEAD_FILES:]):
            read: Future[bytes] = Future()
            with WATCHDOG.ends_process_after(ENDS_AFTER_S + landed.size_bytes / SLOWEST_BYTES_PER_S):
                if coming is not None:
                    announce(landing, coming)
                try:
                    read.set_result(self._read(landed))
                except Exception as error:
                    read.set_exception(error)
            yield from self._outcome_of(_Attempt(landed, read))
        yield from self.ahead(())

    def in_turn(self, objects: Sequence[LandedObject]) -> Iterator[Fetched]:
        """The same where a read may hang: one thread reads, and is left to itself when it does not answer."""
        landing, wait_s = self._shelf.landing, HANGS_AFTER_S
        self._threads.submit(partial(_announce_all, landing, objects[:AHEAD_FILES]))
        for landed, coming in zip_longest(objects, objects[AHEAD_FILES:]):
            then = partial(announce, landing, coming) if coming is not None else None
            attempt = _Attempt(landed, self._threads.submit(partial(self._read, landed), then))
            try:
                attempt.reading.exception(timeout=wait_s)
            except TimeoutError:
                wait_s = max(wait_s / 2, SHORTEST_WAIT_S)
                self._put_aside(attempt)
                self._hanging.append(attempt)
                continue
            yield from self._outcome_of(attempt)
        yield from self.ahead(())

    def ahead(self, objects: Sequence[LandedObject]) -> Iterator[Fetched]:
        """A few at a time, and with them what was put aside, until each has an outcome."""
        fresh = deque(objects)
        while fresh or self._running or self._hanging or self._aside:
            while self._has_room and (attempt := self._next_due(fresh)) is not None:
                self._running.append(attempt)
            under_way = [attempt.reading for attempt in (*self._running, *self._hanging)]
            if under_way:
                wait(under_way, self._soonest_s(), FIRST_COMPLETED)
            else:
                time.sleep(self._soonest_s() or 0.0)
            for attempt in self._ended():
                yield from self._outcome_of(attempt)
            for attempt in self._out_of_time():
                yield self._give_up(attempt)

    def _read(self, landed: LandedObject) -> bytes:
        shelf = self._shelf
        return fetch_once(shelf.landing, landed, shelf.archive if landed.key in shelf.archived else None)

    @property
    def _has_room(self) -> bool:
        read_bytes = sum(attempt.landed.size_bytes for attempt in self._running)
        return len(self._running) < AHEAD_FILES and (not self._running or read_bytes < AHEAD_BYTES)

    def _next_due(self, fresh: deque[LandedObject]) -> _Attempt | None:
        if fresh:
            landed = fresh.popleft()
            return _Attempt(landed, self._threads.submit(partial(self._read, landed)))
        attempt = min(self._aside, key=lambda attempt: attempt.due_s, default=None)
        if attempt is None or attempt.due_s > time.monotonic():
            return None
        self._aside.remove(attempt)
        attempt.reading = self._threads.submit(partial(self._read, attempt.landed))
        return attempt

    def _soonest_s(self) -> float | None:
        """How long until a try is due or a time is over."""
        due_s = [attempt.due_s for attempt in self._aside] if self._has_room else []
        due_s += map(self._ends_s, self._with_an_end)
        return max(min(due_s) - time.monotonic(), 0.0) if due_s else None

    def _ended(self) -> list[_Attempt]:
        ended = [attempt for attempt in (*self._running, *self._hanging) if attempt.reading.done()]
        self._running = [attempt for attempt in self._running if attempt not in ended]
        self._hanging = [attempt for attempt in self._hanging if attempt not in ended]
        return ended

    @property
    def _with_an_end(self) -> list[_Attempt]:
        # A client of S3 ends each try by itself.
        tried_again = [attempt for attempt in self._running if attempt.is_put_aside]
        return [*self._hanging, *tried_again] if self._shelf.landing.is_local else []

    def _ends_s(self, attempt: _Attempt) -> float:
        time_s = max(self._shelf.patience_s, attempt.landed.size_bytes / SLOWEST_BYTES_PER_S)
        return max(attempt.failed_s + time_s, attempt.due_s + HANGS_AFTER_S)

    def _out_of_time(self) -> list[_Attempt]:
        now_s = time.monotonic()
        over = [attempt for attempt in self._with_an_end if now_s >= self._ends_s(attempt)]
        self._running = [attempt for attempt in self._running if attempt not in over]
        self._hanging = [attempt for attempt in self._hanging if attempt not in over]
        return over

    def _outcome_of(self, attempt: _Attempt) -> Iterator[Fetched]:
        """What became of an object that was read; nothing when it is put aside."""
        landed, error = attempt.landed, attempt.reading.exception()
        if error is None:
            # The archive may lie elsewhere; it says nothing of the landing.
            if landed.key not in self._shelf.archived:
                self._good, self._answered_s = landed, time.monotonic()
            yield Fetched(landed, attempt.reading.result())
        elif isinstance(error, Rejected):
            yield Fetched(landed, error)
        elif not (isinstance(error, Exception) and is_fault(error)):
            raise error
        elif fault_of(error) in REFUSALS:
            raise storage_error(f"read {self._shelf.landing.uri_of(landed.key)}", error) from error
        else:
            attempt.words = reason(error)
            wait_s = self._put_aside(attempt)
            if wait_s is None:
                yield self._give_up(attempt)
            else:
                attempt.due_s = time.monotonic() + wait_s
                self._aside.append(attempt)

    def _put_aside(self, attempt: _Attempt) -> float | None:
        """How long to wait before the next try; None when the time is over."""
        if attempt.waits is None:
            attempt.waits, attempt.failed_s = backoff_s(self._shelf.patience_s), time.monotonic()
        return next(attempt.waits, None)

    def _give_up(self, attempt: _Attempt) -> Fetched:
        shelf, landed, words = self._shelf, attempt.landed, attempt.words
        if not self._storage_answers(attempt):
            raise StorageUnavailable(
                f"Cannot read {shelf.landing.uri_of(landed.key)} for {shelf.patience_s:g} s, nor any other photo "
                f"of the landing: {words}."
            )
        detail = f"It could not be read for {shelf.patience_s:g} s, while other photos could: {words}."
        return Fetched(landed, ObjectAccessDenied(words, detail))

    def _storage_answers(self, attempt: _Attempt) -> bool:
        if self._answered_s >= max(attempt.failed_s, time.monotonic() - RECENT_S):
            return True
        landing, patience_s = self._shelf.landing, self._shelf.patience_s
        is_answering = self._good is not None and hands_out_one(landing, [self._good], patience_s)
        if not is_answering:
            unread = {one.landed.key for one in (*self._aside, *self._running, *self._hanging)}
            is_answering = answers(landing, self._shelf.archive, attempt.landed.key, unread, patience_s)
        if is_answering:
            self._answered_s = time.monotonic()
        return is_answering


def _announce_all(landing: StorageLocation, objects: Sequence[LandedObject]) -> None:
    for landed in objects:
        announce(landing, landed)
