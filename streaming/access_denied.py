"""When storage hands out few photos it is no matter of single photos, and none of them must become a reject."""

import threading
from dataclasses import dataclass

from store.errors import StorageRefused
from store.home import Home
from store.state.plans import BatchCounters, Plan, read_result

WINDOW_OBJECTS = 20
FEWEST_REFUSED = 3

_KEPT_BATCHES = 2 * WINDOW_OBJECTS


@dataclass(frozen=True)
class Share:
    """How many objects of so many storage did not hand out: refused, or failed on until their time was over."""

    refused: int = 0
    objects: int = 0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.refused + other.refused, self.objects + other.objects)


class AccessDeniedMonitor:
    """What storage did not hand out of the last 20 objects or more: whole batches, of earlier runs too."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._shares: dict[int, Share] = {}
        self._one_at_a_time = threading.Lock()

    def stop_if_most_were(self, plan: Plan, counters: BatchCounters, words: str) -> None:
        """Take in a batch, and raise StorageRefused when most of the last photos were refused, its own among them.

        Fewer than 3 are single photos, and so is any number among fewer than 20. `words` are what storage said.
        Called before the batch's result is written: its plan stays, and the next start does its work again.
        """
        with self._one_at_a_time:
            self._shares[plan.batch] = Share(counters.refused, len(plan.objects))
            for old in [batch for batch in self._shares if batch <= plan.batch - _KEPT_BATCHES]:
                del self._shares[old]
            window = self._last(plan.batch) if counters.refused else Share()
        if window.objects < WINDOW_OBJECTS or window.refused < FEWEST_REFUSED or 2 * window.refused <= window.objects:
            return
        raise StorageRefused(
            f"Storage did not hand out {window.refused} of the last {window.objects} photos: {words}; check that "
            f"{plan.landing} can be read, its disk or network, permission and key, then start again: nothing was "
            "rejected by this batch."
        )

    def _last(self, batch: int) -> Share:
        total = Share()
        for number in range(batch, max(batch - _KEPT_BATCHES, 0), -1):
            total += self._share_of(number)
            if total.objects >= WINDOW_OBJECTS:
                break
        return total

    def _share_of(self, batch: int) -> Share:
        if batch not in self._shares:
            result = read_result(self._home, batch)
            if result is None:
                # Still in flight, or lost with state/: it says nothing.
                return Share()
            counters = result.counters
            self._shares[batch] = Share(counters.refused, counters.photos + sum(counters.rejects.values()))
        return self._shares[batch]
