"""What waits to be planned: the newest version of each key that was never planned, oldest first."""

import heapq
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from store.home import Home
from store.objects.landing import LandedObject
from store.state.plans import Plan
from streaming.discovery.notifications import is_later
from streaming.discovery.processed_index import ProcessedEntry, ProcessedIndex, identity
from streaming.discovery.queue import Arrival
from streaming.discovery.snapshot import in_tables

# More are not held: a listing waits until some are planned, and the queue keeps its messages.
MOST_WAITING = 100_000

_SEQUENCERS_KEPT = 100_000


@dataclass(frozen=True)
class Backlog:
    """What waits to be planned, the oldest since `oldest_arrived_at`; there is more where `at_least` says so."""

    files: int
    bytes: int
    oldest_arrived_at: datetime | None
    at_least: bool = False


NOTHING_WAITS = Backlog(0, 0, None)


@dataclass
class _Waiting:
    landed: LandedObject
    listing: int | None
    sequencer: str | None = None
    arrivals: list[Arrival] = field(default_factory=list)


class Arrivals:
    """The difference between what arrived and what was planned, for the threads that find and the one that plans.

    A version counts as planned under its `(source, etag)`: the same bytes under the same key again are no arrival
    while they are remembered, unless they were rejected.
    """

    def __init__(self, home: Home, seen: ProcessedIndex) -> None:
        self._home = home
        self._seen = seen
        self._by_key: dict[str, _Waiting] = {}
        self._heap: list[tuple[datetime, str]] = []
        self._bytes = 0
        self._sequencers: OrderedDict[str, str] = OrderedDict()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._by_key)

    def has(self, landed: LandedObject) -> bool:
        """Whether this very version waits."""
        waiting = self._by_key.get(landed.key)
        return waiting is not None and waiting.landed.etag == landed.etag

    def wait(self, timeout_s: float) -> None:
        """Wait until something is added or planned, or time is up."""
        with self._changed:
            self._changed.wait(timeout_s)

    def notify(self) -> None:
        """Wake all who wait."""
        with self._changed:
            self._changed.notify_all()

    def known(self, landed: Sequence[LandedObject]) -> list[ProcessedEntry | None]:
        """What is known of each of these versions; None of those that were never planned."""
        identities = [identity(self._home.landing, one) for one in landed]
        found = self._seen.known(identities)
        known = [found.get(key) for key in identities]
        return [what if what and what.covers(one) else None for one, what in zip(landed, known, strict=True)]

    def add_listed(self, landed: Sequence[LandedObject], listing: int) -> None:
        """A listing shows these; what was never planned waits from now on."""
        forgotten = self._forgotten(landed)
        with self._changed:
            for one, known in zip(landed, self.known(landed), strict=True):
                if known is None and one not in forgotten:
                    self._add(_Waiting(one, listing))
            self._changed.notify_all()

    def listing_is_complete(self, listing: int) -> None:
        """What an earlier listing showed and this one does not is gone, and waits no longer."""
        with self._changed:
            gone = [
                key
                for key, waiting in self._by_key.items()
                if waiting.listing is not None and waiting.listing < listing and not waiting.arrivals
            ]
            for key in gone:
                self._remove(key)
            self._changed.notify_all()

    def add_messages(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Messages tell of these; returns those that need no plan: planned before, or overtaken by a later version."""
        known = self.known([arrival.landed for arrival in arrivals])
        forgotten = self._forgotten([a.landed for a, before in zip(arrivals, known, strict=True) if before is None])
        needless: list[Arrival] = []
        with self._changed:
            # Once more under the lock: a listing may have shown them, and they may have been planned, meanwhile.
            known = self.known([arrival.landed for arrival in arrivals])
            for arrival, before in zip(arrivals, known, strict=True):
                if before is not None or self._overtaken(arrival) or arrival.landed in forgotten:
                    needless.append(arrival)
                else:
                    self._add(_Waiting(arrival.landed, None, arrival.sequencer, [arrival]))
            self._changed.notify_all()
        return needless

    def oldest(self, most: int) -> list[LandedObject]:
        """The oldest ones, at most so many."""
        with self._changed:
            found: list[tuple[datetime, str]] = []
            while self._heap and len(found) < most:
                at, key = heapq.heappop(self._heap)
                waiting = self._by_key.get(key)
                if waiting is not None and waiting.landed.visible_at == at and (at, key) not in found[-1:]:
                    found.append((at, key))
            for item in found:
                heapq.heappush(self._heap, item)
            return [self._by_key[key].landed for _, key in found]

    def planned(self, plan: Plan) -> list[Arrival]:
        """These are in a durable plan; returns the messages' arrivals that this settles."""
        settled: list[Arrival] = []
        with self._changed:
            identities = ((identity(self._home.landing, landed), landed.arrived_at) for landed in plan.objects)
            self._seen.planned(plan.batch, identities, plan.planned_at)
            for landed in plan.objects:
                waiting = self._by_key.get(landed.key)
                if waiting is None or waiting.landed.etag != landed.etag:
                    continue
                self._remove(landed.key)
                settled += waiting.arrivals
                if waiting.sequencer is not None:
                    self._sequencers[landed.key] = waiting.sequencer
                    self._sequencers.move_to_end(landed.key)
            while len(self._sequencers) > _SEQUENCERS_KEPT:
                self._sequencers.popitem(last=False)
            self._changed.notify_all()
        return settled

    def skip(self, objects: Iterable[LandedObject]) -> list[Arrival]:
        """These wait no longer; returns the messages' arrivals that this settles."""
        settled: list[Arrival] = []
        with self._changed:
            for landed in objects:
                waiting = self._by_key.get(landed.key)
                if waiting is not None and waiting.landed.etag == landed.etag:
                    self._remove(landed.key)
                    settled += waiting.arrivals
            self._changed.notify_all()
        return settled

    def backlog(self, at_least: bool) -> Backlog:
        """What waits; `at_least` when not everything was found yet."""
        with self._changed:
            oldest = self.oldest(1)
            return Backlog(len(self._by_key), self._bytes, oldest[0].visible_at if oldest else None, at_least)

    def _add(self, new: _Waiting) -> None:
        key = new.landed.key
        old = self._by_key.get(key)
        if old is not None:
            first, last = (new, old) if _is_newer(old, new) else (old, new)
            same = first.landed.etag == last.landed.etag
            listings = [one.listing for one in (old, new) if one.listing is not None]
            new = _Waiting(
                # Of one version the time it was first given stays, so that its place in the order does.
                old.landed if same else last.landed,
                max(listings) if listings else None,
                last.sequencer or (first.sequencer if same else None),
                old.arrivals + new.arrivals,
            )
            self._bytes -= old.landed.size_bytes
        self._by_key[key] = new
        self._bytes += new.landed.size_bytes
        if old is None or old.landed.visible_at != new.landed.visible_at:
            heapq.heappush(self._heap, (new.landed.visible_at, key))

    def _remove(self, key: str) -> None:
        self._bytes -= self._by_key.pop(key).landed.size_bytes

    def _overtaken(self, arrival: Arrival) -> bool:
        planned = self._sequencers.get(arrival.landed.key)
        return planned is not None and arrival.sequencer is not None and is_later(planned, arrival.sequencer)

    def _forgotten(self, arrived: Iterable[LandedObject]) -> set[LandedObject]:
        """Those that were planned so long ago that only the tables know."""
        complete_since_s = self._seen.facts.complete_since_s
        old = [landed for landed in arrived if landed.arrived_at.timestamp() < complete_since_s]
        if not old:
            return set()
        found = in_tables(self._home, old)
        return {landed for landed in old if identity(self._home.landing, landed) in found}


def _is_newer(one: _Waiting, other: _Waiting) -> bool:
    if one.sequencer is not None and other.sequencer is not None:
        return is_later(one.sequencer, other.sequencer)
    return one.landed.visible_at > other.landed.visible_at
