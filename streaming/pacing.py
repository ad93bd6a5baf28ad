"""How much work goes into a batch, and how a batch is cut into tasks."""

import time
from collections import deque
from collections.abc import Sequence

from store.objects.landing import LandedObject

TARGET_BATCH_S = 20.0
# What it takes to launch a task has to be little beside it; a killed one is not to lose much.
SHORTEST_TASK_S = 0.5
LONGEST_TASK_S = 5.0

_FIRST_BUDGET_S = 8.0
_MOST_GROWTH = 4.0
# One core's cost of a photo: inference and the fixed part, then decoding, which goes with the bytes.
_PHOTO_S = 0.014
_BYTE_S = 1.2e-8
# Modern codecs spend more time on each of fewer bytes. A name may lie about them; then the estimate is wrong, and a
# batch takes longer or ends sooner than meant.
_BYTE_S_BY_ENDING = {"heic": 1.9e-7, "heif": 1.9e-7, "avif": 1.7e-7, "webp": 1.4e-7}


def estimated_work_s(landed: LandedObject) -> float:
    """What one core needs for an object, in seconds; only proportions matter."""
    ending = landed.key.rpartition(".")[2].lower()
    return _PHOTO_S + landed.size_bytes * _BYTE_S_BY_ENDING.get(ending, _BYTE_S)


class Pacer:
    """Sizes batches so that under backlog one takes about 20 s; a batch's fixed cost is then a few percent of it.

    None holds more than `max_files` and `max_bytes`, except that one large object is a batch of its own.
    """

    def __init__(self, max_files: int, max_bytes: int) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._budget_s = _FIRST_BUDGET_S
        self._full_batch: tuple[float, float] | None = None

    def fill(self, waiting: Sequence[LandedObject]) -> tuple[LandedObject, ...]:
        """The first objects of `waiting` that make one batch: at least one, within the caps and the budget."""
        taken_bytes, work_s, count = 0, 0.0, 0
        for landed in waiting:
            taken_bytes += landed.size_bytes
            work_s += estimated_work_s(landed)
            over = taken_bytes > self._max_bytes or work_s > self._budget_s or count == self._max_files
            if over and count:
                break
            count += 1
        return tuple(waiting[:count])

    def start(self, batch: Sequence[LandedObject], waiting: int) -> None:
        """A batch begins; its pace only counts if `waiting` objects were left over."""
        work_s = sum(map(estimated_work_s, batch))
        self._full_batch = (time.monotonic(), work_s) if waiting else None

    def end(self) -> None:
        """The batch is done: adapt the budget to its pace."""
        if self._full_batch is None:
            return
        started_at, work_s = self._full_batch
        pace = work_s / max(time.monotonic() - started_at, 0.001)
        self._budget_s = min(pace * TARGET_BATCH_S, work_s * _MOST_GROWTH)
        self._full_batch = None


def split_into_tasks(objects: Sequence[LandedObject], slots: int) -> list[tuple[LandedObject, ...]]:
    """Objects as tasks, to begin in this order: large tasks first, then ever smaller, so that all slots end together.

    A trickle is one task. Source: factoring (Hummel, Schonberg, Flynn, "Factoring: A Method for Scheduling Parallel
    Loops", CACM 1992): each round gives every slot half of its share of what is left.
    """
    left = deque(sorted(objects, key=estimated_work_s, reverse=True))
    left_s = sum(map(estimated_work_s, left))
    tasks = []
    while left:
        share_s = min(max(left_s / (2 * slots), SHORTEST_TASK_S), LONGEST_TASK_S)
        for _ in range(slots):
            task = _head(left, share_s)
            left_s -= sum(map(estimated_work_s, task))
            if task:
                tasks.append(task)
    return tasks


def _head(left: deque[LandedObject], share_s: float) -> tuple[LandedObject, ...]:
    head: list[LandedObject] = []
    head_s = 0.0
    while left and (not head or head_s + estimated_work_s(left[0]) <= share_s):
        head.append(left.popleft())
        head_s += estimated_work_s(head[-1])
    return tuple(head)
