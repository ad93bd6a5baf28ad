"""What people's statements change in days whose sums are stored, read again only where something new was said."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from batch.days import Day, split_into_tasks, sum_corrections
from batch.label_corrections import Corrections, merge_corrections, no_corrections
from batch.refit.stored_sums import StoredDay, StoredSum, read_corrections, write_corrections
from batch.refit.summing_job import SummingJob, collect
from features.task_errors import carry_errors
from features.worker_process import freeze_worker_modules
from store.home import Home
from store.objects.location import StorageLocation
from store.tables.labels import SaidLabels

if TYPE_CHECKING:
    from pyspark import Broadcast

CORRECTIONS_READ_AT_ONCE = 8


def corrections_of_stored(
    job: SummingJob, days: Sequence[Day], valid: dict[date, StoredDay]
) -> tuple[Corrections, Mapping[date, int]]:
    """What statements change in the valid days, and how many rows were read for it; `valid` says then what is stored.

    Of days of which something else was said since, or whose corrections are gone, they are summed up again.
    """
    digests = {day.date: job.said.digests.get(day.date) for day in days}
    same = [(day, stored) for day, stored in valid.items() if stored.labels_digest == digests[day]]
    of_same = {day: stored.corrections for day, stored in same if stored.corrections}
    with ThreadPoolExecutor(CORRECTIONS_READ_AT_ONCE) as readers:
        found = dict(zip(of_same, readers.map(partial(read_corrections, job.store), of_same.values()), strict=True))
    good = {day for day, stored in same if not stored.corrections or found[day] is not None}
    followed = _follow_days(job, [day for day in days if day.date not in good])
    for day, of_day in followed.stored.items():
        valid[day] = replace(valid[day], labels_digest=digests[day], corrections=of_day)
    known = [corrections for corrections in found.values() if corrections is not None]
    return merge_corrections((*known, followed.corrections), job.length), followed.rows


@dataclass(frozen=True)
class _Followed:
    """What statements change in some days that have a stored sum, how many rows of each, and what is stored of it."""

    corrections: Corrections
    rows: Mapping[date, int] = field(default_factory=dict)
    stored: Mapping[date, StoredSum | None] = field(default_factory=dict)


def _follow_days(job: SummingJob, days: Sequence[Day]) -> _Followed:
    if not days:
        return _Followed(no_corrections(job.length))
    tasks = [task for day in days for task in split_into_tasks(day)]
    correcting = partial(_correct_files, job.home, job.featurizer, job.length, job.shared)
    # Each has an object of its own, and what tasks send to the driver is one sum of all days in a partition.
    partitions = job.summing_tasks(len(tasks))
    corrections = (
        job.spark.parallelize(tasks, partitions)
        .map(correcting)
        .reduceByKey(partial(_merge, job.length), partitions, int)
    )
    parts = collect(corrections.mapPartitions(partial(_store_corrections, job.store, job.length, job.keep)))
    return _Followed(
        merge_corrections((part.corrections for part in parts), job.length),
        {day: rows for part in parts for day, rows in part.rows.items()},
        {day: stored for part in parts for day, stored in part.stored.items()},
    )


@carry_errors
def _correct_files(
    home: Home, featurizer: str, length: int, said: "Broadcast[SaidLabels]", task: Day
) -> tuple[int, Corrections]:
    """What statements change in a task's files, under the number of its day."""
    corrections = sum_corrections(home, featurizer, length, task, said.value)
    freeze_worker_modules()
    return task.date.toordinal(), corrections


def _merge(length: int, one: Corrections, other: Corrections) -> Corrections:
    return merge_corrections((one, other), length)


@carry_errors
def _store_corrections(
    store: StorageLocation, length: int, keep: bool, days: Iterable[tuple[int, Corrections]]
) -> Iterator[_Followed]:
    corrections, rows, stored = no_corrections(length), {}, {}
    for number, of_day in days:
        day = date.fromordinal(number)
        corrections, rows[day] = _merge(length, corrections, of_day), of_day.rows
        stored[day] = write_corrections(store, day, of_day) if keep and of_day.rows else None
    freeze_worker_modules()
    yield _Followed(corrections, rows, stored)
