"""The moments of all feature rows of one featurizer, summed by Spark tasks: rows never come to the driver.

Sums are taken in one order: files by path within a day, days within a month (the finished ones, then the others), and
months. What is stored are the bytes that summing gives, so stored moments and those computed anew lead to the same
result to the last bit while the files are the same, and to about 1e-12 when they were compacted in between.
"""

import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from batch.days import SHARE_BYTES, Day, Share, count_rows, cut, digest_of_paths, digest_of_rows, list_days, sum_share
from batch.refit.stored_moments import (
    StoredDay,
    StoredMonth,
    StoredSum,
    delete_unused_sums,
    read_month,
    read_sum,
    store_of,
    write_day_sum,
    write_month,
    write_month_sum,
)
from features.errors import FruitsError
from features.featurizer import FEATURES
from features.pca import Moments, NotFinite, merged, packed, unpacked
from features.task_errors import carry_errors, last_words
from features.worker_process import freeze_worker_modules
from store.errors import JobFailed, StateDamaged
from store.home import Home
from store.objects.location import StorageLocation

if TYPE_CHECKING:
    from pyspark import RDD, Accumulator

_T = TypeVar("_T")

# A month ends in one task that adds up its days; other months keep the other slots busy. Each one can hold 13 MB of
# the driver.
FEWEST_MONTHS_AT_ONCE = 2
MOST_MONTHS_AT_ONCE = 4
FILES_COUNTED_PER_TASK = 32
SUMS_READ_AT_ONCE = 4
LOOK_S = 0.2


@dataclass(frozen=True)
class Summed:
    """The moments of every row of a featurizer, and what of it was read or came out of stored moments."""

    moments: Moments
    rows_read: int
    rows_stored: int
    days_read: tuple[date, ...]
    days_stored: tuple[date, ...]


def sum_moments(
    spark: SparkContext,
    home: Home,
    featurizer: str,
    *,
    full: bool,
    keep: bool,
    on_progress: Callable[[int, int], None],
) -> Summed:
    """Sum up the moments of all rows of a featurizer, reading features only of days whose stored moments do not hold.

    `full` trusts nothing stored; `keep` stores the moments of finished days, each month's as soon as it is summed, and
    removes what replaced ones left. `on_progress` gets bytes done and bytes in all from time to time, in this thread.
    Replay gives the same moments; a kill costs the months under way. The driver holds moments of a few months, however
    many rows, days and months there are. Raises NotFinite and StateDamaged, which name the day, for features that are
    no 1280 finite numbers, and keeps what it summed of other days; JobFailed, StorageUnavailable.
    """
    days = list_days(home)
    months = {month: list(its_days) for month, its_days in groupby(days, key=lambda day: f"{day.date:%Y-%m}")}
    total_bytes = sum(day.size_bytes for day in days)
    work = _Work(spark, home, featurizer, full, keep, f"fruits-moments-{uuid.uuid4().hex}", spark.accumulator(0))
    rows_read: dict[date, int] = {}
    rows_stored: dict[date, int] = {}

    def tell() -> None:
        stored_bytes = sum(day.size_bytes for day in days if day.date in rows_stored)
        # A task that is run again counts again.
        on_progress(min(work.read_bytes.value + stored_bytes, total_bytes), total_bytes)

    def parts() -> Iterator[Moments]:
        for month in _in_order(work, months, tell):
            rows_read.update(month.read)
            rows_stored.update(month.stored)
            yield from map(unpacked, month.parts)

    moments = merged(parts(), FEATURES)
    if keep:
        delete_unused_sums(work.store, months)
    on_progress(total_bytes, total_bytes)
    return Summed(
        moments,
        sum(rows_read.values()),
        sum(rows_stored.values()),
        tuple(sorted(rows_read)),
        tuple(sorted(rows_stored)),
    )


@dataclass(frozen=True)
class _Work:
    """What one call of `sum_moments` is about, on the driver."""

    spark: SparkContext
    home: Home
    featurizer: str
    full: bool
    keep: bool
    group: str
    read_bytes: "Accumulator[int]"

    @property
    def store(self) -> StorageLocation:
        return store_of(self.home, self.featurizer)


@dataclass(frozen=True)
class _MonthSum:
    """Packed moments of a month, of the finished days and of the others where there are rows; rows by day."""

    parts: tuple[bytes, ...]
    read: Mapping[date, int]
    stored: Mapping[date, int]


