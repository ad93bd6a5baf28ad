"""Files on disk that may still be being written: they wait until they look whole or have stood still."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from features.wholeness import looks_whole
from store.objects.landing import LandedObject, changed_at_s, stat_object
from store.objects.location import StorageLocation

# A file that changes within this time is being written, whatever it looks like.
STILL_S = 0.25
# The clock of a network disk may be off by this much; an older file is not looked into.
CLOCKS_DIFFER_S = 300.0


@dataclass(frozen=True, slots=True)
class _Held:
    """A file held back: since when it has this etag, since when it is held (monotonic s), when it was first seen."""

    etag: str
    since_s: float
    first_s: float
    visible_at: datetime


class Settling:
    """Tells settled files from those that may still be being written, and remembers the latter from look to look.

    A file has settled when it stood still for 250 ms and is old, or looks whole, or has not changed for `settle` by
    this machine's clock; `has_settled` is true for those that settled before and are not planned yet. On S3 objects
    appear whole.
    """

    def __init__(
        self, landing: StorageLocation, settle: timedelta, has_settled: Callable[[LandedObject], bool]
    ) -> None:
        self._landing = landing
        self._has_settled = has_settled
        self._settle_s = settle.total_seconds()
        self._held: dict[str, _Held] = {}
        self._holding: dict[str, _Held] = {}
        self.awaits_any = False

    def settled(self, fresh: list[LandedObject]) -> list[LandedObject]:
        """Those of the objects, as they were listed right now, that have settled."""
        if not (fresh and self._landing.is_local):
            return fresh
        listed_s = time.monotonic()
        time.sleep(STILL_S)
        old_s = time.time() - self._settle_s - CLOCKS_DIFFER_S
        return [self._as_first_seen(landed) for landed in fresh if self._is_settled(landed, listed_s, old_s)]

    def end_look(self) -> None:
        """A look is complete: files that were held back before and not shown again are gone, and are forgotten.

        From now on `awaits_any` says whether a held file has not kept changing for longer than `settle`.
        """
        self._held, self._holding = self._holding, {}
        self.awaits_any = any(held.since_s - held.first_s <= self._settle_s for held in self._held.values())

    def held_objects(self) -> Iterator[LandedObject]:
        """The files that are held back, as they are now. Raises StorageRefused, StorageUnavailable."""
        for key in self._held:
            if self._may_be_file(key) and (found := stat_object(self._landing, key)) is not None:
                yield found

    @property
    def held_keys(self) -> Iterable[str]:
        return self._held.keys()

    def _held_before(self, landed: LandedObject) -> _Held | None:
        """What is remembered of this very version."""
        before = self._held.get(landed.key)
        return before if before is not None and before.etag == landed.etag else None

    def _as_first_seen(self, landed: LandedObject) -> LandedObject:
        before = self._held_before(landed)
        return replace(landed, first_visible_at=before.visible_at) if before is not None else landed

    def _may_be_file(self, key: str) -> bool:
        try:
            # As in a listing, a link that leads nowhere and a pipe do not count.
            return (self._landing.directory / key).is_file()
        except OSError:
            # Whoever looks it up is told what is wrong with it.
            return True

    def _is_settled(self, landed: LandedObject, listed_s: float, old_s: float) -> bool:
        changed_s = changed_at_s(self._landing, landed)
        if changed_s is None:
            self._hold(replace(landed, etag=""), time.monotonic())
            return False
        if changed_s < old_s or self._has_settled(landed):
            return True
        before = self._held_before(landed)
        since_s = before.since_s if before is not None else listed_s
        if time.monotonic() - since_s >= self._settle_s or (before is None and self._looks_whole(landed)):
            return True
        self._hold(landed, since_s)
        return False

    def _looks_whole(self, landed: LandedObject) -> bool:
        try:
            # A pipe that has taken the file's place keeps nobody waiting.
            descriptor = os.open(self._landing.directory / landed.key, os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                is_whole = looks_whole(file, landed.size_bytes)
        except OSError:
            # One that cannot be read is for the fetch to judge.
            is_whole = True
        # It may be gone, and what was read may be of another version.
        return is_whole and changed_at_s(self._landing, landed) is not None

    def _hold(self, landed: LandedObject, since_s: float) -> None:
        earlier = self._held.get(landed.key)
        visible_at = self._as_first_seen(landed).visible_at
        first_s = since_s if earlier is None else earlier.first_s
        self._holding[landed.key] = _Held(landed.etag, since_s, first_s, visible_at)
