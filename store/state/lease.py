"""The lease on a home's tables: one of reproject, prune and the like at a time, and none blocked by a dead one."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from features.errors import FruitsError
from store.errors import HomeInUse, StorageUnavailable
from store.home import Home
from store.objects.document import Document
from store.state.holder import SignsOfLife, this_process

LEASE_KEY = "lease.json"
LASTS = timedelta(seconds=20)
RENEWED_EVERY_S = 5.0
# The clocks of two machines may differ by this much.
CLOCK_SKEW = timedelta(seconds=2)
LOOK_S = 1.0
# How long another waits for work that gives way, which holds the lease for some seconds to a few minutes at a time.
GIVES_WAY_WITHIN_S = 1800.0


@dataclass(frozen=True)
class Lease:
    """Who works on the tables, and until when if nothing renews it.

    Work that `gives_way` takes the lease many times, each time for a little while, and lets others in between: `wanted`
    says that one of them waits.
    """

    work: str
    holder: str
    nonce: str
    since: datetime
    until: datetime
    gives_way: bool = False
    wanted: bool = False


_LEASE = Document(Lease, LEASE_KEY, remedy="delete it")


@contextmanager
def hold_lease(
    home: Home, work: str, say: Callable[[str], None], gives_way: bool = False
) -> Iterator[Callable[[], None]]:
    """Hold the home's lease while entered; yields a check that raises HomeInUse once the lease was lost.

    A lease that a killed process left is waited for, 22 seconds at most, and `say` is told so. Work under a lease
    must be safe without it, too, because a process can be paused right after a check: the lease only keeps two from
    the same work at once. Work that `gives_way` waits for all other work while that lives, and other work waits for it;
    of two that give way each has its turn.
    Raises HomeInUse when another process that lives holds it and neither gives way, StorageUnavailable.
    """
    renewal = _Renewal(home, _acquire(home, work, say, gives_way))
    with renewal:
        yield renewal.check
    if gives_way:
        renewal.let_others_in()


def _acquire(home: Home, work: str, say: Callable[[str], None], gives_way: bool) -> Lease:
    # By this process's own clock: a holder that renews nothing for so long is dead, whatever its clock says.
    signs = SignsOfLife((LASTS + CLOCK_SKEW).total_seconds())
    now = datetime.now(UTC)
    ours = Lease(work, str(this_process()), uuid.uuid4().hex, now, now, gives_way)
    is_wait_reported = False
    began_s = time.monotonic()

    def ours_if_free(stored: Lease | None) -> Lease:
        now = datetime.now(UTC)
        if stored is None or stored == signs.dead or stored.nonce == ours.nonce or stored.until + CLOCK_SKEW <= now:
            return replace(ours, since=now, until=now + LASTS)
        return replace(stored, wanted=True) if stored.gives_way else stored

    while True:
        stored = _LEASE.change(home.state, ours_if_free)
        if stored.nonce == ours.nonce:
            return stored
        if not is_wait_reported:
            is_wait_reported = True
            say(f"Waiting for a lease of {stored.work} ({stored.holder}) to be renewed or to end …")
        is_alive = signs.is_changed(stored)
        waits = stored.gives_way or gives_way
        if is_alive and not (waits and time.monotonic() - began_s <= _patience_s(stored)):
            raise HomeInUse(
                f"{stored.work} is at work on {home.root.uri} since {stored.since:%H:%M:%S} UTC "
                f"({stored.holder}); run this again when it has finished."
            )
        time.sleep(LOOK_S)


def _patience_s(stored: Lease) -> float:
    return GIVES_WAY_WITHIN_S if stored.gives_way else float("inf")


class _Renewal:
    """Renews a lease in a thread of its own while entered, and gives it back at the end."""

    def __init__(self, home: Home, lease: Lease) -> None:
        self._home = home
        self._lease = lease
        self._until = lease.until
        self._failure: FruitsError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        # The work is done: a lease that cannot be given back ends by itself.
        with suppress(StorageUnavailable):
            self._change_end(lambda: datetime.fromtimestamp(0, UTC))

    def let_others_in(self) -> None:
        """After the end: wait until whoever wants the lease has it. Who was killed meanwhile is waited for shortly."""
        until_s = time.monotonic() + 5 * LOOK_S
        while time.monotonic() < until_s:
            stored = _LEASE.read(self._home.state)
            if stored is None or stored.nonce != self._lease.nonce or not stored.wanted:
                return
            time.sleep(LOOK_S / 5)

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if datetime.now(UTC) > self._until:
            raise HomeInUse("This process slept past the end of its lease; run this again.")

    def _renew(self) -> None:
        while not self._stopped.wait(RENEWED_EVERY_S):
            try:
                stored = self._change_end(lambda: datetime.now(UTC) + LASTS)
            except FruitsError as error:
                self._failure = error
                return
            if stored.nonce != self._lease.nonce:
                self._failure = HomeInUse(f"{stored.work} ({stored.holder}) took over the lease; run this again.")
                return
            self._until = stored.until

    def _change_end(self, until: Callable[[], datetime]) -> Lease:
        """Set the end of our lease unless another process has taken it; returns what is stored."""

        def edit(stored: Lease | None) -> Lease:
            if stored is not None and stored.nonce != self._lease.nonce:
                return stored
            return replace(stored or self._lease, until=until())

        return _LEASE.change(self._home.state, edit)
