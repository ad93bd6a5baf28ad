"""What answers to the app cost the stream, and how long after its row a photo's answer is there; on an S3 server.

python -m benchmarks.answers [--photos DIR] [--size 1.0] [--rounds 3] [--seconds 60] [--labels 100]
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import Corpus, make_corpus
from benchmarks.rivals.job import CORES, photo_files
from benchmarks.service import SteadyState, reports, running_stream, serve_version, steady_state
from bootstrap.weights.weights import compile_weights
from ops.query.query import connect, run_query
from store.answers.answer import read_answer
from store.objects.operations import overwrite
from store.settings import Settings, load_settings
from tests.support.servers import REGION, made_bucket, s3_server

# The service's first two batches do not count; two or three follow.
FILES = 7500
WARM_UP_PHOTOS = 5
_POLL_S = 0.02

console = Console(width=150)


def main(
    photos: Annotated[Path | None, typer.Option(help="Labelled photos to make the corpus from; else drawn.")] = None,
    size: Annotated[float, typer.Option(help="Share of the usual number of photos.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="How often both take turns.")] = 3,
    seconds: Annotated[int, typer.Option(help="How long photos trickle, one a second; 0 for not at all.")] = 60,
    labels: Annotated[int, typer.Option(help="How many labels the served version names.")] = 100,
) -> None:
    """Print the tables of docs/benchmarks.md: 350 px, without and with answers in turns, then a trickle with them."""
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWS_REGION=REGION)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = compile_weights("untrained:7", print).network
        corpus = make_corpus(folder / "corpus", "350px", int(size * FILES), photos)
        console.print(f"{corpus.description}.")
        # In turns that begin with each of the two as often.
        orders = [(False, True) if number % 2 == 0 else (True, False) for number in range(rounds)]
        turns = [{on: _backlog(corpus, network, folder, labels, on) for on in order} for order in orders]
        if turns:
            _print_turns(turns)
        if seconds:
            _print_trickle(_trickle(corpus, network, folder, labels, seconds))


@contextmanager
def _home(network: bytes, folder: Path, labels: int) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(dir=folder) as server, s3_server(Path(server)) as endpoint:
        made_bucket(endpoint, "benchmark")
        settings = load_settings(
            home="s3://benchmark/home", s3_endpoint=endpoint, s3_region=REGION, master=f"local[{CORES},4]"
        )
        serve_version(settings.places(), network, labels)
        yield settings


def _flags(on: bool) -> tuple[str, ...]:
    return ("--answers",) if on else ()


def _backlog(corpus: Corpus, network: bytes, folder: Path, labels: int, on: bool) -> SteadyState:
    with _home(network, folder, labels) as settings:
        landing = settings.places().landing
        for path in photo_files(corpus.folder):
            overwrite(landing, path.relative_to(corpus.folder).as_posix(), path)
        return steady_state(settings, network, corpus.count, *_flags(on))


def _trickle(corpus: Corpus, network: bytes, folder: Path, labels: int, seconds: int) -> list[float]:
    """Seconds from the moment at which the service tells of a photo's batch to that at which its answer is there."""
    with _home(network, folder, labels) as settings:
        home = settings.places()
        committed_at: dict[int, datetime] = {}
        there_at: dict[str, datetime] = {}
        photos = photo_files(corpus.folder)[: seconds + WARM_UP_PHOTOS]

        def ask(key: str) -> None:
            while read_answer(home, key) is None:
                time.sleep(_POLL_S)
            there_at[key] = datetime.now(UTC)

        def drop() -> None:
            for number, path in enumerate(photos):
                key = f"kiwi/{number}{path.suffix}"
                overwrite(home.landing, key, path)
                app = threading.Thread(target=ask, args=(key,), daemon=True)
                app.start()
                apps.append(app)
                time.sleep(1)

        apps: list[threading.Thread] = []
        with running_stream(settings, network, "--trigger", "1s", *_flags(True)) as process:
            dropper = threading.Thread(target=drop, daemon=True)
            dropper.start()
            left = len(photos)
            for batch in reports(process):
                committed_at[batch["batch"]] = datetime.fromisoformat(batch["time"])
                left -= batch["photos"]
                if left <= 0:
                    break
            for app in apps:
                app.join(60)
        found = run_query(connect(home), "SELECT split_part(source, '/landing/', 2) AS key, batch FROM features")
        behind = {row["key"]: (there_at[row["key"]] - committed_at[row["batch"]]) for row in found.to_pylist()}
        counted = [f"kiwi/{number}{path.suffix}" for number, path in enumerate(photos)][WARM_UP_PHOTOS:]
        return [behind[key].total_seconds() for key in counted]


def _print_turns(turns: list[dict[bool, SteadyState]]) -> None:
    table = Table(
        *("round", "without, photos/s", "with answers, photos/s", "ratio"),
        *("without, own CPU ms/photo", "with, own CPU ms/photo", "ratio", "batches"),
        title="350px from an S3 server on the same cores",
    )
    rates, costs = [], []
    for number, turn in enumerate(turns, 1):
        off, on = turn[False], turn[True]
        rates.append(on.photos_per_s / off.photos_per_s)
        costs.append(off.cpu_ms_a_photo / on.cpu_ms_a_photo)
        table.add_row(
            *(str(number), f"{off.photos_per_s:.1f}", f"{on.photos_per_s:.1f}", f"{rates[-1]:.3f}"),
            *(f"{off.cpu_ms_a_photo:.2f}", f"{on.cpu_ms_a_photo:.2f}", f"{costs[-1]:.3f}"),
            f"{off.batches} and {on.batches}",
        )
    console.print(table)
    console.print(
        f"In the median: {median(rates):.3f} of the photos a second, which the server's own work for the answers is part "
        f"of; without that, by the processor time of the service's own processes: {median(costs):.3f}."
    )


def _print_trickle(behind_s: list[float]) -> None:
    table = Table("photos", "median, s", "p95, s", "longest, s", title="an answer behind its row, one photo a second")
    figures = (*np.percentile(behind_s, (50, 95)), max(behind_s))
    table.add_row(str(len(behind_s)), *(f"{figure:.2f}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
