"""How far the batches in hand are: Spark counts the objects of each task once, when it has finished."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pyspark import SparkContext
from pyspark.accumulators import Accumulator, AccumulatorParam

from store.objects.landing import LandedObject
from streaming.executor.task import TaskMessage
from streaming.pacing import estimated_work_s


@dataclass(frozen=True)
class BatchInHand:
    """A batch between its plan and its commit: the objects for its tasks to do, how many they did, for how long."""

    batch: int
    objects: int
    done: int
    seconds: float


class BatchesInHand:
    """Knows the batches that are in hand; any thread may ask."""

    def __init__(self, spark: SparkContext) -> None:
        # One for all batches: Spark never forgets an accumulator.
        self._sums = spark.accumulator(Counter[int](), _Sums())
        self._slots = spark.defaultParallelism
        self._lock = threading.Lock()
        self._batches: dict[int, tuple[list[float], float]] = {}

    def begin(self, batch: int, objects: Sequence[LandedObject]) -> None:
        """A batch is in hand, and its tasks do these objects, long ones first."""
        with self._lock:
            self._batches[batch] = (sorted(map(estimated_work_s, objects), reverse=True), time.monotonic())

    def end(self, batch: int) -> None:
        with self._lock:
            self._batches.pop(batch, None)
            self._sums.value.pop(batch, None)

    def counter(self, batch: int) -> Callable[[Iterable[TaskMessage]], Iterator[TaskMessage]]:
        """For tasks: gives their messages back, and counts the objects of each at the task's end."""
        return partial(_count, self._sums, batch)

    def remaining_s(self, batch: int) -> float | None:
        """For how long the rest of a batch keeps all slots busy; None while the batch is not in hand."""
        with self._lock:
            works_s, _ = self._batches.get(batch, (None, 0.0))
            return None if works_s is None else sum(works_s[self._sums.value[batch] :]) / self._slots

    def now(self) -> tuple[BatchInHand, ...]:
        """The batches in hand, in the order of their numbers."""
        now_s = time.monotonic()
        with self._lock:
            return tuple(
                BatchInHand(batch, len(works_s), self._sums.value[batch], now_s - began_s)
                for batch, (works_s, began_s) in sorted(self._batches.items())
            )


def _count(sums: "Accumulator[Counter[int]]", batch: int, messages: Iterable[TaskMessage]) -> Iterator[TaskMessage]:
    for message in messages:
        sums.add(Counter({batch: message.counters.photos + sum(message.counters.rejects.values())}))
        yield message


class _Sums(AccumulatorParam[Counter[int]]):
    def zero(self, value: Counter[int]) -> Counter[int]:
        return Counter()

    def addInPlace(self, value1: Counter[int], value2: Counter[int]) -> Counter[int]:  # noqa: N802 - Spark's name
        value1.update(value2)
        return value1
