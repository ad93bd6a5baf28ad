"""How far the batches in hand are: what their tasks have finished, as Spark hears it from each task once."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyspark import SparkContext
from pyspark.accumulators import Accumulator, AccumulatorParam

from streaming.executor.task import TaskMessage


@dataclass(frozen=True)
class BatchInHand:
    """A batch between its plan and its commit: the objects for its tasks to do, how many they did, for how long."""

    batch: int
    objects: int
    done: int
    seconds: float


@dataclass(frozen=True)
class FinishedObjects:
    """What a task reports to: its objects count once it has finished, and a task that runs again counts once."""

    batch: int
    sums: "Accumulator[Counter[int]]"

    def counted(self, messages: Iterable[TaskMessage]) -> Iterator[TaskMessage]:
        """The same messages; the objects of each are reported with the task's end."""
        for message in messages:
            counters = message.counters
            self.sums.add(Counter({self.batch: counters.photos + sum(counters.rejects.values())}))
            yield message


class BatchesInHand:
    """Knows the batches that are in hand; any thread may ask."""

    def __init__(self, spark: SparkContext) -> None:
        # One for all batches: Spark never forgets an accumulator.
        self._sums = spark.accumulator(Counter[int](), _Sums())
        self._lock = threading.Lock()
        self._begun: dict[int, tuple[int, float]] = {}

    def began(self, batch: int, objects: int) -> None:
        """A batch is in hand, and so many of its objects are for tasks to do."""
        with self._lock:
            self._begun[batch] = (objects, time.monotonic())

    def ended(self, batch: int) -> None:
        """A batch is committed, or failed."""
        with self._lock:
            self._begun.pop(batch, None)
            self._sums.value.pop(batch, None)

    def finished(self, batch: int) -> FinishedObjects:
        """What the tasks of a batch report to."""
        return FinishedObjects(batch, self._sums)

    def now(self) -> tuple[BatchInHand, ...]:
        """The batches in hand, in the order of their numbers."""
        now_s = time.monotonic()
        with self._lock:
            return tuple(
                BatchInHand(batch, objects, self._sums.value[batch], now_s - began_s)
                for batch, (objects, began_s) in sorted(self._begun.items())
            )


class _Sums(AccumulatorParam[Counter[int]]):
    def zero(self, value: Counter[int]) -> Counter[int]:
        return Counter()

    def addInPlace(self, value1: Counter[int], value2: Counter[int]) -> Counter[int]:  # noqa: N802 - Spark's name
        value1.update(value2)
        return value1
