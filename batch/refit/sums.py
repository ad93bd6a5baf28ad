"""The sums of all feature rows of one featurizer, summed by Spark tasks: rows never come to the driver.

Finished days have their sums stored, and so has each month: with 1280 features 6.6 MB each and 10 KB a label. A refit
of two years reads 24 sums of months instead of 730 of days: 160 MB instead of 4.8 GB, and 0.25 s of a core instead of
7 s (10 ms each, measured from a disk). One sum over all days would not do: every erasure, and every night in which the
oldest day expires, would have it added up from all days again.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from pyspark import SparkContext

from batch.days import (
    Day,
    count_rows,
    digest_of_paths,
    digest_of_rows,
    split_into_tasks,
    sum_rows,
)
from batch.label_corrections import Corrections, corrected_sums, merge_corrections, no_corrections
from batch.refit.followed_days import corrections_of_stored
from batch.refit.stored_sums import (
    StoredDay,
    StoredMonth,
    delete_unused_sums,
    read_month,
    read_sum,
    write_corrections,
    write_month,
    write_sum,
)
from batch.refit.summing_job import SummingJob, collect
from features.errors import FruitsError
from features.label_sums import RowSums, merge_sums
from features.pca import NotFinite
from features.task_errors import carry_errors
from features.worker_process import freeze_worker_modules
from store.errors import StateDamaged
from store.home import Home
from store.models.registry import describe_featurizer
from store.objects.location import StorageLocation
from store.tables.labels import NOTHING_SAID, SaidLabels

if TYPE_CHECKING:
    from pyspark import Accumulator, Broadcast

# A month ends with few tasks; other months keep the other slots busy.
MONTHS_AT_ONCE = 4
FILES_COUNTED_PER_TASK = 32
PROGRESS_INTERVAL_S = 0.2


@dataclass(frozen=True)
class SumsOfDays:
    """The sums of the rows of some days by the labels of folders, and what people's statements change in them.

    How many rows of each day were read or came out of stored sums; of those with a stored sum, `rows_followed` were
    read because something else was said of their day since.
    """

    sums: RowSums
    corrections: Corrections
    rows_read: Mapping[date, int] = field(default_factory=dict)
    rows_stored: Mapping[date, int] = field(default_factory=dict)
    rows_followed: Mapping[date, int] = field(default_factory=dict)

    @property
    def counting(self) -> RowSums:
        """The sums of the same rows by the labels that count."""
        return corrected_sums(self.sums, self.corrections)

    def plus(self, other: "SumsOfDays") -> "SumsOfDays":
        """Both together; no day may be in both."""
        return SumsOfDays(
            merge_sums((self.sums, other.sums), self.sums.length),
            merge_corrections((self.corrections, other.corrections), self.sums.length),
            {**self.rows_read, **other.rows_read},
            {**self.rows_stored, **other.rows_stored},
            {**self.rows_followed, **other.rows_followed},
        )


def sum_days(
    spark: SparkContext,
    home: Home,
    featurizer: str,
    days: Sequence[Day],
    *,
    full: bool,
    keep: bool,
    on_progress: Callable[[int, int], None],
    said: SaidLabels = NOTHING_SAID,
) -> SumsOfDays:
    """Sum up all rows of a featurizer in all days; features are read only of days without a valid stored sum.

    Of other days, rows that `said` gives another label are read, if it says something else than when they were summed.
    `full` uses nothing stored. `keep` stores the sums of finished days, each month's as soon as it is complete, and
    deletes sums that nothing names any more. `on_progress` gets bytes done and bytes in all, in this thread.
    Replay gives the same sums to about 1e-12, as does `full`. A kill costs the months under way. The driver holds
    the sums of a few months, however many there are. Raises NotFinite and StateDamaged, which name the day, for
    features that are not as many finite numbers as the featurizer gives, and keeps the sums of other days; StateDamaged
    for a featurizer that is missing; JobFailed, StorageUnavailable.
    """
    total_bytes = sum(day.size_bytes for day in days)
    months = [(month, list(of_month)) for month, of_month in groupby(days, key=lambda day: f"{day.date:%Y-%m}")]
    shared = spark.broadcast(said.without_rows())
    length = describe_featurizer(home, featurizer).length
    job = SummingJob(spark, home, featurizer, length, full, keep, _group(), spark.accumulator(0), said, shared)
    summed = SumsOfDays(merge_sums((), length), no_corrections(length))
    pool = ThreadPoolExecutor(MONTHS_AT_ONCE, thread_name_prefix="sums")
    running = {pool.submit(_sum_month, job, month, of_month) for month, of_month in months}
    try:
        while running:
            done, running = wait(running, PROGRESS_INTERVAL_S, FIRST_COMPLETED)
            for future in done:
                summed = summed.plus(future.result())
            stored_bytes = sum(day.size_bytes for day in days if day.date in summed.rows_stored)
            # A task that is run again counts again.
            on_progress(min(job.read_bytes.value + stored_bytes, total_bytes), total_bytes)
    finally:
        # After a failure some months are left; a thread between two Spark jobs begins another one.
        pool.shutdown(wait=False, cancel_futures=True)
        while any(future.running() for future in running):
            spark.cancelJobGroup(job.group)
            wait(running, PROGRESS_INTERVAL_S)
        shared.destroy()
    if keep:
        delete_unused_sums(job.store, [month for month, _ in months])
    on_progress(total_bytes, total_bytes)
    return summed


def sum_later_rows(
    spark: SparkContext, home: Home, featurizer: str, days: Sequence[Day], after_batch: int, said: SaidLabels
) -> RowSums:
    """Sum up the rows of some days whose batch is beyond `after_batch` by the labels that count, from the features.

    Raises as `sum_days`.
    """
    shared = spark.broadcast(said.without_rows())
    length, counter = describe_featurizer(home, featurizer).length, spark.accumulator(0)
    job = SummingJob(spark, home, featurizer, length, True, False, _group(), counter, said, shared, after_batch)
    try:
        read = _read_days(job, days, keep=False)
    finally:
        shared.destroy()
    if read.refusal:
        raise read.refusal
    return corrected_sums(read.sums, read.corrections)


def _group() -> str:
    return f"fruits-sums-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class _TaskSum:
    """The sums of the rows that some tasks read of one day, and the rows of each batch; or why one refuses them."""

    sums: RowSums
    corrections: Corrections
    rows_by_batch: Mapping[int, int] = field(default_factory=dict)
    refusal: FruitsError | None = None


@dataclass(frozen=True)
class _ReadDays:
    """The sums of the days that were read, what is stored of each, and why one of them was refused."""

    sums: RowSums
    corrections: Corrections
    days: Mapping[date, StoredDay] = field(default_factory=dict)
    refusal: FruitsError | None = None


def _sum_month(job: SummingJob, month: str, days: Sequence[Day]) -> SumsOfDays:
    job.spark.setJobGroup(job.group, f"sums of {month}")
    finished = [day for day in days if day.finished]
    index = read_month(job.store, month)
    valid = {} if job.full else _valid_days(job, finished, index)
    sums, summed_keys = _stored_sums(job, index, valid)
    read = _read_days(job, [day for day in finished if day.date not in valid], job.keep)
    sums = merge_sums((sums, read.sums), job.length)
    corrections, followed = corrections_of_stored(job, [day for day in finished if day.date in valid], valid)
    if job.keep:
        stored = valid | dict(read.days)
        keys, month_sum = _keys(stored), index.sum
        if set(keys) != summed_keys or not keys:
            month_sum = write_sum(job.store, "months", month, sums) if keys else None
        new_index = StoredMonth(dict(sorted(stored.items())), month_sum, tuple(keys))
        if new_index != index:
            write_month(job.store, month, new_index)
    if read.refusal:
        raise read.refusal
    growing = _read_days(job, [day for day in days if not day.finished], keep=False)
    if growing.refusal:
        raise growing.refusal
    return SumsOfDays(
        merge_sums((sums, growing.sums), job.length),
        merge_corrections((corrections, read.corrections, growing.corrections), job.length),
        {day: stored.rows for day, stored in (*read.days.items(), *growing.days.items())},
        {day: stored.rows for day, stored in valid.items()},
        followed,
    )


def _valid_days(job: SummingJob, days: Sequence[Day], index: StoredMonth) -> dict[date, StoredDay]:
    """The stored days whose rows are still those that were summed, each with the digest of the files it has now."""
    digests = {day.date: digest_of_paths(day.paths) for day in days if day.date in index.days}
    moved = [day for day in days if day.date in digests and index.days[day.date].paths_digest != digests[day.date]]
    rows_digests = _count_days(job, moved)
    return {
        day: replace(index.days[day], paths_digest=digest)
        for day, digest in digests.items()
        if rows_digests.get(day, index.days[day].rows_digest) == index.days[day].rows_digest
    }


def _count_days(job: SummingJob, days: Sequence[Day]) -> dict[date, str]:
    rows_by_batch: dict[date, Counter[int]] = {day.date: Counter() for day in days}
    files = [(day.date, path) for day in days for path in day.paths]
    if files:
        tasks = job.spark.parallelize(files, -(-len(files) // FILES_COUNTED_PER_TASK))
        for day, counts in collect(tasks.mapValues(carry_errors(partial(count_rows, job.home, job.featurizer)))):
            rows_by_batch[day].update(counts)
    return {day: digest_of_rows(counts) for day, counts in rows_by_batch.items()}


def _stored_sums(job: SummingJob, index: StoredMonth, valid: dict[date, StoredDay]) -> tuple[RowSums, set[str]]:
    """The sums of the valid days, and the keys of those in the month's sum; days whose sum is gone leave `valid`."""
    is_valid = bool(index.summed) and set(index.summed) <= set(_keys(valid))
    of_month = read_sum(job.store, index.sum) if index.sum and is_valid else None
    no_sums = merge_sums((), job.length)
    sums, summed_keys = (of_month, set(index.summed)) if of_month else (no_sums, set[str]())
    for day, stored in list(valid.items()):
        if stored.sum and stored.sum.key not in summed_keys:
            of_day = read_sum(job.store, stored.sum)
            if of_day is None:
                del valid[day]
            else:
                sums = merge_sums((sums, of_day), job.length)
    return sums, summed_keys


