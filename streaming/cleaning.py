"""Clearing away photos that have their rows: after each commit, and whatever a listing shows of earlier ones."""

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from features.home import Home
from features.landing import Cleaning, Landed, changed_at_s, clear_away
from features.objects import Place
from features.plan import Plan, Result
from streaming.seen import Known

CLEARED_AT_ONCE = 16
# Photos of this run's batches are the cleaner's; a listing leaves them to it for so long.
LEFT_TO_CLEANER = timedelta(minutes=10)
# With a long `after` more would wait than memory should hold: those beyond are left to a listing, too.
MOST_DUE = 200_000


@dataclass(frozen=True)
class CleaningRule:
    """What happens to photos that have their rows, and how long after their commit.

    `delete` keeps what was rejected: it exists nowhere else. A file on disk that changed within `settle` stays: its
    writer may not be done with it, however whole it looks.
    """

    how: Cleaning
    after: timedelta
    settle: timedelta

    def covers(self, featurized: bool) -> bool:
        """Whether an object with this outcome is cleared away."""
        return self.how == "archive" or (self.how == "delete" and featurized)


@dataclass(frozen=True)
class _Due:
    """Photos of a batch; from `old_s` of the monotonic clock on, none of them is young."""

    landing: Place
    objects: tuple[Landed, ...]
    old_s: float


class Cleaner:
    """Clears away the photos of the batches of this run, each once it is due, in a thread of its own.

    It keeps no record: what a killed process leaves is found by the next listing.
    """

    def __init__(self, home: Home, rule: CleaningRule) -> None:
        self._home = home
        self._rule = rule
        self._due: list[tuple[float, int, _Due]] = []
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
        now_s = time.monotonic()
        old_s = now_s + self._rule.settle.total_seconds()
        self._put(
            now_s + self._rule.after.total_seconds(),
            plan.batch,
            _Due(self._home.landing_named(plan.landing), covered, old_s),
        )

    def close(self) -> None:
        """Clear away what is due already and end; the rest is left to a later start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(CLEARED_AT_ONCE, thread_name_prefix="clear") as pool:
                while work := self._next():
                    batch, due = work
                    # Whatever the disk's clock says: a version that is cleared then has stood still since its commit.
                    is_old = time.monotonic() >= due.old_s
                    young = _clear(pool, self._home, self._rule, due.landing, due.objects, is_old)
                    if young:
                        self._put(due.old_s, batch, replace(due, objects=young))
        except BaseException as error:
            # The stream looks for it, and stops.
            self._failure = error

    def _put(self, due_s: float, batch: int, due: "_Due") -> None:
        with self._changed:
            if self._due_objects + len(due.objects) <= MOST_DUE or not self._due:
                heapq.heappush(self._due, (due_s, batch, due))
                self._due_objects += len(due.objects)
                self._changed.notify_all()

    def _next(self) -> tuple[int, "_Due"] | None:
        with self._changed:
            while True:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    _, batch, due = heapq.heappop(self._due)
                    self._due_objects -= len(due.objects)
                    return batch, due
                if self._closed:
                    return None
                self._changed.wait(wait_s)


def clear_leftovers(
    home: Home, rule: CleaningRule, started_after: int
) -> Callable[[Sequence[tuple[Landed, Known]]], None]:
    """For a listing: clears away what has had its rows for long enough and is no business of this run's cleaner."""

    def is_left(known: Known, now_s: float) -> bool:
        if known.featurized is None or not rule.covers(known.featurized):
            return False
        patience = rule.after if known.batch <= started_after else rule.after + LEFT_TO_CLEANER
        return known.at_s + patience.total_seconds() <= now_s

    def clear(shown: Iterable[tuple[Landed, Known]]) -> None:
        now_s = datetime.now(UTC).timestamp()
        left = [landed for landed, known in shown if is_left(known, now_s)]
        if left:
            with ThreadPoolExecutor(CLEARED_AT_ONCE, thread_name_prefix="clear") as pool:
                _clear(pool, home, rule, home.landing, left, is_old=False)

    return clear


def _clear(
    pool: ThreadPoolExecutor, home: Home, rule: CleaningRule, landing: Place, objects: Iterable[Landed], is_old: bool
) -> tuple[Landed, ...]:
    """Clears away what is not young, and returns what is; with `is_old` nothing is."""
    settle_s = rule.settle.total_seconds() if landing.is_local and not is_old else 0.0

    def clear_unless_young(landed: Landed) -> bool:
        if settle_s:
            changed_s = changed_at_s(landing, landed)
            if changed_s is not None and time.time() - changed_s < settle_s:
                return False
        clear_away(landing, home.archive, landed, rule.how)
        return True

    objects = tuple(objects)
    is_done = pool.map(clear_unless_young, objects)
    return tuple(landed for landed, done in zip(objects, is_done, strict=True) if not done)
