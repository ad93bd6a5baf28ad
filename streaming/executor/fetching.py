"""Reading the objects of a task: an unreadable object costs only its own outcome, and the others no time."""

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from features.isolation import process_deadline
from features.rejects import Rejected
from store.errors import StorageUnavailable
from store.objects.faults import REFUSALS, backoff_s, fault_of, is_fault, reason, storage_error
from store.objects.landing import LandedObject, ObjectAccessDenied, fetch_once
from store.objects.location import StorageLocation
from store.objects.page_cache import advise_kernel
from streaming.executor.probing import answers
from streaming.threads import in_thread

AHEAD_FILES = 8
AHEAD_BYTES = 96 * 2**20
# A read on disk that takes longer hangs: it is left to its thread, and another object is read in its place.
HANGS_AFTER_S = 2.0
# A read that takes longer, or longer than the patience, ends the worker at a task's first try.
ENDS_AFTER_S = 10.0
# A disk that reads slower fails, as S3 does by the limit for a whole request.
SLOWEST_BYTES_PER_S = 250_000
# If storage's last answer for another object is older, it is asked again before an object is given up.
RECENT_S = 10.0

_NO_ANSWER = "no answer came"


@dataclass(frozen=True)
class Fetched:
    """An object's bytes, or why it has none."""

    landed: LandedObject
    body: bytes | Rejected


@dataclass(frozen=True)
class ReadLocations:
    """In the landing, keys in `archived` also in the archive; after a passing fault again for `patience_s`."""

    landing: StorageLocation
    archive: StorageLocation
    archived: Collection[str]
    patience_s: float


def fetch_all(
    locations: ReadLocations, objects: Sequence[LandedObject], may_end_worker: bool = False
) -> Iterator[Fetched]:
    """Each object's bytes or reject, once, in the order in which it is known.

    With `may_end_worker` a read on disk that hangs ends this process; the task's next try must come without it.
    After a passing fault an object is tried again beside the others. When its time is over it is `unreadable`
    (ObjectAccessDenied), if storage answers for another object. If storage does not, raises StorageUnavailable; raises
    StorageRefused when storage refuses everything. Replay reads everything anew.
    """
    fetching = _Fetching(locations)
    if locations.landing.is_local and may_end_worker:
        yield from fetching.in_turn(objects)
    else:
        yield from fetching.ahead(objects)


@dataclass(eq=False)
class _Attempt:
    """One that is read since `started_s` or again at `due_s`, failing or hanging since `failing_s` (monotonic)."""

    landed: LandedObject
    reading: "Future[bytes]"
    started_s: float
    due_s: float = 0.0
    failing_s: float | None = None
    waits: Iterator[float] | None = None
    words: str = _NO_ANSWER


