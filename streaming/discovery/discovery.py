"""What arrived and was never planned: by listing, or from a queue with a listing every so often."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from store.home import Home
from store.objects.landing import LandedObject
from store.state.plans import Plan
from streaming.cleaning import CleaningRule, Leftovers
from streaming.discovery.arrivals import Arrivals, Backlog
from streaming.discovery.listing import Listing
from streaming.discovery.processed_index import ProcessedIndex
from streaming.discovery.queue import Arrival, Queue
from streaming.discovery.settling import Settling
from streaming.news import LeftBehind, QueueNews

# A listing that takes longer gives what it has found so far; a shorter one lets the oldest come first.
PATIENCE_S = 2.0
# Spark's thread is not kept longer, so that it can be stopped.
LONGEST_WAIT_S = 5.0

MOST_NAMED = 10

_TAKEN_AT_ONCE = 10_000
_DEPTH_EVERY_S = 30.0


@dataclass(frozen=True)
class DiscoveryOptions:
    """How arrivals are found: by listing, or, with a queue, from its messages and a listing every `backfill`.

    With `drain` there is one listing, and the queue is emptied once. What arrived before `only_since` is passed over.
    A file on disk that looks unfinished is held back until it has stood still for `settle`.
    """

    queue: str | None
    backfill: timedelta
    drain: bool
    only_since: datetime | None
    settle: timedelta


class Discovery:
    """Finds arrivals; what it found waits until it is planned."""

    def __init__(
        self, home: Home, seen: ProcessedIndex, watched: DiscoveryOptions, cleaning: CleaningRule, started_after: int
    ) -> None:
        self._watched = watched
        self._arrivals = Arrivals(home, seen)
        self._leftovers = Leftovers(home, cleaning, started_after)
        self._settling = Settling(home.landing, watched.settle, self._arrivals.has)
        self._listing = Listing(home, seen, self._arrivals, self._leftovers.clear, watched.only_since, self._settling)
        # Any wait has SQS ask all its servers, and a drain that waits long only ends later.
        wait_s = 1 if watched.drain else None
        region = home.landing.s3_region
        self._queue = Queue(watched.queue, home.landing, region, wait_s) if watched.queue else None
        self._queue_news: QueueNews | None = None
        self._asked_depth_s = float("-inf")
        self._began_s = float("-inf")

    def start(self) -> None:
        """Begin to find: with the queue, and with one listing of what is there already."""
        if self._queue is not None:
            self._queue.start()
        self._begin_listing()

    def look(self) -> None:
        """Take in what has been found; when nothing waits, wait for a short while.

        Raises StorageUnavailable when a listing or the queue failed until the deadline; nothing is forgotten then.
        """
        if self._queue is not None:
            self._take_messages(self._queue)
        if self._is_due and self._listing.may_begin:
            self._begin_listing()
        if self.awaits_files and not self._listing.active:
            self._listing.look_again()
        if self._queue is None:
            self._wait_for_listing()

    def first(self, most: int) -> list[LandedObject]:
        """The oldest that wait."""
        return self._arrivals.first(most)

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

    def uncleared_by_the_cleaner(self, names: Iterable[bytes]) -> None:
        """Objects of these identities could not be cleared away; a listing leaves them, too."""
        self._leftovers.leave(names)

    def close(self) -> None:
        """Stop finding; messages that were not settled go back to the queue."""
        self._listing.close()
        if self._queue is not None:
            self._queue.close()

    @property
    def backlog(self) -> Backlog:
        return self._arrivals.backlog(at_least=self._listing.active or self._listing.last is None)

    @property
    def uncleared(self) -> int:
        """How many objects could not be cleared away."""
        return self._leftovers.uncleared

    @property
    def caught_up_to(self) -> datetime | None:
        """Everything that had settled in the landing by then was planned, if nothing waits now."""
        last = self._listing.last
        if last is None or self._listing.active or len(self._arrivals):
            return None
        if self._queue is not None and self._watched.drain and self._queue.found_empty_at is None:
            return None
        return None if self.awaits_files else last.began_at

    @property
    def awaits_files(self) -> bool:
        """Whether a drain, as far as its last look tells, holds files back that may settle soon."""
        return self._watched.drain and self._settling.awaits_any

    @property
    def left(self) -> LeftBehind | None:
        """What a drain leaves, once it has caught up: files that kept changing."""
        keys = sorted(self._settling.held_keys) if self._watched.drain else []
        return LeftBehind(len(keys), tuple(keys[:MOST_NAMED])) if keys else None

    @property
    def passed_over(self) -> dict[str, int]:
        """What the last complete listing left out on purpose, counted by kind."""
        last = self._listing.last
        return dict(last.passed_over.counts) if last is not None else {}

    @property
    def queue_news(self) -> QueueNews | None:
        """How the queue stands, asked anew every 30 s."""
        if self._queue is not None and time.monotonic() - self._asked_depth_s > _DEPTH_EVERY_S:
            self._asked_depth_s = time.monotonic()
            self._queue_news = QueueNews(self._queue.depth(), self._queue.held, self._queue.unknown)
        return self._queue_news

    @property
    def _is_due(self) -> bool:
        if self._watched.drain:
            return False
        return self._queue is None or time.monotonic() - self._began_s >= self._watched.backfill.total_seconds()

    def _begin_listing(self) -> None:
        self._began_s = time.monotonic()
        self._listing.begin()

    def _take_messages(self, queue: Queue) -> None:
        while arrivals := queue.take(_TAKEN_AT_ONCE):
            new = [arrival for arrival in arrivals if self._counts(arrival)]
            queue.settled(arrival for arrival in arrivals if not self._counts(arrival))
            queue.settled(self._arrivals.told(new))

    def _counts(self, arrival: Arrival) -> bool:
        since = self._watched.only_since
        return since is None or arrival.landed.arrived_at >= since

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
