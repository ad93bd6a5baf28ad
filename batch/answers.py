"""Answers written anew: what the served version says of the photos of the last days."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from features.task_errors import carry_errors, last_words
from features.worker_process import freeze_worker_modules
from store.answers.answer import Answer, read_answer
from store.answers.batch import answers_of_batch, photo_answer
from store.answers.progress import answered_through
from store.answers.written import write_unless_erased
from store.errors import JobFailed
from store.home import Home
from store.models.pca_models import current_models
from store.objects.landing import stat_object
from store.objects.location import StorageLocation
from store.state.lease import hold_lease
from store.state.plans import read_plan, read_result
from store.tables.files import data_files, read_file
from store.tables.handles import open_tables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, Table

# What a task holds of a day's rows, without their vectors.
TASK_ROWS = 20_000
# On S3 most of the time of a stored answer is waiting for it.
_READ_AT_ONCE = 16
_PHOTO_COLUMNS = ("image_id", "source", "etag", "arrived_at", "batch")
_NAMED_COLUMNS = ("source", "batch", "predicted", "confidence", "top3", "novelty")


def answer_again(
    spark: SparkContext,
    home: Home,
    since: date,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """Write what the served version says of the photos ingested since a day as their answers; returns how many.

    Answers of batches that the stream has in hand are left to it; an answer to a later version of an object stays, and
    so does that to a photo that the served version did not project. `say` gets waits in words, `on_progress` rows done
    and rows in all. Killed at any point, a replay writes the rest; the same answer is not written twice. Raises
    HomeInUse, JobFailed, StateDamaged, StorageUnavailable.
    """
    with hold_lease(home, "fruits reproject", say) as check:
        return _answer_days(spark, home, since, on_progress, check)


def _answer_days(
    spark: SparkContext,
    home: Home,
    since: date,
    on_progress: Callable[[int, int], None],
    check: Callable[[], None],
) -> int:
    serving = current_models(home).serving
    if serving is None:
        return 0
    tables = open_tables(home)
    answered = answered_through(home)
    through = tables.committed_to_all if answered is None else min(answered, tables.committed_to_all)
    photos = _files_by_day(tables[FEATURE_ROWS], since, None)
    named = _files_by_day(tables[PROJECTION_ROWS], since, serving)
    done, total = 0, sum(rows for _, rows in photos.values())
    keys: set[str] = set()
    for day, (paths, rows) in sorted(photos.items()):
        check()
        on_progress(done, total)
        shares = -(-rows // TASK_ROWS)
        tasks = [
            _Task(home, serving, through, paths, named.get(day, ((), 0))[0], share, shares) for share in range(shares)
        ]
        try:
            for written in spark.parallelize(tasks, shares).mapPartitions(_answer_tasks).collect():
                keys.update(written)
        except Py4JJavaError as error:
            raise JobFailed(f"Answering {day} failed on every try: {last_words(error)}.") from error
        done += rows
    on_progress(done, total)
    _put_later_ones_right(home, keys, through)
    return len(keys)


@dataclass(frozen=True)
class _Task:
    """The rows of a day up to a batch whose sources are of one of several shares, and what a version says of them."""

    home: Home
    version: int
    through: int
    photos: tuple[str, ...]
    named: tuple[str, ...]
    share: int
    shares: int


def _files_by_day(
    handle: DeltaTable | None, since: date, version: int | None
) -> dict[date, tuple[tuple[str, ...], int]]:
    found: dict[date, tuple[tuple[str, ...], int]] = {}
    for file in data_files(handle):
        day = file.partition["ingest_date"]
        if day >= since and file.partition.get("pca_version") == version:
            paths, rows = found.get(day, ((), 0))
            found[day] = (*paths, file.path), rows + file.rows
    return found


@carry_errors
def _answer_tasks(tasks: Iterable[_Task]) -> Iterator[list[str]]:
    for task in tasks:
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="answers") as pool:
            found = pool.map(partial(_news_of, task.home), _answers_of(task))
            answers = [answer for answer in found if answer is not None]
        write_unless_erased(task.home, task.home.landings, answers)
        yield [answer.key for answer in answers]
    freeze_worker_modules()


def _answers_of(task: _Task) -> Iterator[tuple[StorageLocation, list[Answer]]]:
    """Of each object, in its landing: the answers to its versions, the one that came last at the end."""
    said = {(row["source"], row["batch"]): row for row in _rows(task, PROJECTION_ROWS, task.named, _NAMED_COLUMNS)}
    # Of a photo's rows, one of each network, one is enough.
    versions: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in _rows(task, FEATURE_ROWS, task.photos, _PHOTO_COLUMNS):
        versions[row["source"]][row["batch"]] = row
    for source, of_batches in versions.items():
        found = task.home.landing_of(source)
        rows = sorted(of_batches.values(), key=lambda row: (row["arrived_at"], row["batch"]))
        if found is not None and (source, rows[-1]["batch"]) in said:
            landing, key = found
            named = [(row, said[source, row["batch"]]) for row in rows if (source, row["batch"]) in said]
            yield landing, [photo_answer(key, row, task.version, of_row) for row, of_row in named]


def _rows(task: _Task, table: Table, paths: Iterable[str], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for rows in read_file(task.home, table, path, columns):
            up_to = rows.filter(pc.less_equal(rows["batch"], pa.scalar(task.through, pa.int64())))
            yield from (row for row in up_to.to_pylist() if _share_of(row["source"], task.shares) == task.share)


def _share_of(source: str, shares: int) -> int:
    return sum(source.encode("utf-8", "surrogatepass")) % shares


def _news_of(home: Home, of_object: tuple[StorageLocation, Sequence[Answer]]) -> Answer | None:
    """The answer to write to the last version, if it is news; the stored one may speak of a version that came later."""
    landing, versions = of_object
    newest = versions[-1]
    stored = read_answer(home, newest.key)
    if stored is not None and stored.etag != newest.etag and _is_there(landing, stored):
        newest = next((version for version in versions if version.etag == stored.etag), stored)
    return newest if _is_news(newest, stored) else None


def _is_there(landing: StorageLocation, answer: Answer) -> bool:
    # On disk a file that takes another one's place can have an older time.
    landed = stat_object(landing, answer.key) if landing.is_local else None
    return landed is not None and landed.etag == answer.etag


def _is_news(answer: Answer, stored: Answer | None) -> bool:
    return stored is None or (stored != answer and not stored.is_of_later_version_than(answer))


def _put_later_ones_right(home: Home, keys: set[str], through: int) -> None:
    """Write the answers of batches that were committed meanwhile once more, where this may have overwritten them."""
    seen = through
    while (committed := open_tables(home).committed_to_all) > seen:
        for batch in range(seen + 1, committed + 1):
            plan = read_plan(home, batch)
            if plan is None or not any(landed.key in keys for landed in plan.objects):
                continue
            answers = answers_of_batch(home, batch, plan, read_result(home, batch))
            ours = (answer for answer in answers if answer.key in keys)
            again = [answer for answer in ours if _is_news(answer, read_answer(home, answer.key))]
            write_unless_erased(home, home.landings, again)
        seen = committed
