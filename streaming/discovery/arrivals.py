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
from streaming.discovery.in_flight_messages import Arrival
from streaming.discovery.notifications import is_later
from streaming.discovery.processed_index import ProcessedEntry, ProcessedIndex, identity
from streaming.discovery.snapshot import in_tables

# More are not held: a listing waits until some are planned, and the queue keeps its messages.
MOST_WAITING = 100_000

_SEQUENCERS_KEPT = 100_000


@dataclass(frozen=True)
class Backlog:
    """What waits to be planned, the oldest since `oldest_arrived_at`; with `at_least` there may be more."""

    files: int = 0
    bytes: int = 0
    oldest_arrived_at: datetime | None = None
    at_least: bool = False


@dataclass
class _Waiting:
    landed: LandedObject
    listing: int | None
    sequencer: str | None = None
    arrivals: list[Arrival] = field(default_factory=list)


class Arrivals:
    """What arrived and was not planned, for the threads that find and the one that plans.

    A version, `(source, etag)`, that the index has is no arrival again, unless it was rejected.
    """

    def __init__(self, home: Home, index: ProcessedIndex) -> None:
        self._home = home
        self._index = index
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
        with self._changed:
            self._changed.wait(timeout_s)

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def entries(self, landed: Sequence[LandedObject]) -> list[ProcessedEntry | None]:
        """The index's entry of each version; None of a version that was never planned."""
        identities = [identity(self._home.landing, one) for one in landed]
        found = self._index.entries(identities)
        entries = [found.get(key) for key in identities]
        return [entry if entry and entry.covers(one) else None for one, entry in zip(landed, entries, strict=True)]

    def add_listed(self, landed: Sequence[LandedObject], listing: int) -> None:
        """A listing shows these; what was never planned waits from now on."""
        forgotten = self._forgotten(landed)
        with self._changed:
            for one, entry in zip(landed, self.entries(landed), strict=True):
                if entry is None and one not in forgotten:
                    self._add(_Waiting(one, listing))
            self._changed.notify_all()

    def remove_gone(self, listing: int) -> None:
        """What earlier listings showed and this complete one does not is gone, and waits no longer."""
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
        """Messages announce these; returns those that need no plan: planned before, or replaced by a later version."""
        landed = [arrival.landed for arrival in arrivals]
        forgotten = self._forgotten([one for one, entry in zip(landed, self.entries(landed), strict=True) if not entry])
        needless: list[Arrival] = []
        with self._changed:
            # Once more under the lock: a listing may have shown them, and they may have been planned, meanwhile.
            for arrival, entry in zip(arrivals, self.entries(landed), strict=True):
                if entry is not None or self._is_replaced(arrival) or arrival.landed in forgotten:
                    needless.append(arrival)
                else:
                    self._add(_Waiting(arrival.landed, None, arrival.sequencer, [arrival]))
            self._changed.notify_all()
        return needless

    def oldest(self, most: int) -> list[LandedObject]:
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
        with self._changed:
            identities = ((identity(self._home.landing, landed), landed.arrived_at) for landed in plan.objects)
            self._index.planned(plan.batch, identities, plan.planned_at)
            return self.skip(plan.objects)

    def skip(self, objects: Iterable[LandedObject]) -> list[Arrival]:
        """These wait no longer; returns the messages' arrivals that this settles."""
        settled: list[Arrival] = []
        with self._changed:
            for landed in objects:
                if not self.has(landed):
                    continue
                waiting = self._remove(landed.key)
                settled += waiting.arrivals
                if waiting.sequencer is not None:
                    self._sequencers[landed.key] = waiting.sequencer
                    self._sequencers.move_to_end(landed.key)
            while len(self._sequencers) > _SEQUENCERS_KEPT:
                self._sequencers.popitem(last=False)
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

    def _remove(self, key: str) -> _Waiting:
        waiting = self._by_key.pop(key)
        self._bytes -= waiting.landed.size_bytes
        return waiting

    def _is_replaced(self, arrival: Arrival) -> bool:
        planned = self._sequencers.get(arrival.landed.key)
        return planned is not None and arrival.sequencer is not None and is_later(planned, arrival.sequencer)

    def _forgotten(self, arrived: Iterable[LandedObject]) -> set[LandedObject]:
        """Those that were planned so long ago that only the tables know."""
        complete_since_s = self._index.info.complete_since_s
        old = [landed for landed in arrived if landed.arrived_at.timestamp() < complete_since_s]
        if not old:
            return set()
        found = in_tables(self._home, old)
        return {landed for landed in old if identity(self._home.landing, landed) in found}


def _is_newer(one: _Waiting, other: _Waiting) -> bool:
    if one.sequencer is not None and other.sequencer is not None:
        return is_later(one.sequencer, other.sequencer)
    return one.landed.visible_at > other.landed.visible_at
