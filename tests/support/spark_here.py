"""A Spark that does its tasks in this process, for drivers that a test kills often: a real one starts in seconds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


class SparkHere:
    """What drivers of jobs use of a SparkContext."""

    defaultParallelism = 2  # noqa: N815 - Spark's name

    def getConf(self) -> dict[str, str]:  # noqa: N802 - Spark's name
        return {}

    def broadcast(self, value: Any) -> "_Broadcast":
        return _Broadcast(value)

    def parallelize(self, items: Sequence[Any], _: int) -> "_Items":
        return _Items(items)


class _Broadcast:
    def __init__(self, value: Any) -> None:
        self.value = value

    def destroy(self) -> None:
        pass


class _Items:
    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def mapPartitions(self, work: Callable[[Iterator[Any]], Iterable[Any]]) -> "_Items":  # noqa: N802 - Spark's name
        return _Items(done for item in self._items for done in work(iter([item])))

    def collect(self) -> list[Any]:
        return list(self._items)
