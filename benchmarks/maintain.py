"""What `fruits maintain` makes of a simulated month of small commits: files, log, and how long queries take.

python -m benchmarks.maintain [--days 30] [--commits 400] [--rows 4] [--turns 3] [--work DIR]

A stream with a trigger of 2 s commits up to 43,200 times a day. Here each day has `--commits` of `--rows` photos: the
same shapes of files and log, fewer of them. Every day's files and log are dated
to that day. Maintenance runs once at the end of the month, and again as if a day later.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table as Shown

from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from features.featurizer import FEATURES
from ops.query.query import connect, run_query
from store.home import Home
from store.models.pca_models import PcaMeta
from store.settings import load_settings
from store.tables import handles, unreferenced
from store.tables.commits import commit
from store.tables.files import data_files, vectors_column, write_file
from store.tables.handles import OpenTables, create_tables, open_table
from store.tables.projections import Projected, write_projections
from store.tables.schemas import FEATURE_ROWS, TABLES
from tests.support.feature_rows import made_columns

COMPONENTS = 64
# What a service of many queries asks: a number by label, and the photos most like one of them.
COUNT = "SELECT label, count(*) FROM features GROUP BY label"
NEAREST = """
    WITH one AS (SELECT features FROM features WHERE batch = 1 LIMIT 1)
    SELECT f.image_id, list_distance(f.features, one.features) AS distance FROM features f, one
    ORDER BY distance LIMIT 5
"""
ONE_DAY = "SELECT count(*), avg(width) FROM features WHERE ingest_date = DATE '{day}'"

console = Console(width=160)


@dataclass(frozen=True)
class Measured:
    """What one home costs; times are medians, in seconds."""

    files: int
    table_bytes: int
    log_files: int
    log_bytes: int
    open_s: float
    count_s: float
    day_s: float
    nearest_s: float


def main(
    days: Annotated[int, typer.Option(help="Days in the month.")] = 30,
    commits: Annotated[int, typer.Option(help="Commits a day; a trigger of 2 s would make 43,200.")] = 400,
    rows: Annotated[int, typer.Option(help="Photos in each commit.")] = 4,
    turns: Annotated[int, typer.Option(help="How often each query is asked.")] = 3,
    work: Annotated[Path | None, typer.Option(help="Where the tables are written.")] = None,
) -> None:
    """Print the table of docs/benchmarks.md, section "Maintenance"."""
    folder = Path(tempfile.mkdtemp(prefix="maintain-", dir=work))
    try:
        home = load_settings(home=f"{folder}/home").places()
        began_s = time.perf_counter()
        first = datetime.now(UTC).date() - timedelta(days=days)
        create_tables(home)
        tables = OpenTables(home)
        for day in range(days):
            _one_day(home, tables, first + timedelta(days=day), day * commits, commits, rows)
        console.print(f"{days} days of {commits} commits made in {time.perf_counter() - began_s:.0f} s.")
        before = _measured(home, first, turns)
        began_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ops", "maintain", "--home", str(home.root.directory)], check=True)
        took_s = time.perf_counter() - began_s
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        after = _measured(home, first, turns)
        began_s = time.perf_counter()
        _maintained_a_day_later(home)
        again_s = time.perf_counter() - began_s
        _show([("never maintained", before), ("maintained", after), ("a day later", _measured(home, first, turns))])
        console.print(f"The first run took {took_s:.1f} s and {peak_mb:,.0f} MB, the one a day later {again_s:.1f} s.")
    finally:
        shutil.rmtree(folder)


def _one_day(home: Home, tables: OpenTables, day: date, done: int, commits: int, rows: int) -> None:
    midnight_s = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    for number in range(commits):
        _commit_batch(home, tables, done + number + 1, day, rows)
    # Dated to their day: maintenance asks storage how old a file is.
    _date_files(home, time.time() - 3600, midnight_s)


def _commit_batch(home: Home, tables: OpenTables, batch: int, day: date, rows: int) -> None:
    labels = [("kiwi", "apple", "pear", "plum")[(batch + number) % 4] for number in range(rows)]
    columns = made_columns(home, batch, day, range(rows), "a benchmark") | {"label": labels}
    vectors = np.maximum(np.random.default_rng(batch).standard_normal((rows, FEATURES), np.float32), 0)
    features = columns | {"features": vectors_column(vectors)}
    rows_file = write_file(home, FEATURE_ROWS, features, {"ingest_date": f"{day}"})
    meta = PcaMeta(1, "a benchmark", 1, COMPONENTS, 1.0, datetime.now(UTC), None, None, "a benchmark")
    projected_file = write_projections(home, columns, Projected(meta, vectors[:, :COMPONENTS]), day)
    for table, adds in zip(TABLES, ([rows_file], [projected_file], []), strict=True):
        commit(home, table, batch, "a benchmark", adds, tables)


def _maintained_a_day_later(home: Home) -> None:
    """A run for which a day has passed since the last one: what that one replaced may go."""
    then_s = time.time() - 2 * 86400
    _date_files(home, then_s, then_s)
    # The log notes by the clock when a file was replaced.
    unreferenced.UNREFERENCED_KEPT = timedelta(0)
    handles.RETENTION["delta.deletedFileRetentionDuration"] = "interval 0 seconds"
    maintain(home, Retention(), print, lambda _: None)


def _date_files(home: Home, younger_than_s: float, to_s: float) -> None:
    for path in _stored(home):
        if path.stat().st_mtime > younger_than_s:
            os.utime(path, (to_s, to_s))


def _stored(home: Home) -> list[Path]:
    folders = [home.root.child(table.name).directory for table in TABLES]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def _measured(home: Home, first: date, turns: int) -> Measured:
    tables = [open_table(home, table) for table in TABLES]
    files = sum(len(data_files(handle)) for handle in tables if handle)
    sizes = {path: path.stat().st_size for path in _stored(home)}
    log = [size for path, size in sizes.items() if path.parent.name == "_delta_log"]
    return Measured(
        files=files,
        table_bytes=sum(sizes.values()) - sum(log),
        log_files=len(log),
        log_bytes=sum(log),
        open_s=_median_s(lambda: [open_table(home, table) for table in TABLES], turns),
        count_s=_median_s(lambda: run_query(connect(home), COUNT), turns),
        day_s=_median_s(lambda: run_query(connect(home), ONE_DAY.format(day=first + timedelta(days=1))), turns),
        nearest_s=_median_s(lambda: run_query(connect(home), NEAREST), turns),
    )


def _median_s(work: Callable[[], object], turns: int) -> float:
    return median(timeit.repeat(work, number=1, repeat=turns))


def _show(stages: list[tuple[str, Measured]]) -> None:
    shown = Shown("", *(name.replace("_", " ") for name in Measured.__annotations__))
    for name, found in stages:
        shown.add_row(name, *(f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for value in astuple(found)))
    ratios = zip(astuple(stages[0][1]), astuple(stages[-1][1]), strict=True)
    shown.add_row("before : a day later", *(f"{before / after:,.1f}" for before, after in ratios))
    console.print(shown)


if __name__ == "__main__":
    typer.run(main)
