"""Originals of photos that were processed: where the version lies that a row is of, and its bytes."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from features.rejects import Reason, Rejected
from store.errors import StorageRefused
from store.home import Home
from store.objects.landing import LandedObject, archived_name, fetch, fetch_archived, stat_object

Place = Literal["landing", "archive", "replaced", "gone", "unknown"]
OriginalPlace = Literal["landing", "archive"]
# What another place may still have.
_ELSEWHERE = (Reason.MISSING, Reason.REPLACED)


@dataclass(frozen=True)
class VersionLocation:
    """Where a version is now; `detail`: its successor's etag, its URI in the archive, or why it is unknown."""

    place: Place
    detail: str = ""


@dataclass(frozen=True)
class Original:
    """The bytes of a version, and where they were."""

    place: OriginalPlace
    body: bytes


def find_original(home: Home, source: str, etag: str, size_bytes: int, arrived_at: datetime) -> VersionLocation:
    """Where the version of an object is now that a row is of. Raises StorageUnavailable."""
    known = home.landing_of(source)
    if known is None:
        return VersionLocation("unknown", f"it does not lie below {home.landing.uri}; name its landing with --landing")
    landing, key = known
    landed = LandedObject(key, size_bytes, etag, arrived_at)
    archived = archived_name(landed)
    try:
        found = stat_object(landing, key)
        if found is not None and found.etag == landed.etag:
            return VersionLocation("landing")
        if stat_object(home.archive, archived) is not None:
            return VersionLocation("archive", home.archive.uri_of(archived))
    except StorageRefused as refused:
        return VersionLocation("unknown", str(refused).rstrip("."))
    return VersionLocation("gone") if found is None else VersionLocation("replaced", found.etag)


def read_original(
    home: Home, source: str, landed: LandedObject, image_id: str, first: OriginalPlace = "archive"
) -> Original:
    """The bytes of the version that a row is of, from the archive or from its landing, looked for in `first` first.

    `image_id` is the SHA-256 of the bytes. Raises Rejected when neither place has that version any more, or hands it
    out: `missing`, `replaced`, `unreadable`; StorageRefused if all is refused, StorageUnavailable.
    """
    known = home.landing_of(source)
    if known is None:
        raise Rejected(Reason.MISSING, "It is of a landing that is not known any more.")
    landing, _ = known
    places: tuple[OriginalPlace, OriginalPlace] = ("archive", "landing")
    last: Rejected | None = None
    for place in sorted(places, key=lambda place: place != first):
        try:
            body = fetch_archived(home.archive, landed) if place == "archive" else fetch(landing, landed)
        except Rejected as rejected:
            # What is there and is not handed out says more than that another place lacks it.
            last = rejected if last is None or last.reason in _ELSEWHERE else last
            continue
        if hashlib.sha256(body).hexdigest() == image_id:
            return Original(place, body)
        last = Rejected(Reason.REPLACED, "It has other bytes than it had when it was processed.")
    assert last is not None
    raise last