@dataclass(frozen=True)
class _ShareSum:
    """What a task read: packed moments, or None without rows, and the rows of each batch; or why it refuses them."""

    number: int
    body: bytes | None = None
    rows_by_batch: Mapping[int, int] = field(default_factory=dict)
    refused: FruitsError | None = None


@dataclass(frozen=True)
class _DaySum:
    """The sum of a day's shares: `stored` where it can be read from the store, so that it need not go through Spark."""

    date: date
    body: bytes | None = None
    rows: int = 0
    rows_digest: str = ""
    stored: StoredSum | None = None
    refused: FruitsError | None = None


@dataclass(frozen=True)
class _Fold:
    """How the last task of a month adds up its days: which are finished, and where those not read are stored.

    `base` is the sum of the finished days before those; `finished` is None when it is the sum of all.
    """

    month: str
    base: StoredSum | None
    finished: tuple[date, ...] | None
    others: tuple[date, ...]
    stored: Mapping[date, StoredSum]
    keep: bool


@dataclass(frozen=True)
class _Folded:
    """What the last task of a month found; it has no sums when objects are `lost` (missing or damaged) or days refused.

    `read` are the days that were read, without their moments and without the refused ones.
    """

    read: tuple[_DaySum, ...] = ()
    finished: bytes | None = None
    others: bytes | None = None
    sum: StoredSum | None = None
    lost: frozenset[str] = frozenset()
    refused: FruitsError | None = None


def _in_order(work: _Work, months: Mapping[str, list[Day]], tell: Callable[[], None]) -> Iterator[_MonthSum]:
    """Sums of months, oldest first, while a few later ones are under way."""
    at_once = min(max(work.spark.defaultParallelism, FEWEST_MONTHS_AT_ONCE), MOST_MONTHS_AT_ONCE)
    waiting = deque(months.items())
    running: deque[Future[_MonthSum]] = deque()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="moments")
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(pool.submit(_sum_month, work, *waiting.popleft()))
            while not running[0].done():
                wait([running[0]], LOOK_S)
                tell()
            yield running.popleft().result()
            tell()
    finally:
        # After a failure there are some; a thread between two jobs begins another one.
        while wait(running, 0).not_done:
            work.spark.cancelJobGroup(work.group)
            wait(running, LOOK_S)
        pool.shutdown()


def _sum_month(work: _Work, month: str, days: list[Day]) -> _MonthSum:
    work.spark.setJobGroup(work.group, f"moments of {month}")
    standing = read_month(work.store, month)
    trusted = StoredMonth() if work.full else standing
    lost: frozenset[str] = frozenset()
    while True:
        trusted = _without(trusted, lost)
        known = _known(work, [day for day in days if day.finished], trusted)
        finished = [day.date for day in days if day.finished]
        covered = _covered(trusted, finished, known)
        base, rest = trusted.sum if covered else None, finished[covered:]
        stored_sum = base if not any(day not in known or known[day].sum for day in rest) else None
        body = read_sum(work.store, stored_sum) if stored_sum else None
        if stored_sum and body is None:
            lost |= {stored_sum.key}
            continue
        folded = _fold(work, month, days, known, base, None if body else tuple(rest))
        if not folded.lost:
            break
        lost |= folded.lost
    if work.keep:
        after = _after(days, known, folded, stored_sum)
        if after != standing:
            write_month(work.store, month, after)
    if folded.refused is not None:
        raise folded.refused
    return _MonthSum(
        parts=tuple(part for part in (body or folded.finished, folded.others) if part is not None),
        read={day.date: day.rows for day in folded.read},
        stored={day: stored.rows for day, stored in known.items()},
    )


def _without(month: StoredMonth, lost: frozenset[str]) -> StoredMonth:
    days = {day: stored for day, stored in month.days.items() if not stored.sum or stored.sum.key not in lost}
    is_lost = month.sum is not None and month.sum.key in lost
    return replace(month, days=days, sum=None, summed=()) if is_lost else replace(month, days=days)


