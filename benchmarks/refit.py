"""How fast the PCA refit and the reprojection are, beside other ways, and what memory the driver needs.

python -m benchmarks.refit [--rows 100000] [--days 20] [--rounds 2] [--turns 3] [--no-rivals] [--work DIR] [--keep]
"""

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.refit_rivals.rows import add_days
from features.pca import principal_angles_rad
from store.errors import JobFailed
from store.home import Home
from store.models.pca_models import load_model
from store.models.registry import publish_featurizer
from store.settings import load_settings
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS

COMPONENTS = 64
# Directions that are far apart in variance, so that any two ways must find the same ones.
LEADING = 10
TIMES_THE_ROWS = 4

console = Console(width=150)


def main(
    rows: Annotated[
        int, typer.Option(help="Rows of 1280 features; for the memory also a quarter and four times.")
    ] = 100_000,
    days: Annotated[int, typer.Option(help="Past days that those rows are spread over.")] = 20,
    rounds: Annotated[int, typer.Option(help="How often this refit and Spark ML take turns.")] = 2,
    turns: Annotated[int, typer.Option(help="How often full and increment, reprojection and reading take turns.")] = 3,
    rivals: Annotated[bool, typer.Option(help="Measure Spark ML and scikit-learn too.")] = True,
    memory: Annotated[str, typer.Option(help="What Java may take for Spark ML.")] = "8g",
    work: Annotated[
        Path | None, typer.Option(help="Where the rows are written, 5 kB each, four times as many.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Leave the rows and the logs there.")] = False,
) -> None:
    """Print the tables of docs/benchmarks.md, section "The PCA refit"."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="refit-", dir=work))
    try:
        home = load_settings(home=f"{folder}/home").places()
        publish_featurizer(home, b"no network: rows are made by hand", "a benchmark", "a benchmark")
        a_day = -(-rows // days)
        _grow(home, rows // TIMES_THE_ROWS, a_day)
        peaks = [_ours(home, folder, "full")]
        _grow(home, rows, a_day)
        fits = _fits(home, folder, rounds, rivals, memory)
        peaks.append(fits[0])
        _print_increment(_ours(home, folder, "increment", turns)["turns"])
        _print_reprojection(_ours(home, folder, "reproject", turns)["turns"])
        _grow(home, TIMES_THE_ROWS * rows, a_day)
        peaks.append(_ours(home, folder, "full"))
        _print_peaks(peaks)
    finally:
        if keep:
            console.print(f"Everything is in {folder}.")
        else:
            shutil.rmtree(folder)


def _grow(home: Home, rows: int, a_day: int) -> None:
    """Add whole days and a last one until the table has so many rows."""
    handle = open_table(home, FEATURE_ROWS)
    missing = rows - sum(file.rows for file in data_files(handle)) if handle else rows
    add_days(home, [min(a_day, missing - done) for done in range(0, missing, a_day)])


def _fits(home: Home, folder: Path, rounds: int, rivals: bool, memory: str) -> list[dict[str, Any]]:
    """What this refit answered in each round."""
    table = Table(
        "rows", "moments, s", "whole refit, s", "Spark ML, s", "ratio", "angle of 64, rad", f"angle of {LEADING}, rad"
    )
    fits, theirs_s = [], []
    for _ in range(rounds):
        fit = _ours(home, folder, "full")
        fits.append(fit)
        row = [f"{fit['rows']:,}", f"{fit['moments_s']:.2f}", f"{fit['seconds']:.2f}"]
        if rivals:
            components = folder / "spark_ml.npy"
            theirs = _answer(folder, "spark_ml", "--home", home.root.uri, "--out", str(components), "--memory", memory)
            if theirs["rows"] != fit["rows"]:
                raise JobFailed(f"Spark ML read {theirs['rows']} rows and the refit {fit['rows']}; keep the two alike.")
            theirs_s.append(theirs["seconds"])
            row += [f"{theirs['seconds']:.1f}", f"{theirs['seconds'] / fit['seconds']:.1f}"]
            row += _angles(load_model(home, fit["version"]).pca.components, np.load(components))
        table.add_row(*row)
    console.print(table)
    if rivals:
        console.print(f"Spark ML's arithmetic is {theirs['blas']}.")
        _print_nights(home, folder, theirs_s)
        _print_incremental_pca(home, folder, fits)
    return fits


def _print_nights(home: Home, folder: Path, theirs_s: list[float]) -> None:
    """The refit as it is run every night beside Spark ML, which has to read everything each time."""
    table = Table("rows read", "rows stored", "moments, s", "whole refit, s", "Spark ML of all rows, s", "ratio")
    for seconds in theirs_s:
        night = _ours(home, folder, "night")
        row = [
            f"{night['rows']:,}",
            f"{night['rows_stored']:,}",
            f"{night['moments_s']:.2f}",
            f"{night['seconds']:.2f}",
        ]
        table.add_row(*row, f"{seconds:.1f}", f"{seconds / night['seconds']:.1f}")
    console.print(table)


def _angles(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> list[str]:
    """The largest principal angle between all components, and between the leading ones."""
    return [f"{principal_angles_rad(ours[:some], theirs[:some])[-1]:.1e}" for some in (COMPONENTS, LEADING)]


def _print_incremental_pca(home: Home, folder: Path, fits: list[dict[str, Any]]) -> None:
    if find_spec("sklearn") is None:
        console.print("scikit-learn is not installed here; `make benchmark` has it.")
        return
    theirs = _answer(folder, "incremental_pca", "--home", str(home.root.directory))
    rows = fits[-1]["rows"]
    scaled_s = theirs["seconds"] * rows / theirs["rows"]
    ours_s = sum(fit["seconds"] for fit in fits) / len(fits)
    table = Table("rows fitted", "IncrementalPCA, s", f"scaled to {rows:,} rows, s", "ratio to the whole refit's mean")
    table.add_row(f"{theirs['rows']:,}", f"{theirs['seconds']:.1f}", f"{scaled_s:.1f}", f"{scaled_s / ours_s:.1f}")
    console.print(table)


def _print_increment(turns: list[dict[str, Any]]) -> None:
    table = Table("", *(f"turn {number}, s" for number in range(1, len(turns) + 1)), "best, s", "of full", "rows read")
    best_s = {what: min(turn[what]["seconds"] for turn in turns) for what in turns[0]}
    names = {"full": "all days", "increment": "one new day of 1 %", "nothing": "nothing new"}
    for what, name in names.items():
        seconds = [f"{turn[what]['seconds']:.2f}" for turn in turns]
        share = f"{100 * best_s[what] / best_s['full']:.1f} %"
        table.add_row(name, *seconds, f"{best_s[what]:.2f}", share, f"{turns[-1][what]['rows']:,}")
    console.print(table)


def _print_reprojection(turns: list[dict[str, Any]]) -> None:
    table = Table("rows", "reprojected, rows/s", "only read, rows/s", "share")
    for turn in turns:
        rates = [turn[what]["rows"] / turn[what]["seconds"] for what in ("reproject", "read")]
        if turn["reproject"]["rows"] != turn["read"]["rows"]:
            raise JobFailed(f"{turn} reprojected other rows than it read; keep the two alike.")
        row = [f"{turn['read']['rows']:,}", *(f"{rate:,.0f}" for rate in rates)]
        table.add_row(*row, f"{100 * rates[0] / rates[1]:.0f} %")
    console.print(table)


def _print_peaks(peaks: list[dict[str, Any]]) -> None:
    table = Table("rows", "moments, s", "whole refit, s", "driver's Python, peak MB", "x", "its Java, peak MB", "x")
    for peak in peaks:
        row = [f"{peak['rows']:,}", *(f"{peak[phase]:.2f}" for phase in ("moments_s", "seconds"))]
        for memory in ("python_mb", "java_mb"):
            row += [f"{peak[memory]:.0f}", f"{peak[memory] / peaks[0][memory]:.2f}"]
        table.add_row(*row)
    console.print(table)


def _ours(home: Home, folder: Path, work: str, turns: int = 1) -> dict[str, Any]:
    return _answer(folder, "ours", "--home", home.root.uri, "--work", work, "--turns", str(turns))


def _answer(folder: Path, name: str, *flags: str) -> dict[str, Any]:
    """What one way, in a process of its own, says on one line. Raises JobFailed with its last words."""
    command = [sys.executable, "-m", f"benchmarks.refit_rivals.{name}", *flags, "--components", str(COMPONENTS)]
    if name == "spark_ml":
        console.print("Spark ML is at it; it can take minutes.", style="dim")
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, check=False)
    if done.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise JobFailed(f"{name} ended with {done.returncode}: {last}.")
    line: dict[str, Any] = json.loads(done.stdout)
    return line


if __name__ == "__main__":
    typer.run(main)
