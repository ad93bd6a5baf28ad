"""A Spark job that sums up rows: what all its tasks have in common, and what becomes of an error in one of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from batch.refit.stored_sums import store_of
from features.task_errors import last_words
from store.errors import JobFailed
from store.home import Home
from store.objects.location import StorageLocation
from store.tables.labels import SaidLabels

if TYPE_CHECKING:
    from pyspark import RDD, Accumulator, Broadcast

_T = TypeVar("_T")

# What the summing tasks of one month send to the driver, however many slots there are: 32 sums of 1280 features. It
# must stay below what Spark lets a job collect, 1 GiB.
_MOST_COLLECTED_BYTES = 32 * 6_600_000


@dataclass(frozen=True)
class SummingJob:
    """What all sums of one refit have in common; `shared` is what tasks get of `said`.

    The featurizer gives `length` numbers a photo.
    """

    spark: SparkContext
    home: Home
    featurizer: str
    length: int
    full: bool
    keep: bool
    group: str
    read_bytes: "Accumulator[int]"
    said: SaidLabels
    shared: "Broadcast[SaidLabels]"
    after_batch: int = 0

    @property
    def store(self) -> StorageLocation:
        return store_of(self.home, self.featurizer)

    def summing_tasks(self, most: int) -> int:
        """In how many tasks to add up the sums of so many: few enough for the driver, which gets one sum of each."""
        return max(1, min(most, _MOST_COLLECTED_BYTES // (4 * self.length * (self.length + 1))))


def collect(results: "RDD[_T]") -> list[_T]:
    """What all tasks return. Raises what `carry_errors` carries, and JobFailed for anything else."""
    try:
        return results.collect()
    except Py4JJavaError as error:
        raise JobFailed(f"A task failed on every try: {last_words(error)}. Nothing was published; refit.") from error
