"""Clearing away photos that have their rows: after each commit, and whatever a listing shows of earlier ones."""

import heapq
import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from store.home import Home
from store.objects.landing import Cleaning, LandedObject, changed_at_s
from store.objects.location import StorageLocation
from store.settings import Settings
from store.state.plans import Plan, Result
from streaming.clearing import Clearing
from streaming.discovery.processed_index import ProcessedEntry

CLEARED_AT_ONCE = 16
# Photos of this run's batches are the cleaner's; a listing leaves them to it for so long.
LEFT_TO_CLEANER = timedelta(minutes=10)
# With a long `after` more would wait than memory should hold: those beyond are left to a listing, too.
MOST_DUE = 200_000
# Between tries at what failed, ever longer.
AGAIN_S = 0.5
LONGEST_AGAIN_S = 10.0


@dataclass(frozen=True)
class CleaningRule:
    """What happens to photos that have their rows, and how long after their commit.

    `delete` keeps rejected photos: they exist nowhere else. A file on disk that changed within `settle` stays: its
    writer may not be done with it.
    """

    how: Cleaning
    after: timedelta
    settle: timedelta

    @classmethod
    def of(cls, settings: Settings) -> "CleaningRule":
        return cls(settings.clean, settings.clean_after, settings.settle)

    def covers(self, featurized: bool) -> bool:
        """Whether an object with this outcome is cleared away."""
        return self.how == "archive" or (self.how == "delete" and featurized)


@dataclass(frozen=True)
class _Due:
    """Photos to clear away; those that failed before were waited for before this try.

    From `old_s` of the monotonic clock on, none of them is young.
    """

    landing: StorageLocation
    objects: tuple[LandedObject, ...]
    old_s: float
    waited_s: float = 0.0

    @property
    def is_again(self) -> bool:
        return self.waited_s > 0.0


class Cleaner:
    """Clears away the photos of the batches of this run, each once it is due, in a thread of its own.

    It keeps no record: what a killed process leaves is found by the next listing.
    """

    def __init__(self, home: Home, rule: CleaningRule, clearing: Clearing) -> None:
        self._home = home
        self._rule = rule
        self._clearing = clearing
        self._due: list[tuple[float, int, _Due]] = []
        self._numbers = itertools.count()
        self._due_objects = 0
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="cleaner", daemon=True)

    @property
    def failure(self) -> BaseException | None:
        """What it failed of; it does nothing more then."""
        return self._failure

    def start(self) -> None:
        """Begin; with `keep` there is nothing to do."""
        if self._rule.how != "keep":
            self._thread.start()

    def committed(self, plan: Plan, result: Result) -> None:
        """A batch is committed: its photos will be cleared away."""
        if self._rule.how == "keep":
            return
        rejected = set(result.rejected_keys)
        covered = tuple(landed for landed in plan.objects if self._rule.covers(landed.key not in rejected))
        old_s = time.monotonic() + self._rule.settle.total_seconds()
        self._put(self._rule.after.total_seconds(), _Due(self._home.landing_named(plan.landing), covered, old_s))

    def close(self) -> None:
        """Clear away what is due already, trying again what fails, and end; the rest is left to a later start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(CLEARED_AT_ONCE, thread_name_prefix="clear") as pool:
                while due := self._next():
                    # Whatever the disk's clock says: a version that is cleared then has stood still since its commit.
                    is_old = time.monotonic() >= due.old_s
                    young = () if is_old else _young(pool, self._rule, due.landing, due.objects)
                    if young:
                        self._put(due.old_s - time.monotonic(), replace(due, objects=young))
                    others = [landed for landed in due.objects if landed not in set(young)]
                    failed = self._clearing.clear(pool, due.landing, others)
                    if failed:
                        wait_s = min(max(2 * due.waited_s, AGAIN_S), LONGEST_AGAIN_S)
                        self._put(wait_s, replace(due, objects=failed, waited_s=wait_s))
        except BaseException as error:
            # The stream looks for it, and stops.
            self._failure = error

    def _put(self, wait_s: float, due: _Due) -> None:
        with self._changed:
            if self._due_objects + len(due.objects) <= MOST_DUE or not self._due:
                heapq.heappush(self._due, (time.monotonic() + wait_s, next(self._numbers), due))
                self._due_objects += len(due.objects)
                self._changed.notify_all()

    def _next(self) -> _Due | None:
        with self._changed:
            while True:
                if self._closed:
                    now_s = time.monotonic()
                    self._due = sorted(due for due in self._due if due[0] <= now_s or due[2].is_again)
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    _, _, due = heapq.heappop(self._due)
                    self._due_objects -= len(due.objects)
                    return due
                if self._closed and wait_s is None:
                    return None
                self._changed.wait(wait_s)


class Leftovers:
    """For listings: clears away photos that have had their rows for long enough and are not due in the cleaner.

    After a failure the next listing tries again.
    """

    def __init__(self, home: Home, rule: CleaningRule, clearing: Clearing, started_after: int) -> None:
        self._landing = home.landing
        self._rule = rule
        self._started_after = started_after
        self._clearing = clearing

    def clear(self, shown: Iterable[tuple[LandedObject, ProcessedEntry]]) -> None:
        """Clear away what is left of these. Raises StorageRefused, StorageUnavailable."""
        now_s = datetime.now(UTC).timestamp()
        left = [landed for landed, known in shown if self._is_left(known, now_s)]
        if left:
            with ThreadPoolExecutor(CLEARED_AT_ONCE, thread_name_prefix="clear") as pool:
                young = set(_young(pool, self._rule, self._landing, left))
                self._clearing.clear(pool, self._landing, [landed for landed in left if landed not in young])

    def _is_left(self, known: ProcessedEntry, now_s: float) -> bool:
        if known.featurized is None or not self._rule.covers(known.featurized):
            return False
        after = self._rule.after if known.batch <= self._started_after else self._rule.after + LEFT_TO_CLEANER
        return known.at_s + after.total_seconds() <= now_s


def _young(
    pool: ThreadPoolExecutor, rule: CleaningRule, landing: StorageLocation, objects: Sequence[LandedObject]
) -> tuple[LandedObject, ...]:
    """The files on disk that changed within `settle`, by the disk's clock."""
    settle_s = rule.settle.total_seconds()
    if not (landing.is_local and settle_s):
        return ()

    def is_young(landed: LandedObject) -> bool:
        changed_s = changed_at_s(landing, landed)
        return changed_s is not None and time.time() - changed_s < settle_s

    return tuple(landed for landed, young in zip(objects, pool.map(is_young, objects), strict=True) if young)
