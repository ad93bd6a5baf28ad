"""Requests to try rejected objects once more: documents written once, deleted when all objects in them are planned."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from store.errors import HomeInUse
from store.home import Home
from store.objects.document import Document
from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from store.objects.operations import delete_all, keys_below
from store.objects.versions import delete_versions, list_versions
from store.state.erasures import check_no_erasure_started
from store.state.plans import Plan
from store.tables.reject_rows import RejectRow

# Some 3 MB: obstore limits the time of an upload as a whole.
MOST_IN_A_REQUEST = 10_000

_PREFIX = "retry-"


@dataclass(frozen=True, slots=True)
class Retry:
    """A rejected object that is to be tried once more, and the batch and the day of its reject row."""

    landed: LandedObject
    batch: int
    ingest_date: date

    def row(self, landing: StorageLocation) -> RejectRow:
        """The reject row, for an object of this landing."""
        return RejectRow(landing.source_of(self.landed.key), self.landed.etag, self.batch, self.ingest_date)


@dataclass(frozen=True)
class RetryRequest:
    """One request; only a stream of the same landing obeys it."""

    nonce: str
    asked_at: datetime
    landing: str
    retries: tuple[Retry, ...]


_REQUEST = Document(RetryRequest, "{}", remedy="delete it and ask again", indent=None)


def request_retries(home: Home, landing: str, retries: Sequence[Retry], erasures_begun: int) -> list[str]:
    """Ask the stream, the running one or the next one, to plan these objects again; returns the requests' names.

    `erasures_begun` is what `check_no_erasure_unfinished` returned before the rejects were read: if an erasure began
    since, no request stays, because it would keep keys that were erased. Replay asks again, which does no harm: a
    reject row is planned once. Raises HomeInUse, StorageRefused, StorageUnavailable.
    """
    check_no_erasure_started(home, erasures_begun)
    location = _requests(home)
    names: list[str] = []
    for start in range(0, len(retries), MOST_IN_A_REQUEST):
        some = tuple(retries[start : start + MOST_IN_A_REQUEST])
        request = RetryRequest(uuid.uuid4().hex, datetime.now(UTC), landing, some)
        names.append(f"{_PREFIX}{request.nonce}.json")
        _REQUEST.write_once(location, request, names[-1])
    try:
        # An erasure that begins later finds the requests.
        check_no_erasure_started(home, erasures_begun)
    except HomeInUse:
        delete_requests(home, names)
        # The bucket may keep a version of what was deleted.
        delete_versions(location, [version for version in list_versions(location) if version.key in names])
        raise
    return names


def list_requests(home: Home) -> list[str]:
    """The names of the stored requests; only names are listed. Raises StorageRefused, StorageUnavailable."""
    return sorted(key for key in keys_below(_requests(home)) if key.startswith(_PREFIX))


def read_request(home: Home, name: str) -> RetryRequest | None:
    """One request, or None when it is gone. Raises StateDamaged when it cannot be read, StorageUnavailable."""
    return _REQUEST.read(_requests(home), name)


def delete_requests(home: Home, names: Iterable[str]) -> None:
    """Delete requests. Replay finds nothing left to do. Raises StorageRefused, StorageUnavailable."""
    delete_all(_requests(home), names)


def retried_rows(home: Home, plan: Plan) -> frozenset[RejectRow]:
    """The reject rows that the commit of a plan deletes, because their objects get another outcome."""
    landing = home.landing_named(plan.landing)
    etags = {landed.key: landed.etag for landed in plan.objects}
    return frozenset(
        RejectRow(landing.source_of(row.key), etags[row.key], row.batch, row.ingest_date)
        for row in plan.retried
        if row.key is not None
    )


def delete_from_requests(home: Home, is_deleted: Callable[[StorageLocation, LandedObject], bool]) -> int:
    """Write the requests again without some objects; returns how many requests had one. Replay changes nothing.

    Raises StateDamaged when one cannot be read, StorageRefused, StorageUnavailable.
    """
    changed = 0
    for name in list_requests(home):
        request = read_request(home, name)
        if request is None:
            continue
        landing = home.landing_named(request.landing)
        kept = tuple(retry for retry in request.retries if not is_deleted(landing, retry.landed))
        if len(kept) < len(request.retries):
            changed += 1
            # A planner that has read it before finds the rows gone.
            _REQUEST.write(_requests(home), replace(request, retries=kept), name)
    return changed


def _requests(home: Home) -> StorageLocation:
    return home.state.child("requests")
