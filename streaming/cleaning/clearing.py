"""Archiving and deleting objects: one that cannot be cleared stays for an hour, and does not stop the others."""

import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from store.errors import StorageUnavailable
from store.home import Home
from store.objects.faults import Fault, fault_of, is_fault, storage_error
from store.objects.landing import Cleaning, LandedObject, archive_or_delete_once, archived_name, stat_object
from store.objects.location import StorageLocation
from streaming.discovery.processed_index import identity

SKIPPED_FOR = timedelta(hours=1)
# What no listing has shown since is not counted any longer; with a queue there is one every six hours.
FORGOTTEN_AFTER = timedelta(hours=7)
_PROBE_BYTES = 2**16
_TRIED_AGAIN = (Fault.TRANSIENT, Fault.NOT_UNDERSTOOD)


class Clearing:
    """Archives or deletes objects, for any thread, and knows which of them it could not.

    After a passing fault an object is tried again for `patience`. Then it is left where it is for an hour, if another
    object was cleared meanwhile; a refused one, if any object was cleared in this run; else, if a probe can be cleared.
    """

    def __init__(self, home: Home, how: Cleaning, patience: timedelta) -> None:
        self._home = home
        self._how = how
        self._patience_s = patience.total_seconds()
        self._failing_since_s: dict[bytes, float] = {}
        self._skipped_at_s: dict[bytes, float] = {}
        self._began_s = time.monotonic()
        self._cleared_at_s = float("-inf")

    def clear(
        self, pool: ThreadPoolExecutor, landing: StorageLocation, objects: Iterable[LandedObject]
    ) -> tuple[LandedObject, ...]:
        """Try each object once, except those left within the hour; returns those to try again soon.

        Raises StorageRefused, StorageUnavailable when storage clears no object at all.
        """
        named = [(identity(landing, landed), landed) for landed in objects]
        an_hour_ago_s = time.monotonic() - SKIPPED_FOR.total_seconds()
        due = [one for one in named if self._skipped_at_s.get(one[0], float("-inf")) <= an_hour_ago_s]
        failures = list(pool.map(lambda one: self._failure(landing, one[1]), due))
        for (name, _), failure in zip(due, failures, strict=True):
            if failure is None:
                self._failing_since_s.pop(name, None)
                self._skipped_at_s.pop(name, None)
        failed = [(*one, failure) for one, failure in zip(due, failures, strict=True) if failure is not None]
        return tuple(landed for name, landed, failure in failed if self._is_retried(name, landing, landed, failure))

    @property
    def uncleared(self) -> int:
        """How many objects could not be cleared away and are still there, as far as is known."""
        oldest_s = time.monotonic() - FORGOTTEN_AFTER.total_seconds()
        return sum(skipped_at_s > oldest_s for skipped_at_s in list(self._skipped_at_s.values()))

    def _failure(self, landing: StorageLocation, landed: LandedObject) -> Exception | None:
        try:
            if archive_or_delete_once(landing, self._home.archive, landed, self._how):
                self._cleared_at_s = time.monotonic()
        except Exception as error:
            if not is_fault(error):
                raise
            return error
        return None

    def _is_retried(self, name: bytes, landing: StorageLocation, landed: LandedObject, failure: Exception) -> bool:
        fault, now_s = fault_of(failure), time.monotonic()
        since_s = self._failing_since_s.setdefault(name, now_s)
        if fault in _TRIED_AGAIN and now_s - since_s < self._patience_s:
            return True
        cleared_after_s = since_s if fault in _TRIED_AGAIN else self._began_s
        is_single = fault is Fault.UNFIT_OBJECT or (
            fault is not Fault.REFUSED
            and (self._cleared_at_s >= cleared_after_s or _can_clear(landing, self._home.archive, self._how))
        )
        if not is_single:
            raise storage_error(f"clear away {landing.uri_of(landed.key)}", failure, landed.key) from failure
        self._skipped_at_s[name] = time.monotonic()
        return False


def _can_clear(landing: StorageLocation, archive: StorageLocation, how: Cleaning) -> bool:
    """Whether storage clears anything away, tried with an object of no other use."""
    name = f".fruits-{uuid.uuid4().hex}"
    try:
        return (
            _clears_a_file(landing, archive, name, how) if landing.is_local else _may_clear(landing, archive, name, how)
        )
    except Exception as error:
        if not (isinstance(error, StorageUnavailable) or is_fault(error)):
            raise
        return False


def _clears_a_file(landing: StorageLocation, archive: StorageLocation, name: str, how: Cleaning) -> bool:
    file = landing.directory / name
    try:
        file.write_bytes(bytes(_PROBE_BYTES))
        landed = stat_object(landing, name)
        if landed is None:
            return False
        file_there = archive.directory / archived_name(landed)
        try:
            return archive_or_delete_once(landing, archive, landed, how)
        finally:
            file_there.unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _may_clear(landing: StorageLocation, archive: StorageLocation, name: str, how: Cleaning) -> bool:
    # S3 looks at permissions first: of an object that is not there it says so only to who may clear it away.
    nowhere = LandedObject(name, 0, "none", datetime.now(UTC))
    for each in {how, "delete"}:
        archive_or_delete_once(landing, archive, nowhere, each)
    return True