def _covered(month: StoredMonth, finished: Sequence[date], known: Mapping[date, StoredDay]) -> int:
    """How many of the finished days, from the first on, the month's stored sum adds up; 0 when it adds up others."""
    summed = deque(month.summed)
    for at, day in enumerate(finished):
        if not summed:
            return at
        if day not in known:
            return 0
        stored = known[day].sum
        if stored is not None and stored.key != summed.popleft():
            return 0
    return 0 if summed else len(finished)


def _known(work: _Work, finished: Sequence[Day], month: StoredMonth) -> dict[date, StoredDay]:
    """The stored days that hold, in order, each with the paths its files have now."""
    known = [day for day in finished if day.date in month.days]
    paths_digests = {day.date: digest_of_paths(day.paths) for day in known}
    moved = [day for day in known if month.days[day.date].paths_digest != paths_digests[day.date]]
    rows_digests = _counted(work, moved)
    return {
        day: replace(month.days[day], paths_digest=paths_digest)
        for day, paths_digest in paths_digests.items()
        if rows_digests.get(day, month.days[day].rows_digest) == month.days[day].rows_digest
    }


def _counted(work: _Work, days: Sequence[Day]) -> dict[date, str]:
    step = FILES_COUNTED_PER_TASK
    tasks = [(day.date, day.paths[at : at + step]) for day in days for at in range(0, len(day.paths), step)]
    rows_by_batch: dict[date, Counter[int]] = {day.date: Counter() for day in days}
    if tasks:
        counting = partial(_count_files, work.home, work.featurizer)
        for day, counted in _collected(work.spark.parallelize(tasks, len(tasks)).map(counting)):
            rows_by_batch[day].update(counted)
    return {day: digest_of_rows(counted) for day, counted in rows_by_batch.items()}


def _fold(
    work: _Work,
    month: str,
    days: Sequence[Day],
    known: Mapping[date, StoredDay],
    base: StoredSum | None,
    finished: tuple[date, ...] | None,
) -> _Folded:
    to_read = [day for day in days if day.date not in known]
    fold = _Fold(
        month=month,
        base=base,
        finished=finished,
        others=tuple(day.date for day in days if not day.finished),
        stored={day: stored.sum for day, stored in known.items() if stored.sum},
        keep=work.keep,
    )
    if not to_read and not (fold.finished and fold.stored):
        return _Folded()
    tasks = [(at, number, share) for at, day in enumerate(to_read) for number, share in enumerate(cut(day))]
    storing = frozenset(day.date for day in to_read if day.finished and work.keep)
    reading = partial(_read_share, work.home, work.featurizer, work.read_bytes)
    adding_shares = partial(_add_shares, work.store, tuple(day.date for day in to_read), storing)
    adding_days = partial(_add_days, work.store, fold)
    if sum(day.size_bytes for day in to_read) <= SHARE_BYTES:
        # A day's few new rows: three stages would take longer to begin than the work takes.
        day_sums = work.spark.parallelize(tasks, 1).map(reading).mapPartitions(adding_shares)
    else:
        share_sums = work.spark.parallelize(tasks, len(tasks)).map(reading)
        # Days of one share each are whole where they were read.
        its_days = share_sums if len(tasks) == len(to_read) else share_sums.partitionBy(len(to_read), int)
        day_sums = its_days.mapPartitions(adding_shares).partitionBy(1, int)
    return _collected(day_sums.mapPartitions(adding_days))[0]


def _after(
    days: Sequence[Day], known: Mapping[date, StoredDay], folded: _Folded, stored_sum: StoredSum | None
) -> StoredMonth:
    read = {day.date: day for day in folded.read}
    stored = dict(known)
    for day in days:
        if day.finished and day.date in read:
            new = read[day.date]
            stored[day.date] = StoredDay(digest_of_paths(day.paths), new.rows_digest, new.rows, new.stored)
    in_order = {day.date: stored[day.date] for day in days if day.date in stored}
    month_sum = folded.sum or stored_sum
    return StoredMonth(in_order, month_sum, _keys(in_order.values()) if month_sum else ())


def _keys(days: Iterable[StoredDay]) -> tuple[str, ...]:
    return tuple(day.sum.key for day in days if day.sum)


@carry_errors
def _count_files(home: Home, featurizer: str, task: tuple[date, Sequence[str]]) -> tuple[date, Counter[int]]:
    day, paths = task
    return day, count_rows(home, featurizer, paths)


