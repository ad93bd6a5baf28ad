"""Since when a photo on disk can have been seen in the landing, whatever old times it brought along."""

import time
from dataclasses import dataclass, replace
from datetime import datetime

from store.home import Home
from store.objects.document import Document
from store.objects.landing import LandedObject
from store.state.landing_names import read_record

LISTED_KEY = "listed.json"

_WRITTEN_EVERY_S = 10.0


@dataclass(frozen=True)
class Listed:
    """By the name of a landing, when the last listing began of which everything was planned."""

    caught_up_to: dict[str, datetime]


_LISTED = Document(Listed, LISTED_KEY, remedy="delete it")


def not_seen_at(home: Home) -> datetime | None:
    """A time at which what was never planned was not there yet: the last listing's, else the home's first stream's.

    None when nobody knows one, and on S3. Raises StateDamaged, StorageUnavailable.
    """
    if not home.landing.is_local:
        return None
    listed, record = _LISTED.read(home.state), read_record(home)
    at = listed.caught_up_to.get(home.landing.source) if listed else None
    return at or (record.made_at if record else None)


def first_seen(landed: LandedObject, not_seen_at: datetime | None) -> LandedObject:
    """The object as first seen on disk: at its last change, or at a listing that did not show it, if that is later."""
    if landed.first_visible_at is None or not_seen_at is None or not_seen_at <= landed.first_visible_at:
        return landed
    return replace(landed, first_visible_at=not_seen_at)


class CaughtUp:
    """Keeps across restarts up to when everything in the landing was planned; written every 10 s at most."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._written_s = float("-inf")

    def remember(self, caught_up_to: datetime) -> None:
        """Everything that a listing showed which began then is planned. Raises StorageRefused, StorageUnavailable."""
        home = self._home
        if not home.landing.is_local or time.monotonic() - self._written_s < _WRITTEN_EVERY_S:
            return
        self._written_s = time.monotonic()

        def edit(stored: Listed | None) -> Listed:
            return Listed({**(stored.caught_up_to if stored else {}), home.landing.source: caught_up_to})

        _LISTED.change(home.state, edit)
