"""This project's refit and reprojection under the clock, in a process of its own; prints one JSON line.

python -m benchmarks.refit_rivals.ours --home DIR --work full|night|increment|reproject [--turns 3] [--components 64]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from pyspark import SparkContext

from batch.days import ReadTask, list_days, split_into_tasks
from batch.refit.moments import sum_moments
from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from benchmarks.refit_rivals.rows import add_days
from benchmarks.rivals.job import answering, own_peak_mb
from bootstrap.java import use_java
from store.errors import StateDamaged
from store.home import Home
from store.models.registry import current_featurizer
from store.settings import load_settings
from store.tables.files import read_file
from store.tables.projections import KEPT_COLUMNS
from store.tables.schemas import FEATURE_ROWS
from streaming.session import spark_session


def main() -> None:
    """Do the work that the command line asks for; a session is there before the clock starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", required=True)
    parser.add_argument("--work", choices=tuple(_WORK), required=True)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--components", type=int, default=64)
    asked = parser.parse_args()
    use_java()
    settings = load_settings(home=asked.home)
    with answering() as answer, spark_session(settings.master, "benchmark") as (session, _):
        answer(_WORK[asked.work](session.sparkContext, settings.places(), asked))


def _full(spark: SparkContext, home: Home, asked: argparse.Namespace) -> dict[str, Any]:
    """One whole refit that trusts nothing stored, and the most memory that its driver had, Python's and Java's."""
    return _refit(spark, home, asked, full=True)


def _night(spark: SparkContext, home: Home, asked: argparse.Namespace) -> dict[str, Any]:
    """One whole refit after another day of a hundredth of the rows, as it is run every night."""
    rows = sum(file.rows for day in list_days(home) for file in day.files)
    add_days(home, [rows // 100])
    return _refit(spark, home, asked, full=False)


def _refit(spark: SparkContext, home: Home, asked: argparse.Namespace, full: bool) -> dict[str, Any]:
    told_s: list[float] = []
    started_s = time.perf_counter()
    done = refit(spark, home, _wanted(asked), False, full, lambda *_: told_s.append(time.perf_counter()))
    ended_s = time.perf_counter()
    return {
        "rows": done.rows_read,
        "rows_stored": done.rows_stored,
        "version": done.meta.version,
        "seconds": ended_s - started_s,
        # The last word on progress comes when the sums are complete.
        "moments_s": told_s[-1] - started_s,
        "python_mb": own_peak_mb(),
        "java_mb": _java_peak_mb(spark),
    }


def _increment(spark: SparkContext, home: Home, asked: argparse.Namespace) -> dict[str, Any]:
    """Moments of everything, of one more day of a hundredth of the rows, and of nothing new, by turns."""
    featurizer = current_featurizer(home)
    if featurizer is None:
        raise StateDamaged(f"{home.root.uri} has no featurizer; publish one first.")
    sums = partial(sum_moments, spark, home, featurizer, keep=True, on_progress=lambda *_: None)
    # Workers have started and know their modules.
    rows = sums(full=True).moments.rows
    turns = []
    for _ in range(asked.turns):
        add_days(home, [rows // 100])
        turns.append(
            {
                "increment": _timed(lambda: sum(sums(full=False).rows_read.values())),
                "nothing": _timed(lambda: sum(sums(full=False).rows_read.values())),
                "full": _timed(lambda: sum(sums(full=True).rows_read.values())),
            }
        )
    return {"turns": turns}


def _reproject(spark: SparkContext, home: Home, asked: argparse.Namespace) -> dict[str, Any]:
    """All rows projected with a new version, and all of them only read, by turns."""
    # Workers have started and know their modules.
    _read(spark, home)
    turns = []
    for _ in range(asked.turns):
        refit(spark, home, _wanted(asked), False, False, lambda *_: None)
        turns.append(
            {"reproject": _timed(lambda: _reprojected(spark, home)), "read": _timed(lambda: _read(spark, home))}
        )
    return {"turns": turns}


def _wanted(asked: argparse.Namespace) -> RefitOptions:
    return RefitOptions(components=asked.components, variance=None, min_rows=2)


def _timed(work: Callable[[], int]) -> dict[str, float]:
    started_s = time.perf_counter()
    rows = work()
    return {"rows": rows, "seconds": time.perf_counter() - started_s}


def _reprojected(spark: SparkContext, home: Home) -> int:
    done = reproject(spark, home, partial(print, file=sys.stderr), lambda *_: None)
    return done.rows if done else 0


def _read(spark: SparkContext, home: Home) -> int:
    """Read what a reprojection reads, a job for each day and as many days at once, and count the rows."""

    def read_day(tasks: Sequence[ReadTask]) -> int:
        return sum(spark.parallelize(tasks, len(tasks)).mapPartitions(partial(_count, home)).collect())

    with ThreadPoolExecutor(spark.defaultParallelism) as pool:
        return sum(pool.map(read_day, [split_into_tasks(day) for day in list_days(home)]))


def _count(home: Home, tasks: Iterable[ReadTask]) -> list[int]:
    columns = [*KEPT_COLUMNS, "features"]
    return [
        rows.num_rows for task in tasks for path in task.paths for rows in read_file(home, FEATURE_ROWS, path, columns)
    ]


def _java_peak_mb(spark: SparkContext) -> float:
    """The most memory the Java process ever had in RAM, heap included; NaN where there is no /proc."""
    java: Any = spark._jvm
    status = Path(f"/proc/{java.java.lang.ProcessHandle.current().pid()}/status")
    if not status.exists():
        return float("nan")
    kilobytes = next(row.split()[1] for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


_WORK = {"full": _full, "night": _night, "increment": _increment, "reproject": _reproject}


if __name__ == "__main__":
    main()
