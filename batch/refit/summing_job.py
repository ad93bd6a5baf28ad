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

# Of one month, however many slots there are: each sends its sum to the driver, 6.6 MB.
MOST_SUMMING_TASKS = 32


@dataclass(frozen=True)
class SummingJob:
    """What all sums of one refit have in common; `shared` is what tasks get of `said`."""

    spark: SparkContext
    home: Home
    featurizer: str
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


def collect(results: "RDD[_T]") -> list[_T]:
    """What all tasks return. Raises what `carry_errors` carries, and JobFailed for anything else."""
    try:
        return results.collect()
    except Py4JJavaError as error:
        raise JobFailed(f"A task failed on every try: {last_words(error)}. Nothing was published; refit.") from error
