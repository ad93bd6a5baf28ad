"""Since when a photo on disk can have been seen in the landing, whatever old times it brought along."""

import time
from dataclasses import replace
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from store.errors import StateDamaged
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.operations import change, read_if_exists
from store.state.landing_names import read_record

LISTED_KEY = "listed.json"

_WRITTEN_EVERY_S = 10.0


def not_seen_at(home: Home) -> datetime | None:
    """A time at which what was never planned was not there yet, as far as any listing can tell; None for no such time.

    Before the first listing it is the time at which the home's first stream began. Raises StateDamaged,
    StorageUnavailable.
    """
    if not home.landing.is_local:
        return None
    at = _caught_up_to(home, read_if_exists(home.state, LISTED_KEY)).get(home.landing.source)
    record = read_record(home)
    return at or (record.made_at if record else None)


def first_seen(landed: LandedObject, not_seen_at: datetime | None) -> LandedObject:
    """The object with the later of two times: its last change on disk, and that of a listing that did not show it.

    On S3 the object's own time holds.
    """
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

        def edited(body: bytes | None) -> bytes:
            times = _caught_up_to(home, body) | {home.landing.source: caught_up_to}
            return _LISTED.dump_json({"caught_up_to": times}, indent=1)

        change(home.state, LISTED_KEY, edited)


def _caught_up_to(home: Home, body: bytes | None) -> dict[str, datetime]:
    """By the name of a landing, when the last listing began of which everything was planned."""
    try:
        return {} if body is None else _LISTED.validate_json(body)["caught_up_to"]
    except (ValidationError, KeyError) as error:
        raise StateDamaged(f"{home.state.uri_of(LISTED_KEY)} cannot be read; delete it.") from error


_LISTED = TypeAdapter(dict[str, dict[str, datetime]])