@carry_errors
def _read_share(
    home: Home, featurizer: str, read_bytes: "Accumulator[int]", task: tuple[int, int, Share]
) -> tuple[int, _ShareSum]:
    at, number, share = task
    try:
        moments, rows_by_batch = sum_share(home, featurizer, share)
    except (NotFinite, StateDamaged) as error:
        # Raised, it would be tried again, and would take along what else the month's tasks have read.
        return at, _ShareSum(number, refused=error)
    read_bytes.add(share.size_bytes)
    freeze_worker_modules()
    return at, _ShareSum(number, packed(moments) if moments.rows else None, rows_by_batch)


@carry_errors
def _add_shares(
    store: StorageLocation, dates: Sequence[date], storing: frozenset[date], part: Iterable[tuple[int, _ShareSum]]
) -> Iterator[tuple[int, _DaySum]]:
    """The days whose shares are in a partition, stored when they are to be, for the one partition that comes next."""
    for at, group in groupby(part, key=itemgetter(0)):
        shares = sorted((share for _, share in group), key=attrgetter("number"))
        refused = next((share.refused for share in shares if share.refused), None)
        if refused is not None:
            yield 0, _DaySum(dates[at], refused=refused)
            continue
        day, body = dates[at], _added(share.body for share in shares if share.body)
        rows_by_batch: Counter[int] = Counter()
        for share in shares:
            rows_by_batch.update(share.rows_by_batch)
        stored = write_day_sum(store, day, body) if body and day in storing else None
        rows, digest = rows_by_batch.total(), digest_of_rows(rows_by_batch)
        yield 0, _DaySum(day, None if stored else body, rows, digest, stored)
    freeze_worker_modules()


@carry_errors
def _add_days(store: StorageLocation, fold: _Fold, part: Iterable[tuple[int, _DaySum]]) -> Iterator[_Folded]:
    """The one answer of a month's last task."""
    days = {day.date: day for _, day in sorted(part, key=lambda pair: pair[1].date)}
    read = tuple(replace(day, body=None) for day in days.values() if day.refused is None)
    refused = next((day.refused for day in days.values() if day.refused), None)
    if refused is not None:
        yield _Folded(read, refused=refused)
        return

    def parts(dates: Iterable[date]) -> list[StoredSum | bytes | None]:
        return [days[day].stored or days[day].body if day in days else fold.stored.get(day) for day in dates]

    lost: set[str] = set()
    # Added in the same order as ever, so that its bits are those of adding up all days again.
    in_order = [fold.base, *parts(fold.finished or ())]
    finished = _added(_bodies(store, in_order, lost)) if fold.finished is not None else None
    others = _added(_bodies(store, parts(fold.others), lost))
    if lost:
        yield _Folded(lost=frozenset(lost))
        return
    stored = write_month_sum(store, fold.month, finished) if fold.keep and finished else None
    yield _Folded(read, finished, others, stored)


def _bodies(store: StorageLocation, parts: Sequence[StoredSum | bytes | None], lost: set[str]) -> Iterator[bytes]:
    """Packed moments in this order, stored ones read a few at a time; the keys of those that are gone become `lost`."""
    there = [part for part in parts if part is not None]

    def body_of(part: StoredSum | bytes) -> bytes | None:
        return read_sum(store, part) if isinstance(part, StoredSum) else part

    with ThreadPoolExecutor(SUMS_READ_AT_ONCE, thread_name_prefix="sums") as pool:
        # Group by group, so that no more than these are held at once, however many days there are.
        for at in range(0, len(there), SUMS_READ_AT_ONCE):
            group = there[at : at + SUMS_READ_AT_ONCE]
            for part, body in zip(group, pool.map(body_of, group), strict=True):
                if body is not None:
                    yield body
                elif isinstance(part, StoredSum):
                    lost.add(part.key)


def _added(bodies: Iterable[bytes]) -> bytes | None:
    """Packed moments added up in this order; None without any."""
    there = iter(bodies)
    first, second = next(there, None), next(there, None)
    if first is None or second is None:
        return first
    return packed(merged(map(unpacked, chain((first, second), there)), FEATURES))


def _collected(results: "RDD[_T]") -> list[_T]:
    try:
        return results.collect()
    except Py4JJavaError as error:
        raise JobFailed(f"A task failed on every try: {last_words(error)}. Nothing was published; refit.") from error
