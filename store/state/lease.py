"""The lease on a home's tables: one of reproject, prune and the like at a time, and none blocked by a dead one."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import TypeAdapter, ValidationError

from features.errors import FruitsError
from store.errors import HomeInUse, StateDamaged, StorageUnavailable
from store.home import Home
from store.objects.operations import change
from store.state.holder import SignsOfLife, this_process

LEASE_KEY = "lease.json"
LASTS = timedelta(seconds=20)
RENEWED_EVERY_S = 5.0
# The clocks of two machines may differ by this much.
CLOCK_SKEW = timedelta(seconds=2)
LOOK_S = 1.0


@dataclass(frozen=True)
class Lease:
    """Who works on the tables, and until when if nothing renews it."""

    work: str
    holder: str
    nonce: str
    since: datetime
    until: datetime


@contextmanager
def hold_lease(home: Home, work: str, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the home's lease; yields a check that raises HomeInUse once it was lost.

    A lease that a killed process left is waited for, 22 seconds at most, and `say` is told so. Work under a lease
    must be safe without it too, since a process can be paused past its end right after a check: the lease only keeps
    two from doing the same at once. Raises HomeInUse when another process holds it and is alive, StorageUnavailable.
    """
    now = datetime.now(UTC)
    lease = _taken(home, Lease(work, str(this_process()), uuid.uuid4().hex, now, now), say)
    renewal = _Renewal(home, lease)
    renewal.start()
    try:
        yield renewal.check
    finally:
        renewal.stop()
        # What was done is done: a lease that cannot be given back ends by itself.
        with suppress(StorageUnavailable):
            _release(home, lease)


def _taken(home: Home, lease: Lease, say: Callable[[str], None]) -> Lease:
    # Whatever the holder's clock says, it is dead when it renews nothing for as long as this.
    signs = SignsOfLife((LASTS + CLOCK_SKEW).total_seconds())
    dead: Lease | None = None
    is_told = False
    while True:
        standing = _put(home, partial(_ours_if_free, lease, dead))
        if standing.nonce == lease.nonce:
            return standing
        if not is_told:
            is_told = True
            say(f"Waiting for a lease of {standing.work} ({standing.holder}) to be renewed or to end …")
        life = signs.judge((standing.nonce, standing.until))
        if life == "alive":
            raise HomeInUse(
                f"{standing.work} is at work on {home.root.uri} since {standing.since:%H:%M:%S} UTC "
                f"({standing.holder}); run this again when it has finished."
            )
        dead = standing if life == "dead" else None
        time.sleep(LOOK_S)


def _ours_if_free(lease: Lease, dead: Lease | None, other: Lease | None) -> Lease:
    now = datetime.now(UTC)
    if other is not None and other != dead and other.nonce != lease.nonce and other.until + CLOCK_SKEW > now:
        return other
    return replace(lease, since=now, until=now + LASTS)


def _release(home: Home, lease: Lease) -> None:
    ended = replace(lease, until=datetime.fromtimestamp(0, UTC))
    _put(home, lambda other: ended if other is None or other.nonce == lease.nonce else other)


class _Renewal:
    """Renews a lease from a thread of its own."""

    def __init__(self, home: Home, lease: Lease) -> None:
        self._home = home
        self._lease = lease
        self._until = lease.until
        self._lost: FruitsError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost
        if datetime.now(UTC) > self._until:
            raise HomeInUse("This process slept past the end of its lease; run this again.")

    def _renew(self) -> None:
        while not self._stopped.wait(RENEWED_EVERY_S):
            try:
                standing = _put(self._home, self._renewed)
            except FruitsError as error:
                self._lost = error
                return
            if standing.nonce != self._lease.nonce:
                self._lost = HomeInUse(f"{standing.work} ({standing.holder}) took over the lease; run this again.")
                return
            self._until = standing.until

    def _renewed(self, other: Lease | None) -> Lease:
        if other is not None and other.nonce != self._lease.nonce:
            return other
        return replace(self._lease, until=datetime.now(UTC) + LASTS)


def _put(home: Home, edit: Callable[[Lease | None], Lease]) -> Lease:
    def edited(body: bytes | None) -> bytes:
        return _LEASE.dump_json(edit(_read(home, body)), indent=1)

    return _LEASE.validate_json(change(home.state, LEASE_KEY, edited))


def _read(home: Home, body: bytes | None) -> Lease | None:
    try:
        return None if body is None else _LEASE.validate_json(body)
    except ValidationError as error:
        raise StateDamaged(f"{home.state.uri_of(LEASE_KEY)} cannot be read; delete it.") from error


_LEASE = TypeAdapter(Lease)
