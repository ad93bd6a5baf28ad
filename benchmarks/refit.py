"""How fast the PCA refit and the reprojection are, beside Spark ML, and what memory the driver needs.

python -m benchmarks.refit [--rows 100000] [--days 20] [--rounds 2] [--turns 3] [--no-rivals] [--work DIR]
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.refit_rivals.ours import COMPONENTS
from benchmarks.refit_rivals.rows import LABELS, add_days
from features.pca import principal_angles_rad
from store.errors import JobFailed
from store.home import Home
from store.models.pca_models import load_model
from store.models.registry import publish_featurizer
from store.settings import load_settings
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS

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
    rivals: Annotated[bool, typer.Option(help="Measure Spark ML too.")] = True,
    work: Annotated[
        Path | None, typer.Option(help="Where the rows are written, 5 kB each, four times as many.")
    ] = None,
) -> None:
    """Print the tables of docs/benchmarks.md, section "The PCA refit"."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="refit-", dir=work) as made:
        folder = Path(made)
        home, a_day = _made_home(folder / "home"), -(-rows // days)
        _grow(home, rows // TIMES_THE_ROWS, a_day)
        peaks = [_ours(home, folder, "full")]
        _grow(home, rows, a_day)
        peaks.append(_print_fits(home, folder, rounds, rivals))
        _print_increment(_ours(home, folder, "increment", turns)["turns"])
        _print_reprojection(_ours(home, folder, "reproject", turns)["turns"])
        _print_cost_of_names(folder, rows, a_day, rounds)
        _grow(home, TIMES_THE_ROWS * rows, a_day)
        peaks.append(_ours(home, folder, "full"))
        _print_peaks(peaks)


def _made_home(folder: Path) -> Home:
    home = load_settings(home=str(folder)).places()
    publish_featurizer(home, b"no network: rows are made by hand", "a benchmark", "a benchmark")
    return home


def _grow(home: Home, rows: int, a_day: int, labels: int = LABELS) -> None:
    """Add whole days and a last one until the table has so many rows."""
    handle = open_table(home, FEATURE_ROWS)
    missing = rows - sum(file.rows for file in data_files(handle)) if handle else rows
    add_days(home, [min(a_day, missing - done) for done in range(0, missing, a_day)], labels)


def _print_fits(home: Home, folder: Path, rounds: int, rivals: bool) -> dict[str, Any]:
    """Full refits and nightly ones, each beside Spark ML, which reads everything each time; returns the first."""
    fits, lines, nights = [], [], []
    for _ in range(rounds):
        fit = _ours(home, folder, "full")
        fits.append(fit)
        line = [f"{fit['rows']:,}", f"{fit['moments_s']:.2f}", f"{fit['seconds']:.2f}"]
        if rivals:
            console.print("Spark ML is at it; it can take minutes.", style="dim")
            out = folder / "spark_ml.npy"
            theirs = _answer(folder, "spark_ml", "--home", home.root.uri, "--out", str(out))
            if theirs["rows"] != fit["rows"]:
                raise JobFailed(f"Spark ML read {theirs['rows']} rows and the refit {fit['rows']}; keep the two alike.")
            ours, other = load_model(home, fit["version"]).pca.components, np.load(out)
            angles = [f"{principal_angles_rad(ours[:some], other[:some])[-1]:.1e}" for some in (COMPONENTS, LEADING)]
            line += [f"{theirs['seconds']:.1f}", f"{theirs['seconds'] / fit['seconds']:.1f}", *angles]
            nights.append((theirs["seconds"], theirs["blas"]))
        lines.append(line)
    angles_of = [f"angle of {some}, rad" for some in (COMPONENTS, LEADING)]
    _print_table(("rows", "moments, s", "whole refit, s", "Spark ML, s", "ratio", *angles_of), lines)
    lines = []
    for theirs_s, blas in nights:
        night = _ours(home, folder, "night")
        line = [f"{night['rows']:,}", f"{night['rows_stored']:,}", f"{night['moments_s']:.2f}"]
        lines.append([*line, f"{night['seconds']:.2f}", f"{theirs_s:.1f}", f"{theirs_s / night['seconds']:.1f}", blas])
    _print_table(("rows read", "stored", "moments, s", "whole refit, s", "Spark ML of all, s", "ratio", "BLAS"), lines)
    return fits[0]


def _print_increment(turns: list[dict[str, Any]]) -> None:
    best_s = {work: min(turn[work]["seconds"] for turn in turns) for work in turns[0]}
    lines = []
    names = {
        "full": "all days",
        "increment": "one new day of 1 %",
        "nothing": "nothing new",
        "said": "100 labels of one day",
        "known": "nothing new again",
    }
    for work, name in names.items():
        seconds = [f"{turn[work]['seconds']:.2f}" for turn in turns]
        share = f"{100 * best_s[work] / best_s['full']:.1f} %"
        lines.append([name, *seconds, f"{best_s[work]:.2f}", share, f"{turns[-1][work]['rows']:,}"])
    _print_table(("", *(f"turn {at + 1}, s" for at in range(len(turns))), "best, s", "of full", "rows read"), lines)


def _print_reprojection(turns: list[dict[str, Any]]) -> None:
    lines = []
    for turn in turns:
        if turn["reproject"]["rows"] != turn["read"]["rows"]:
            raise JobFailed(f"{turn} reprojected other rows than it read; keep the two alike.")
        rates = [turn[work]["rows"] / turn[work]["seconds"] for work in ("reproject", "read")]
        share = f"{100 * rates[0] / rates[1]:.0f} %"
        lines.append([f"{turn['read']['rows']:,}", *(f"{rate:,.0f}" for rate in rates), share])
    _print_table(("rows", "reprojected, rows/s", "only read, rows/s", "share"), lines)


def _print_cost_of_names(folder: Path, rows: int, a_day: int, rounds: int) -> None:
    """Refits of the same rows with and without labels, in turns: full ones, then nightly ones."""
    homes = {name: (_made_home(folder / name), count) for name, count in {"without": 0, "with": LABELS}.items()}
    for home, count in homes.values():
        _grow(home, rows, a_day, count)
    lines = []
    for work in ("full", "night"):
        for _ in range(rounds):
            answers = {name: _ours(home, folder, work, labels=count) for name, (home, count) in homes.items()}
            seconds = [answers[name][phase] for phase in ("moments_s", "seconds") for name in homes]
            ratio = answers["with"]["seconds"] / answers["without"]["seconds"]
            state = "calibrated" if answers["with"]["calibrated"] else "uncalibrated"
            lines.append([work, *(f"{each:.2f}" for each in seconds), f"{ratio:.2f}", state])
    whole = [f"{phase} {name} labels, s" for phase in ("sums", "whole refit") for name in homes]
    _print_table(("refit", *whole, "ratio", f"{LABELS} labels"), lines)


def _print_peaks(peaks: list[dict[str, Any]]) -> None:
    lines = []
    for peak in peaks:
        line = [f"{peak['rows']:,}", *(f"{peak[phase]:.2f}" for phase in ("moments_s", "seconds"))]
        for memory in ("python_mb", "java_mb"):
            line += [f"{peak[memory]:.0f}", f"{peak[memory] / peaks[0][memory]:.2f}"]
        lines.append(line)
    columns = ("rows", "moments, s", "whole refit, s", "driver's Python, peak MB", "x", "its Java, peak MB", "x")
    _print_table(columns, lines)


def _print_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    table = Table(*columns)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _ours(home: Home, folder: Path, work: str, turns: int = 1, labels: int = LABELS) -> dict[str, Any]:
    flags = ("--home", home.root.uri, "--work", work, "--turns", f"{turns}", "--labels", f"{labels}")
    return _answer(folder, "ours", *flags)


def _answer(folder: Path, name: str, *flags: str) -> dict[str, Any]:
    """What one way, in a process of its own, says on one line. Raises JobFailed with its last words."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", f"benchmarks.refit_rivals.{name}", *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, check=False)
    if done.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise JobFailed(f"{name} ended with {done.returncode}: {last}.")
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    typer.run(main)
