"""Rejects that people asked to be tried again, until they are planned."""

import time
from collections.abc import Collection, Sequence
from itertools import chain, islice, zip_longest

from store.errors import StateDamaged
from store.home import Home
from store.objects.landing import LandedObject
from store.state.plans import Plan, Retried
from store.state.retries import Retry, delete_requests, list_requests, read_request
from store.tables.reject_rows import existing_rejects
from streaming.discovery.processed_index import ProcessedIndex, identity

# Each time is one listing, which S3 charges for like a put.
POLL_EVERY_S = 10.0


class Retries:
    """Rejects to be planned once more, from the requests of a home, for the thread that plans.

    A reject row is planned once, however many requests name it and whatever was killed: only while the table has it
    and no unfinished plan has its object. A retry that is done or impossible leaves its request, and an empty request
    is deleted.
    """

    def __init__(self, home: Home, index: ProcessedIndex) -> None:
        self._home = home
        self._index = index
        self._waiting: dict[str, list[Retry]] = {}
        self._ignored: set[str] = set()
        self._next: dict[LandedObject, list[Retry]] = {}
        self._polled_s = float("-inf")

    def __len__(self) -> int:
        """How many are requested and not planned."""
        return sum(map(len, self._waiting.values()))

    def poll(self) -> None:
        """Take in new requests, every 10 s at most. Raises StorageRefused, StorageUnavailable."""
        if time.monotonic() - self._polled_s < POLL_EVERY_S:
            return
        self._polled_s = time.monotonic()
        for name in list_requests(self._home):
            if name in self._waiting or name in self._ignored:
                continue
            try:
                request = read_request(self._home, name)
            except StateDamaged:
                # Its rejects stay in the table; whoever asks again is told of the file.
                request = None
            if request is not None and request.landing == self._home.landing.source:
                self._waiting[name] = list(request.retries)
            else:
                self._ignored.add(name)

    def among(self, arrivals: Sequence[LandedObject], most: int) -> list[LandedObject]:
        """At most so many to plan: one that is tried again and one that arrived, in turn, each key once.

        Of a key that has both the arrival waits for a later plan. Raises StateDamaged, StorageUnavailable.
        """
        self._next = self._plannable(most) if self._waiting else {}
        keys = {landed.key for landed in self._next}
        others = (landed for landed in arrivals if landed.key not in keys)
        in_turn = chain.from_iterable(zip_longest(self._next, others))
        return list(islice((landed for landed in in_turn if landed is not None), most))

    def rows_of(self, objects: Sequence[LandedObject]) -> tuple[Retried, ...]:
        """The reject rows of those objects that `among` gave because they are tried again."""
        retries = chain.from_iterable(self._next.get(landed, ()) for landed in objects)
        return tuple(Retried(retry.landed.key, retry.batch, retry.ingest_date) for retry in retries)

    def planned(self, plan: Plan) -> None:
        """These are in a durable plan. Raises StorageRefused, StorageUnavailable."""
        self.skip(plan.objects)
        self._next = {}

    def skip(self, objects: Sequence[LandedObject]) -> None:
        """These are never to be planned. Raises StorageRefused, StorageUnavailable."""
        self._remove(set(chain.from_iterable(self._next.get(landed, ()) for landed in objects)))

    def _plannable(self, most: int) -> dict[LandedObject, list[Retry]]:
        waiting = list(dict.fromkeys(chain.from_iterable(self._waiting.values())))
        identities = [identity(self._home.landing, retry.landed) for retry in waiting]
        known = self._index.entries(identities)
        featurized = {
            one: known[key].featurized if key in known else False for one, key in zip(waiting, identities, strict=True)
        }
        # What is in flight, because another request or a new upload came first, waits for its commit.
        some = [retry for retry in waiting if featurized[retry] is False][:most]
        rows = existing_rejects(self._home, {retry.row(self._home.landing) for retry in some})
        plannable = [retry for retry in some if retry.row(self._home.landing) in rows]
        self._remove({retry for retry in waiting if featurized[retry]} | (set(some) - set(plannable)))
        by_key: dict[str, list[Retry]] = {}
        for retry in plannable:
            of_key = by_key.setdefault(retry.landed.key, [])
            # A plan holds one version of a key.
            if not of_key or of_key[0].landed.etag == retry.landed.etag:
                of_key.append(retry)
        return {retries[0].landed: retries for retries in by_key.values()}

    def _remove(self, done: Collection[Retry]) -> None:
        for name, retries in self._waiting.items():
            self._waiting[name] = [retry for retry in retries if retry not in done]
        finished = [name for name, retries in self._waiting.items() if not retries]
        delete_requests(self._home, finished)
        for name in finished:
            del self._waiting[name]
