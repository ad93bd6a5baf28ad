"""How much work goes into a batch, and how a batch is cut into tasks."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from features.landing import Landed

TARGET_BATCH_S = 20.0
TASK_S = 1.5

_FIRST_BUDGET_S = 8.0
_MOST_GROWTH = 4.0
# One core's cost of a photo: inference and the fixed part, then decoding, which goes with the bytes.
_PHOTO_S = 0.014
_BYTE_S = 1.2e-8


@dataclass(frozen=True)
class Caps:
    """The most a batch may hold, whatever the pace."""

    max_files: int
    max_bytes: int


def estimated_work_s(landed: Landed) -> float:
    """What one core needs for an object, in seconds; only proportions matter."""
    return _PHOTO_S + landed.size_bytes * _BYTE_S


class Pacer:
    """Sizes batches so that under backlog one takes about 20 s; a batch's fixed cost is then a few percent of it."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._budget_s = _FIRST_BUDGET_S
        self._full_batch: tuple[float, float] | None = None

    def fill(self, waiting: Sequence[Landed]) -> tuple[Landed, ...]:
        """The first objects of `waiting` that make one batch: at least one, within the caps and the budget."""
        taken_bytes, work_s, count = 0, 0.0, 0
        for landed in waiting:
            taken_bytes += landed.size_bytes
            work_s += estimated_work_s(landed)
            over = taken_bytes > self._caps.max_bytes or work_s > self._budget_s or count == self._caps.max_files
            if over and count:
                break
            count += 1
        return tuple(waiting[:count])

    def started(self, batch: Sequence[Landed], waiting: int) -> None:
        """A batch begins; `waiting` objects were left over, and only then does its pace say anything."""
        work_s = sum(map(estimated_work_s, batch))
        self._full_batch = (time.monotonic(), work_s) if waiting else None

    def ended(self) -> None:
        """The batch is done: adapt the budget to the pace it had."""
        if self._full_batch is None:
            return
        started_at, work_s = self._full_batch
        pace = work_s / max(time.monotonic() - started_at, 0.001)
        self._budget_s = min(pace * TARGET_BATCH_S, work_s * _MOST_GROWTH)
        self._full_batch = None


def cut(objects: Sequence[Landed], slots: int) -> list[tuple[Landed, ...]]:
    """Objects as tasks of about equal work: one for a trickle, one a slot or more when there is work for it."""
    work_s = sum(map(estimated_work_s, objects))
    tasks = math.ceil(work_s / TASK_S)
    if work_s > slots * TASK_S / 4:
        tasks = max(tasks, slots)
    tasks = max(1, min(tasks, len(objects)))
    by_size = sorted(objects, key=lambda landed: landed.size_bytes, reverse=True)
    return [tuple(by_size[start::tasks]) for start in range(tasks)]
