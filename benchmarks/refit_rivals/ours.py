"""This project's refit and reprojection under the clock, in a process of its own; prints one JSON line.

python -m benchmarks.refit_rivals.ours --home DIR --work full|night|increment|reproject [--turns 3] [--labels 100]
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal

import typer
from pyspark import SparkContext

from batch.days import Day, list_days, split_into_tasks
from batch.refit.refit import RefitOptions, refit
from batch.refit.sums import sum_days
from batch.reproject import reproject
from benchmarks.refit_rivals.rows import LABELS, add_days
from benchmarks.rivals.job import answering, peak_mb
from bootstrap.programs import use_java
from store.home import Home
from store.models.pca_models import begin_switch, finish_switch
from store.models.registry import current_featurizer
from store.settings import load_settings
from store.tables.files import read_file
from store.tables.labels import said_labels
from store.tables.projections import KEPT_COLUMNS
from store.tables.schemas import FEATURE_ROWS
from streaming.session import spark_session
from tests.support.said import say

COMPONENTS = 64


def main(
    home: Annotated[str, typer.Option()],
    work: Annotated[Literal["full", "night", "increment", "reproject"], typer.Option()],
    turns: Annotated[int, typer.Option()] = 1,
    labels: Annotated[int, typer.Option(help="How many labels the rows of another day have; 0 for none.")] = LABELS,
) -> None:
    """Do the work that the command line asks for; a session is there before the clock starts."""
    use_java()
    settings = load_settings(home=home)
    places = settings.places()
    with answering() as answer, spark_session(settings.master, "benchmark") as (session, _):
        spark = session.sparkContext
        if work in ("full", "night"):
            answer(_refit(spark, places, labels, full=work == "full"))
        else:
            turn, warm_up = (
                (partial(_increment, labels=labels), _sum_rows) if work == "increment" else (_reproject, _read)
            )
            # Workers have started then, and know their modules.
            warm_up(spark, places)
            answer({"turns": [turn(spark, places) for _ in range(turns)]})


def _refit(spark: SparkContext, home: Home, labels: int, full: bool) -> dict[str, Any]:
    """One whole refit that uses nothing stored, or one after another day, and the most memory that its driver had."""
    if not full:
        _add_one_day(home, labels)
    progress_s: list[float] = []
    started_s = time.perf_counter()
    done = refit(
        spark, home, RefitOptions(COMPONENTS, None, 2), False, full, lambda *_: progress_s.append(time.perf_counter())
    )
    ended_s = time.perf_counter()
    # What comes after it is what calibrates the next one.
    finish_switch(home, begin_switch(home, done.meta.version), done.meta.featurizer)
    java: Any = spark._jvm
    return {
        "rows": done.rows_read,
        "rows_stored": done.rows_stored,
        "version": done.meta.version,
        "labels": done.meta.labels,
        "calibrated": done.meta.calibrated,
        "seconds": ended_s - started_s,
        # Progress is reported for the last time when the sums are complete.
        "moments_s": progress_s[-1] - started_s,
        "python_mb": peak_mb(),
        "java_mb": peak_mb(java.java.lang.ProcessHandle.current().pid()),
    }


def _add_one_day(home: Home, labels: int) -> None:
    """Another day of a hundredth of the rows."""
    add_days(home, [sum(file.rows for day in list_days(home) for file in day.files) // 100], labels)


def _increment(spark: SparkContext, home: Home, labels: int) -> dict[str, Any]:
    """Moments of everything, of one more day, of nothing new, and after people labelled photos of a day."""
    full = _timed(lambda: _sum_rows(spark, home))
    _add_one_day(home, labels)
    increment, nothing = (_timed(lambda: _sum_rows(spark, home, full=False)) for _ in range(2))
    _correct_a_day(home)
    said, known = (_timed(lambda: _sum_rows(spark, home, full=False)) for _ in range(2))
    return {"full": full, "increment": increment, "nothing": nothing, "said": said, "known": known}


def _correct_a_day(home: Home) -> None:
    """Say something new of 100 photos of the largest day."""
    day = max(list_days(home), key=lambda day: day.size_bytes)
    rows = (rows for path in day.paths for rows in read_file(home, FEATURE_ROWS, path, ["image_id"]))
    images = [image_id for part in rows for image_id in part["image_id"].to_pylist()]
    say(home, images[:: max(1, len(images) // 100)][:100], f"said at {time.time()}", day.date)


def _sum_rows(spark: SparkContext, home: Home, full: bool = True) -> int:
    """Sum up the moments, and say how many rows were read for it."""
    featurizer = str(current_featurizer(home))
    days, said = list_days(home), said_labels(home)
    summed = sum_days(spark, home, featurizer, days, full=full, keep=True, on_progress=lambda *_: None, said=said)
    return sum(summed.rows_read.values()) + sum(summed.rows_followed.values())


def _reproject(spark: SparkContext, home: Home) -> dict[str, Any]:
    """All rows projected with a new version, and all of them only read."""
    refit(spark, home, RefitOptions(COMPONENTS, None, 2), False, False, lambda *_: None)

    def project_rows() -> int:
        done = reproject(spark, home, partial(print, file=sys.stderr), lambda *_: None)
        return done.rows if done else 0

    return {"reproject": _timed(project_rows), "read": _timed(lambda: _read(spark, home))}


def _timed(work: Callable[[], int]) -> dict[str, float]:
    started_s = time.perf_counter()
    rows = work()
    return {"rows": rows, "seconds": time.perf_counter() - started_s}


def _read(spark: SparkContext, home: Home) -> int:
    """Read what a reprojection reads, a job for each day and as many days at once, and count the rows."""

    def read_day(tasks: Sequence[Day]) -> int:
        return sum(spark.parallelize(tasks, len(tasks)).mapPartitions(partial(_count, home)).collect())

    with ThreadPoolExecutor(spark.defaultParallelism) as pool:
        return sum(pool.map(read_day, map(split_into_tasks, list_days(home))))


def _count(home: Home, tasks: Iterable[Day]) -> list[int]:
    paths = [path for task in tasks for path in task.paths]
    columns = [*KEPT_COLUMNS, "features"]
    return [rows.num_rows for path in paths for rows in read_file(home, FEATURE_ROWS, path, columns)]


if __name__ == "__main__":
    typer.run(main)