def _keys(days: Mapping[date, StoredDay]) -> list[str]:
    return [stored.sum.key for _, stored in sorted(days.items()) if stored.sum]


def _read_days(job: SummingJob, days: Sequence[Day], keep: bool) -> _ReadDays:
    if not days:
        return _ReadDays(merge_sums((), job.length), no_corrections(job.length))
    tasks = [task for day in days for task in split_into_tasks(day)]
    reading = partial(_read_files, job.home, job.featurizer, job.length, job.after_batch, job.read_bytes, job.shared)
    summing_tasks = job.summing_tasks(min(len(days), job.spark.defaultParallelism))
    if len(tasks) == len(days):
        sums = job.spark.parallelize(tasks, summing_tasks).map(reading)
    else:
        sums = job.spark.parallelize(tasks, len(tasks)).map(reading).reduceByKey(_add, summing_tasks, int)
    paths_digests = {day.date: digest_of_paths(day.paths) for day in days}
    said_digests = {day.date: digest for day in days if (digest := job.said.digests.get(day.date))}
    parts = collect(sums.mapPartitions(partial(_store_days, job.store, job.length, paths_digests, said_digests, keep)))
    return _ReadDays(
        merge_sums((part.sums for part in parts), job.length),
        merge_corrections((part.corrections for part in parts), job.length),
        {day: stored for part in parts for day, stored in part.days.items()},
        next((part.refusal for part in parts if part.refusal), None),
    )


