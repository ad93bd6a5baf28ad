"""Clearing photos away that have their rows: after each commit, and whatever a listing shows of earlier ones."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from store.home import Home
from store.objects.landing import Cleaning, LandedObject, changed_at_s
from store.objects.location import StorageLocation
from store.settings import Settings
from store.state.plans import Plan, Result
from store.tables.schemas import COPY_ROWS
from streaming.cleaning.clearing import Clearing
from streaming.cleaning.leftovers import LeftoverCopies
from streaming.discovery.known_copies import KnownCopies
from streaming.discovery.processed_index import ProcessedEntry

CLEARED_AT_ONCE = 16
# A listing leaves the photos of this run's batches to the cleaner's own thread for so long.
LEFT_TO_THREAD_S = 600.0
# With a long `clean_after` more would wait than memory should hold: a listing clears those beyond, too.
MOST_DUE = 200_000
# Between tries at what failed, ever longer.
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 10.0


@dataclass(frozen=True)
class _DuePhotos:
    """Photos of a batch, none young from `old_s` on (monotonic clock); failed ones waited `retry_s` for this try."""

    landing: StorageLocation
    objects: tuple[LandedObject, ...]
    old_s: float
    retry_s: float = 0.0


class Cleaner:
    """Archives or deletes photos `clean_after` their commit; `delete` keeps rejected ones: they exist nowhere else.

    `reduce` deletes a photo only if the table of copies, or the batch that was committed just now, has its copy;
    `leftovers` makes the copies that a listing finds missing. Without it such photos stay.
    A file on disk that changed within `settle` stays: its writer may not be done with it. The photos of this run's
    batches are cleared in a thread of their own. No record is kept: a listing finds what a killed process left. A photo
    of a batch after `answered_through()` stays until its answer is written.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        answered_through: Callable[[], float] = lambda: float("inf"),
        leftovers: LeftoverCopies | None = None,
    ) -> None:
        self._home = home
        self._how = settings.clean
        self._after_s = settings.clean_after.total_seconds()
        self._settle_s = settings.settle.total_seconds()
        self._answered_through = answered_through
        self._leftovers = leftovers
        self._clearing = Clearing(home, _how_to_clear(settings.clean), settings.storage_patience)
        self._copies = KnownCopies(home)
        self._due: list[tuple[float, int, _DuePhotos]] = []
        self._numbers = itertools.count()
        self._due_objects = 0
        self._first_batch = float("inf")
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="cleaner", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread; with `keep` there is nothing to do."""
        if self._how != "keep":
            self._thread.start()

    def committed(self, plan: Plan, result: Result) -> None:
        """A batch is committed and answered: its photos will be cleared away."""
        if self._how == "keep" or (self._how == "reduce" and not has_copies(result)):
            return
        self._first_batch = min(self._first_batch, plan.batch)
        rejected = set(result.rejected_keys)
        objects = tuple(landed for landed in plan.objects if self._covers(landed.key not in rejected))
        old_s = time.monotonic() + self._settle_s
        self._put(self._after_s, _DuePhotos(self._home.landing_named(plan.landing), objects, old_s))

    def clear_leftovers(self, shown: Iterable[tuple[LandedObject, ProcessedEntry]]) -> None:
        """Clear away what a listing shows and the thread does not have. Raises StorageRefused, StorageUnavailable."""
        now_s, landing = datetime.now(UTC).timestamp(), self._home.landing
        due = [(landed, entry) for landed, entry in shown if self._is_leftover(entry, now_s)]
        leftovers = self._with_copies(due) if self._how == "reduce" else [landed for landed, _ in due]
        if leftovers:
            with ThreadPoolExecutor(CLEARED_AT_ONCE, thread_name_prefix="clear") as pool:
                young = self._young(pool, landing, leftovers)
                self._clearing.clear(pool, landing, [landed for landed in leftovers if landed not in young])

    def copied(self, landing: StorageLocation, objects: Sequence[LandedObject]) -> None:
        """The copies of photos that a listing showed are committed: these will be cleared away."""
        if objects:
            self._put(0.0, _DuePhotos(landing, tuple(objects), time.monotonic() + self._settle_s))

    @property
    def uncleared(self) -> int:
        return self._clearing.uncleared

    @property
    def to_copy(self) -> int:
        """How many photos of earlier batches wait for their copy, before they are cleared away."""
        return self._leftovers.waiting if self._leftovers is not None else 0

    @property
    def uncopied(self) -> dict[str, int]:
        """How many photos stay because no copy can be made of them, by reason."""
        return self._leftovers.stuck if self._leftovers is not None else {}

    def close(self) -> None:
        """Clear away what is due already, trying again what fails, and end; a later start does the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(CLEARED_AT_ONCE, thread_name_prefix="clear") as pool:
                while due := self._next():
                    # Whatever the disk's clock says: a version that is cleared at `old_s` stood still since its commit.
                    is_old = time.monotonic() >= due.old_s
                    young = frozenset() if is_old else self._young(pool, due.landing, due.objects)
                    if young:
                        self._put(due.old_s - time.monotonic(), replace(due, objects=tuple(young)))
                    old = [landed for landed in due.objects if landed not in young]
                    if failed := self._clearing.clear(pool, due.landing, old):
                        retry_s = min(max(2 * due.retry_s, FIRST_RETRY_S), LONGEST_RETRY_S)
                        self._put(retry_s, replace(due, objects=failed, retry_s=retry_s))
        except BaseException as error:
            # The stream looks for it, and stops.
            self.failure = error

    def _put(self, wait_s: float, due: _DuePhotos) -> None:
        with self._changed:
            if self._due_objects + len(due.objects) <= MOST_DUE or not self._due:
                heapq.heappush(self._due, (time.monotonic() + wait_s, next(self._numbers), due))
                self._due_objects += len(due.objects)
                self._changed.notify_all()

    def _next(self) -> _DuePhotos | None:
        with self._changed:
            while True:
                if self._closed:
                    now_s = time.monotonic()
                    self._due = sorted(due for due in self._due if due[0] <= now_s or due[2].retry_s)
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    _, _, due = heapq.heappop(self._due)
                    self._due_objects -= len(due.objects)
                    return due
                if self._closed and wait_s is None:
                    return None
                self._changed.wait(wait_s)

    def _covers(self, featurized: bool) -> bool:
        return self._how == "archive" or (self._how in ("delete", "reduce") and featurized)

    def _is_leftover(self, entry: ProcessedEntry, now_s: float) -> bool:
        if entry.featurized is None or not self._covers(entry.featurized) or entry.batch > self._answered_through():
            return False
        extra_s = LEFT_TO_THREAD_S if entry.batch >= self._first_batch else 0.0
        return entry.at_s + self._after_s + extra_s <= now_s

    def _with_copies(self, due: Sequence[tuple[LandedObject, ProcessedEntry]]) -> list[LandedObject]:
        """Those that have their copy; the others get it first."""
        if self._leftovers is None:
            return self._copies.among(due)
        unknown = set(self._leftovers.unknown(landed for landed, _ in due))
        due = [(landed, entry) for landed, entry in due if landed in unknown]
        copied = self._copies.among(due)
        lacking = unknown.difference(copied)
        # S3 tells when the same bytes were last uploaded, their rows when they were taken in.
        taken_in = ((landed, datetime.fromtimestamp(entry.arrived_s, UTC)) for landed, entry in due)
        self._leftovers.add(replace(landed, arrived_at=at) for landed, at in taken_in if landed in lacking)
        return copied

    def _young(
        self, pool: ThreadPoolExecutor, landing: StorageLocation, objects: Sequence[LandedObject]
    ) -> frozenset[LandedObject]:
        """The files on disk that changed within `settle`, by the disk's clock."""
        if not (landing.is_local and self._settle_s):
            return frozenset()
        changed_s = pool.map(lambda landed: changed_at_s(landing, landed), objects)
        now_s = time.time()
        is_young = [at_s is not None and now_s - at_s < self._settle_s for at_s in changed_s]
        return frozenset(itertools.compress(objects, is_young))


def _how_to_clear(clean: str) -> Cleaning:
    ways: dict[str, Cleaning] = {"keep": "keep", "archive": "archive", "delete": "delete", "reduce": "delete"}
    return ways[clean]


def has_copies(result: Result) -> bool:
    """Whether each photo of a batch has its copy."""
    # A batch that was planned before copies were asked for has none.
    copies = sum(added.rows for added in result.adds.get(COPY_ROWS.name, ()))
    return 0 < copies == result.counters.photos
