"""When storage hands out few photos it is no matter of single photos, and none of them must become a reject."""

import threading

from store.errors import StorageRefused
from store.home import Home
from store.state.plans import BatchCounters, Plan, read_result

WINDOW_OBJECTS = 20
FEWEST_REFUSED = 3

_KEPT_BATCHES = 2 * WINDOW_OBJECTS


class AccessDeniedMonitor:
    """How many of the last 20 objects or more storage did not hand out: in whole batches, of earlier runs too."""

    def __init__(self, home: Home) -> None:
        self._home = home
        # How many objects of a batch storage did not hand out, and how many the batch has.
        self._counts: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def check(self, plan: Plan, counters: BatchCounters, words: str) -> None:
        """Count a batch, and raise StorageRefused if storage refused some of it and most of the last photos.

        Fewer than 3 are single photos, and so is any number among fewer than 20. `words` are what storage said.
        Called before the batch's result is written: its plan stays, and the next start does its work again.
        """
        with self._lock:
            self._counts = {batch: count for batch, count in self._counts.items() if batch > plan.batch - _KEPT_BATCHES}
            self._counts[plan.batch] = (counters.refused, len(plan.objects))
            refused, objects = self._last(plan.batch) if counters.refused else (0, 0)
        if objects >= WINDOW_OBJECTS and refused >= FEWEST_REFUSED and 2 * refused > objects:
            raise StorageRefused(
                f"Storage did not hand out {refused} of the last {objects} photos: {words}; check that "
                f"{plan.landing} can be read, its disk or network, permission and key, then start again: nothing was "
                "rejected by this batch."
            )

    def _last(self, newest: int) -> tuple[int, int]:
        refused = objects = 0
        for batch in range(newest, max(newest - _KEPT_BATCHES, 0), -1):
            if batch not in self._counts and (result := read_result(self._home, batch)) is not None:
                counters = result.counters
                self._counts[batch] = (counters.refused, counters.photos + sum(counters.rejects.values()))
            # A batch in flight, or one that was lost with state/, says nothing.
            of_batch = self._counts.get(batch, (0, 0))
            refused, objects = refused + of_batch[0], objects + of_batch[1]
            if objects >= WINDOW_OBJECTS:
                break
        return refused, objects