class _Fetching:
    def __init__(self, locations: ReadLocations) -> None:
        self._locations = locations
        self._running: list[_Attempt] = []
        self._waiting: list[_Attempt] = []
        self._answered_s = float("-inf")

    def in_turn(self, objects: Sequence[LandedObject]) -> Iterator[Fetched]:
        """From disk, in this thread: the kernel reads ahead by itself once it is told.

        Threads would take turns with the decoder on its core, and what they read would lie too long for the core's
        cache: 1 ms more for each 12 MP photo; even one that is waited for costs 2 to 4 % of small photos.
        """
        landing = self._locations.landing
        ends_after_s = min(ENDS_AFTER_S, self._locations.patience_s)
        with process_deadline(ends_after_s):
            for landed in objects[:AHEAD_FILES]:
                advise_kernel(landing, landed, is_needed=True)
        for landed, coming in zip_longest(objects, objects[AHEAD_FILES:]):
            read: Future[bytes] = Future()
            with process_deadline(ends_after_s + landed.size_bytes / SLOWEST_BYTES_PER_S):
                if coming is not None:
                    advise_kernel(landing, coming, is_needed=True)
                try:
                    read.set_result(self._read(landed))
                except Exception as error:
                    read.set_exception(error)
            yield from self._outcome_of(_Attempt(landed, read, time.monotonic()))
        yield from self.ahead(())

    def ahead(self, objects: Sequence[LandedObject]) -> Iterator[Fetched]:
        """A few at a time in threads, and with them what is tried again, until each has an outcome."""
        fresh = deque(objects)
        while fresh or self._running or self._waiting:
            while self._has_room and (attempt := self._next_due(fresh)) is not None:
                self._running.append(attempt)
            if self._running:
                wait([attempt.reading for attempt in self._running], self._next_event_s(), FIRST_COMPLETED)
            else:
                time.sleep(self._next_event_s() or 0.0)
            done = [attempt for attempt in self._running if attempt.reading.done()]
            hanging = [attempt for attempt in self._running if attempt not in done and self._hangs(attempt)]
            over = [attempt for attempt in hanging if time.monotonic() >= self._ends_s(attempt)]
            self._running = [attempt for attempt in self._running if attempt not in (*done, *over)]
            for attempt in done:
                yield from self._outcome_of(attempt)
            for attempt in over:
                yield self._give_up(attempt)

    def _read(self, landed: LandedObject) -> bytes:
        locations = self._locations
        return fetch_once(locations.landing, landed, locations.archive if landed.key in locations.archived else None)

    @property
    def _has_room(self) -> bool:
        reading = [attempt for attempt in self._running if not self._hangs(attempt)]
        read_bytes = sum(attempt.landed.size_bytes for attempt in reading)
        return len(reading) < AHEAD_FILES and (not reading or read_bytes < AHEAD_BYTES)

    def _next_due(self, fresh: deque[LandedObject]) -> _Attempt | None:
        now_s = time.monotonic()
        if fresh:
            landed = fresh.popleft()
            return _Attempt(landed, in_thread(partial(self._read, landed)), now_s)
        attempt = min(self._waiting, key=lambda attempt: attempt.due_s, default=None)
        if attempt is None or attempt.due_s > now_s:
            return None
        self._waiting.remove(attempt)
        attempt.reading, attempt.started_s = in_thread(partial(self._read, attempt.landed)), now_s
        return attempt

    def _hangs(self, attempt: _Attempt) -> bool:
        # A client of S3 ends each try by itself.
        return self._locations.landing.is_local and time.monotonic() - attempt.started_s >= HANGS_AFTER_S

    def _ends_s(self, attempt: _Attempt) -> float:
        since_s = attempt.started_s if attempt.failing_s is None else attempt.failing_s
        return since_s + max(self._locations.patience_s, attempt.landed.size_bytes / SLOWEST_BYTES_PER_S)

    def _next_event_s(self) -> float | None:
        """How long until a try is due, a read hangs or a time is over."""
        events_s = [attempt.due_s for attempt in self._waiting] if self._has_room else []
        if self._locations.landing.is_local:
            for attempt in self._running:
                hangs_s = attempt.started_s + HANGS_AFTER_S
                events_s.append(max(hangs_s, self._ends_s(attempt)) if self._hangs(attempt) else hangs_s)
        return max(min(events_s) - time.monotonic(), 0.0) if events_s else None

    def _outcome_of(self, attempt: _Attempt) -> Iterator[Fetched]:
        """The outcome of a read; nothing when it is tried again."""
        landed, error = attempt.landed, attempt.reading.exception()
        if error is None:
            # The archive may lie elsewhere; it says nothing of the landing.
            if landed.key not in self._locations.archived:
                self._answered_s = time.monotonic()
            yield Fetched(landed, attempt.reading.result())
        elif isinstance(error, Rejected):
            yield Fetched(landed, error)
        elif not (isinstance(error, Exception) and is_fault(error)):
            raise error
        elif fault_of(error) in REFUSALS:
            uri = self._locations.landing.uri_of(landed.key)
            raise storage_error(f"read {uri}", error, landed.key) from error
        else:
            attempt.words = reason(error)
            if attempt.waits is None:
                attempt.waits, attempt.failing_s = backoff_s(self._locations.patience_s), time.monotonic()
            wait_s = next(attempt.waits, None)
            if wait_s is None:
                yield self._give_up(attempt)
            else:
                attempt.due_s = time.monotonic() + wait_s
                self._waiting.append(attempt)

    def _give_up(self, attempt: _Attempt) -> Fetched:
        locations, landed, words = self._locations, attempt.landed, attempt.words
        if not self._storage_answers(attempt):
            raise StorageUnavailable(
                f"Cannot read {locations.landing.uri_of(landed.key)} for {locations.patience_s:g} s, nor any other "
                f"photo of the landing: {words}.",
                photo=landed.key,
            )
        detail = f"It could not be read for {locations.patience_s:g} s, while other photos could: {words}."
        return Fetched(landed, ObjectAccessDenied(words, detail))

    def _storage_answers(self, attempt: _Attempt) -> bool:
        since_s = attempt.started_s if attempt.failing_s is None else attempt.failing_s
        if self._answered_s >= max(since_s, time.monotonic() - RECENT_S):
            return True
        locations = self._locations
        unread = {one.landed.key for one in (*self._waiting, *self._running)}
        is_answering = answers(locations.landing, locations.archive, attempt.landed.key, unread, locations.patience_s)
        if is_answering:
            self._answered_s = time.monotonic()
        return is_answering
