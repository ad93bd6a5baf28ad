"""What arrived and was never planned: by listing, or from a queue with a listing every so often."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from store.home import Home
from store.objects.landing import LandedObject
from store.state.plans import Plan
from streaming.discovery.arrivals import Arrivals, Backlog
from streaming.discovery.in_flight_messages import Arrival
from streaming.discovery.listing import Listing
from streaming.discovery.processed_index import ProcessedEntry, ProcessedIndex
from streaming.discovery.queue import Queue, QueueStats
from streaming.discovery.settling import Settling

# A listing that takes longer gives what it has found so far; a shorter one lets the oldest come first.
PATIENCE_S = 2.0
# The planner's thread does not wait longer, so that the stream can be stopped.
LONGEST_WAIT_S = 5.0

MOST_NAMED = 10

_TAKEN_AT_ONCE = 10_000
_STATS_EVERY_S = 30.0


@dataclass(frozen=True)
class UnsettledFiles:
    """Files that a drain leaves for the next start because they kept changing: how many, and some of their keys."""

    files: int
    keys: tuple[str, ...]


class Discovery:
    """Finds arrivals, which wait until they are planned: by listing, or from a queue and a listing every `backfill`.

    With `drain` there is one listing, and the queue is emptied once. What arrived before `only_since` is ignored.
    `settle`: as in Settling. `clear_leftovers` gets what a listing shows of older plans.
    """

    def __init__(
        self,
        home: Home,
        index: ProcessedIndex,
        *,
        queue: str | None,
        backfill: timedelta,
        drain: bool,
        only_since: datetime | None,
        settle: timedelta,
        clear_leftovers: Callable[[Sequence[tuple[LandedObject, ProcessedEntry]]], None] = lambda _: None,
    ) -> None:
        self._backfill_s = backfill.total_seconds()
        self._drain = drain
        self._only_since = only_since
        self._arrivals = Arrivals(home, index)
        self._settling = Settling(home.landing, settle, self._arrivals.has)
        self._listing = Listing(home, index, self._arrivals, clear_leftovers, only_since, self._settling)
        # Any wait has SQS ask all its servers, and a drain that waits long only ends later.
        wait_s = 1 if drain else None
        self._queue = Queue(queue, home.landing, home.landing.s3_region, wait_s) if queue else None
        self._queue_stats: QueueStats | None = None
        self._stats_read_s = float("-inf")
        self._listing_began_s = float("-inf")

    def start(self) -> None:
        """Start the queue's receivers, and one listing of what is there already."""
        if self._queue is not None:
            self._queue.start()
        self._begin_listing()

    def poll(self) -> None:
        """Take in what was found; when nothing waits, wait for a short while. Raises StorageUnavailable."""
        if self._queue is not None:
            self._take_messages(self._queue)
        if self._is_due and self._listing.may_begin:
            self._begin_listing()
        if self.awaits_files and not self._listing.active:
            self._listing.begin(only_held=True)
        if self._queue is None:
            self._wait_for_listing()

    def oldest(self, most: int) -> list[LandedObject]:
        return self._arrivals.oldest(most)

    def planned(self, plan: Plan) -> None:
        """These are in a durable plan; their messages are deleted in the background."""
        settled = self._arrivals.planned(plan)
        if self._queue is not None:
            self._queue.settled(settled)

    def skip(self, objects: Sequence[LandedObject]) -> None:
        """These are never to be planned; their messages are deleted in the background."""
        settled = self._arrivals.skip(objects)
        if self._queue is not None:
            self._queue.settled(settled)

    def close(self) -> None:
        """Stop; messages that are not settled go back to the queue. Takes 10 s at most, whatever hangs."""
        if self._queue is not None:
            self._queue.close()
        self._listing.close()

    @property
    def backlog(self) -> Backlog:
        return self._arrivals.backlog(at_least=self._listing.active or self._listing.complete_began_at is None)

    @property
    def caught_up_to(self) -> datetime | None:
        """Everything that had settled in the landing by then was planned, if nothing waits now."""
        if self._listing.active or len(self._arrivals):
            return None
        if self._queue is not None and self._drain and self._queue.found_empty_at is None:
            return None
        return None if self.awaits_files else self._listing.complete_began_at

    @property
    def awaits_files(self) -> bool:
        """Whether a drain holds files back that may settle soon, as far as its last look shows."""
        return self._drain and self._settling.awaits_any

    @property
    def unsettled(self) -> UnsettledFiles | None:
        """What a drain leaves, once it has caught up: files that kept changing."""
        keys = sorted(self._settling.held_keys) if self._drain else []
        return UnsettledFiles(len(keys), tuple(keys[:MOST_NAMED])) if keys else None

    @property
    def passed_over(self) -> dict[str, int]:
        return self._listing.left_out

    @property
    def queue_stats(self) -> QueueStats | None:
        """The queue's figures, read every 30 s."""
        if self._queue is not None and time.monotonic() - self._stats_read_s > _STATS_EVERY_S:
            self._stats_read_s = time.monotonic()
            self._queue_stats = self._queue.stats()
        return self._queue_stats

    @property
    def _is_due(self) -> bool:
        since_s = time.monotonic() - self._listing_began_s
        return not self._drain and (self._queue is None or since_s >= self._backfill_s)

    def _begin_listing(self) -> None:
        self._listing_began_s = time.monotonic()
        self._listing.begin()

    def _take_messages(self, queue: Queue) -> None:
        while arrivals := queue.take(_TAKEN_AT_ONCE):
            new = [arrival for arrival in arrivals if self._counts(arrival)]
            queue.settled(arrival for arrival in arrivals if not self._counts(arrival))
            queue.settled(self._arrivals.add_messages(new))

    def _counts(self, arrival: Arrival) -> bool:
        return self._only_since is None or arrival.landed.arrived_at >= self._only_since

    def _wait_for_listing(self) -> None:
        began_s = time.monotonic()
        # Under backlog the listing goes on beside the batch; only when nothing waited is it worth waiting for.
        if len(self._arrivals):
            return
        while self._listing.active:
            waited_s = time.monotonic() - began_s
            if waited_s > LONGEST_WAIT_S or (waited_s > PATIENCE_S and len(self._arrivals)):
                return
            self._arrivals.wait(PATIENCE_S / 20)