@carry_errors
def _read_files(
    home: Home,
    featurizer: str,
    length: int,
    after_batch: int,
    read_bytes: "Accumulator[int]",
    said: "Broadcast[SaidLabels]",
    task: Day,
) -> tuple[int, _TaskSum]:
    """The sum of a task's files, under the number of its day."""
    try:
        sums, rows_by_batch, corrections = sum_rows(home, featurizer, length, task, after_batch, said.value)
    except (NotFinite, StateDamaged) as error:
        # If it were raised, Spark would try again, and the sums of the month's other days would be lost.
        return task.date.toordinal(), _TaskSum(merge_sums((), length), no_corrections(length), refusal=error)
    read_bytes.add(task.size_bytes)
    freeze_worker_modules()
    return task.date.toordinal(), _TaskSum(sums, corrections, rows_by_batch)


def _add(one: _TaskSum, other: _TaskSum) -> _TaskSum:
    return _TaskSum(
        merge_sums((one.sums, other.sums), one.sums.length),
        merge_corrections((one.corrections, other.corrections), one.sums.length),
        Counter(one.rows_by_batch) + Counter(other.rows_by_batch),
        one.refusal or other.refusal,
    )


@carry_errors
def _store_days(
    store: StorageLocation,
    length: int,
    paths_digests: Mapping[date, str],
    said_digests: Mapping[date, str],
    keep: bool,
    days: Iterable[tuple[int, _TaskSum]],
) -> Iterator[_ReadDays]:
    """One sum of all days in a partition; with `keep` the sum of each is stored, too."""
    sums, corrections = merge_sums((), length), no_corrections(length)
    stored_days, refusal = {}, None
    for number, of_day in days:
        if of_day.refusal:
            refusal = of_day.refusal
            continue
        day, rows = date.fromordinal(number), of_day.sums.rows
        sums = merge_sums((sums, of_day.sums), length)
        corrections = merge_corrections((corrections, of_day.corrections), length)
        stored = write_sum(store, "days", f"{day}", of_day.sums) if keep and rows else None
        changed = write_corrections(store, day, of_day.corrections) if keep and of_day.corrections.rows else None
        rows_digest = digest_of_rows(of_day.rows_by_batch)
        stored_days[day] = StoredDay(paths_digests[day], rows_digest, rows, stored, said_digests.get(day), changed)
    freeze_worker_modules()
    yield _ReadDays(sums, corrections, stored_days, refusal)
