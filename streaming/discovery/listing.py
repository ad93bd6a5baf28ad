"""Complete listings of the landing prefix, in the background."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import UTC, datetime

from store.errors import StorageUnavailable
from store.home import Home
from store.objects.landing import LandedObject, list_pages
from store.objects.landing_files import SkippedFiles
from streaming.discovery.arrivals import MOST_WAITING, Arrivals
from streaming.discovery.processed_index import REMEMBERED_FOR, ProcessedEntry, ProcessedIndex, identity
from streaming.discovery.settling import Settling
from streaming.discovery.visibility import first_seen, not_seen_at
from streaming.threads import in_thread

# A long listing is followed by a pause of this many times as long: its requests, and the core that reads the answers,
# cost. A short one may follow the other.
PAUSES = 4.0
SHORT_PAGES = 10
FORGET_EVERY_S = 600.0
_LOOK_S = 0.5
_HELD_AT_ONCE = 10_000
_CLOSING_S = 5.0


class Listing:
    """Lists the landing, one listing at a time, in a thread of its own.

    Page by page, `arrivals` gets what was never planned, once it has settled, and `planned_before` the rest with its
    entries. What arrived before `only_since` is ignored.
    """

    def __init__(
        self,
        home: Home,
        index: ProcessedIndex,
        arrivals: Arrivals,
        planned_before: Callable[[Sequence[tuple[LandedObject, ProcessedEntry]]], None],
        only_since: datetime | None,
        settling: Settling,
    ) -> None:
        self._landing = home.landing
        self._avoid = home.own_locations
        self._not_seen_at = not_seen_at(home)
        self._index = index
        self._arrivals = arrivals
        self._planned_before = planned_before
        self._only_since = only_since
        self._settling = settling
        self._running: Future[None] | None = None
        self._rests_until_s = float("-inf")
        self._closed = threading.Event()
        self._number = 0
        self._forgot_s = float("-inf")
        # Of the last complete listing: when it began, and what it left out on purpose, counted by kind.
        self.complete_began_at: datetime | None = None
        self.left_out: dict[str, int] = {}

    @property
    def active(self) -> bool:
        """Whether a listing is under way. Raises what it failed of."""
        if self._running is None or not self._running.done():
            return self._running is not None
        self._running.result()
        return False

    @property
    def may_begin(self) -> bool:
        """Whether none is under way and the last one has been over for long enough."""
        return not self.active and time.monotonic() >= self._rests_until_s

    def begin(self, only_held: bool = False) -> None:
        """Begin one, or one of only those files that the last one held back."""
        self._running = in_thread(self._list_held if only_held else self._list)
        self._running.add_done_callback(lambda _: self._arrivals.notify())

    def close(self) -> None:
        """Give up the one under way; one that hangs is not waited for."""
        self._closed.set()
        self._arrivals.notify()
        if self._running is not None:
            wait([self._running], _CLOSING_S)

    def _list(self) -> None:
        began_at, began_s = datetime.now(UTC), time.monotonic()
        self._number += 1
        if self._landing.is_local and not self._landing.directory.is_dir():
            raise StorageUnavailable(f"{self._landing.uri} is gone; bring it back (is it mounted?) and start again.")
        pages = 0
        left_out = SkippedFiles()
        for page in list_pages(self._landing, self._avoid, left_out):
            if not self._take(page, began_at):
                return
            pages += 1
        self._settling.end_look()
        self._arrivals.remove_gone(self._number)
        if began_s - self._forgot_s > FORGET_EVERY_S:
            self._index.forget(began_at - REMEMBERED_FOR, began_at)
            self._forgot_s = began_s
        self.left_out = dict(left_out.counts)
        self.complete_began_at = began_at
        self._not_seen_at = began_at
        if pages > SHORT_PAGES:
            self._rests_until_s = time.monotonic() + PAUSES * (time.monotonic() - began_s)

    def _list_held(self) -> None:
        began_at, held = datetime.now(UTC), self._settling.held_objects()
        while page := list(itertools.islice(held, _HELD_AT_ONCE)):
            if not self._take(page, began_at):
                return
        self._settling.end_look()

    def _take(self, page: list[LandedObject], began_at: datetime) -> bool:
        entries = self._arrivals.entries(page)
        before = [(landed, entry) for landed, entry in zip(page, entries, strict=True) if entry is not None]
        self._index.shown([identity(self._landing, landed) for landed, _ in before], began_at)
        self._planned_before(before)
        fresh = [landed for landed, entry in zip(page, entries, strict=True) if entry is None]
        if self._only_since is not None:
            fresh = [landed for landed in fresh if landed.visible_at >= self._only_since]
        fresh = [first_seen(landed, self._not_seen_at) for landed in fresh]
        self._arrivals.add_listed(self._settling.settled(fresh), self._number)
        while len(self._arrivals) >= MOST_WAITING and not self._closed.is_set():
            self._arrivals.wait(_LOOK_S)
        return not self._closed.is_set()
