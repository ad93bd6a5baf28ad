"""What lies below the landing prefix and was never planned."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow.compute as pc

from features.errors import StorageUnavailable
from features.faults import backoff_s
from features.home import Home
from features.landing import Landed, list_landed, look_again
from features.objects import Place
from features.plan import read_plan
from features.tables import FEATURE_ROWS, REJECT_ROWS, open_table

SETTLE_S = 0.25
LISTING_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Backlog:
    """What waits to be planned."""

    files: int
    bytes: int
    oldest_arrived_at: datetime | None


@dataclass(frozen=True)
class Listing:
    """One complete listing by key; `growing` are keys on disk that were still being written."""

    began_at: datetime
    objects: Mapping[str, Landed]
    growing: frozenset[str]


class Discovery:
    """The difference between the landing prefix and what was planned from it, by complete listings.

    Memory is bounded by what the prefix holds: a key is forgotten once a complete listing no longer shows it.
    """

    def __init__(self, landing: Place) -> None:
        self._landing = landing
        self._seen: dict[str, str] = {}
        self._waiting: deque[Landed] = deque()
        self._lister = ThreadPoolExecutor(1, thread_name_prefix="listing")
        self._listing: Future[Listing] | None = None
        self._listed_at: datetime | None = None

    @property
    def waiting(self) -> deque[Landed]:
        """Never planned, oldest first."""
        return self._waiting

    @property
    def listed_at(self) -> datetime | None:
        """When the newest complete listing began."""
        return self._listed_at

    @property
    def backlog(self) -> Backlog:
        oldest = self._waiting[0].arrived_at if self._waiting else None
        return Backlog(len(self._waiting), sum(landed.size_bytes for landed in self._waiting), oldest)

    def start(self, planned_before: Callable[[Mapping[str, Landed]], dict[str, str]]) -> None:
        """Begin from one complete listing; `planned_before` gives the newest planned etag of the keys in it.

        Raises StorageUnavailable when the listing fails until the deadline.
        """
        began_at, listed = self._list()
        self._seen = planned_before(listed)
        self._compare(self._settle(began_at, listed))

    def begin_listing(self) -> None:
        """Start a listing in the background unless one is under way."""
        if self._listing is None:
            self._listing = self._lister.submit(lambda: self._settle(*self._list()))

    def finish_listing(self, wait: bool) -> None:
        """Take in the listing under way, if it is complete or `wait` says to wait for it.

        Raises StorageUnavailable when it failed until the deadline; nothing is forgotten then.
        """
        if self._listing is not None and (wait or self._listing.done()):
            listing, self._listing = self._listing, None
            self._compare(listing.result())

    def planned(self, objects: Iterable[Landed]) -> None:
        """These objects, the first that waited, are in a durable plan now."""
        for landed in objects:
            self._seen[landed.key] = landed.etag
            self._waiting.popleft()

    def _list(self) -> tuple[datetime, dict[str, Landed]]:
        for wait_s in backoff_s(LISTING_DEADLINE_S):
            began_at = datetime.now(UTC)
            try:
                return began_at, {landed.key: landed for landed in list_landed(self._landing)}
            except StorageUnavailable as error:
                failure = error
            time.sleep(wait_s)
        raise failure

    def _settle(self, began_at: datetime, listed: Mapping[str, Landed]) -> Listing:
        fresh = self._fresh(listed) if self._landing.is_local else []
        if fresh:
            time.sleep(SETTLE_S)
        growing = frozenset(landed.key for landed in fresh if not look_again(self._landing, landed))
        return Listing(began_at, listed, growing)

    def _compare(self, listing: Listing) -> None:
        self._listed_at = listing.began_at
        self._seen = {key: etag for key, etag in self._seen.items() if key in listing.objects}
        settled = (landed for landed in self._fresh(listing.objects) if landed.key not in listing.growing)
        self._waiting = deque(sorted(settled, key=lambda landed: (landed.arrived_at, landed.key)))

    def _fresh(self, listed: Mapping[str, Landed]) -> list[Landed]:
        return [landed for key, landed in listed.items() if self._seen.get(key) != landed.etag]


def planned_before(home: Home, listed: Mapping[str, Landed], unfinished: Iterable[int]) -> dict[str, str]:
    """The newest planned etag of every listed key, from the tables and from plans not yet in them."""
    newest: dict[str, tuple[int, str]] = {}
    by_source = {home.landing.uri_of(key): key for key in listed}

    def note(source: str, etag: str, batch: int) -> None:
        key = by_source.get(source)
        if key is not None and batch >= newest.get(key, (0, ""))[0]:
            newest[key] = (batch, etag)

    for table in (FEATURE_ROWS, REJECT_ROWS):
        handle = open_table(home, table)
        if handle is None:
            continue
        below = pc.starts_with(pc.field("source"), home.landing.uri + "/")
        scan = handle.to_pyarrow_dataset().scanner(["source", "etag", "batch"], filter=below)
        for rows in scan.to_batches():
            for row in zip(*(rows[name].to_pylist() for name in ("source", "etag", "batch")), strict=True):
                note(*row)
    for batch in unfinished:
        plan = read_plan(home, batch)
        if plan is not None:
            landing = home.landing_at(plan.landing)
            for landed in plan.objects:
                note(landing.uri_of(landed.key), landed.etag, batch)
    return {key: etag for key, (_, etag) in newest.items()}
