"""What copies cost the running stream beside an archive, and what it takes to keep them instead of originals.

python -m benchmarks.clearing [--photos DIR] [--kind 350px] [--count 6000] [--batch 600] [--rounds 3] [--s3]

The same photos go through streams that archive, that archive and keep copies, and that keep copies and delete, in
turns. Processor time of the service's own processes is what to go by where other work is on the machine.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import Corpus, Kind, make_corpus
from benchmarks.rivals.job import CORES, photo_files
from benchmarks.service import SteadyState, steady_state
from bootstrap.weights.weights import compile_weights
from store.objects.operations import overwrite, sizes_below
from store.settings import Settings, load_settings
from tests.support.servers import REGION, made_bucket, s3_server

WAYS = {
    "archive": (None, ("--clean", "archive")),
    "archive, copies": (300, ("--clean", "archive", "--copies")),
    "reduce": (300, ("--clean", "reduce")),
}
BASE = "archive"

console = Console(width=150)


def main(
    photos: Annotated[Path | None, typer.Option(help="Labelled photos to make the corpus from; else drawn.")] = None,
    kind: Annotated[str, typer.Option(help="12MP or 350px.")] = "350px",
    count: Annotated[int, typer.Option(help="How many photos wait for each stream.")] = 6000,
    batch: Annotated[int, typer.Option(help="How many photos a batch has at most; the first two do not count.")] = 600,
    rounds: Annotated[int, typer.Option(help="How often all take turns.")] = 3,
    s3: Annotated[bool, typer.Option("--s3", help="From an S3 server on the same cores, instead of a disk.")] = False,
) -> None:
    """Print a table of docs/benchmarks.md."""
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWS_REGION=REGION)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = compile_weights("untrained:7", print).network
        corpus = make_corpus(folder / "corpus", cast(Kind, kind), count, photos)
        console.print(f"{corpus.description}.")
        turns: list[dict[str, SteadyState]] = []
        for number in range(rounds):
            ways = list(WAYS)
            # Each begins a turn as often.
            order = ways[number % len(ways) :] + ways[: number % len(ways)]
            turns.append({way: _worked_off(corpus, network, folder, way, batch, s3) for way in order})
        _print(turns, kind, s3)


def _worked_off(corpus: Corpus, network: bytes, folder: Path, way: str, batch: int, s3: bool) -> SteadyState:
    copy_px, flags = WAYS[way]
    with _home(folder, s3) as settings:
        home = settings.places()
        for path in photo_files(corpus.folder):
            key = path.relative_to(corpus.folder).as_posix()
            if s3:
                overwrite(home.landing, key, path)
            else:
                (home.landing.directory / key).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, home.landing.directory / key)
        most = ("--max-files", str(batch), "--settle", "0s")
        state = steady_state(settings, network, corpus.count, *flags, *most, copy_px=copy_px)
        if copy_px is not None:
            copied_bytes = sum(sizes_below(home.copies).values())
            landed_bytes = sum(path.stat().st_size for path in photo_files(corpus.folder))
            console.print(f"{way}: {copied_bytes / corpus.count / 1e3:.1f} kB, 1/{landed_bytes / copied_bytes:.0f}")
        return state


@contextmanager
def _home(folder: Path, s3: bool) -> Iterator[Settings]:
    master = f"local[{CORES},4]"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if not s3:
            yield load_settings(home=f"{place}/home", master=master)
            return
        with s3_server(Path(place)) as endpoint:
            made_bucket(endpoint, "benchmark")
            yield load_settings(home="s3://benchmark/home", s3_endpoint=endpoint, s3_region=REGION, master=master)


def _print(turns: list[dict[str, SteadyState]], kind: str, s3: bool) -> None:
    where = "an S3 server on the same cores" if s3 else "disk"
    table = Table("way", "photos/s", "of archive's", "own CPU ms/photo", "of archive's", title=f"{kind} from {where}")
    for way in WAYS:
        rates = [turn[way].photos_per_s / turn[BASE].photos_per_s for turn in turns]
        costs = [turn[way].cpu_ms_a_photo / turn[BASE].cpu_ms_a_photo for turn in turns]
        table.add_row(
            way,
            f"{median(turn[way].photos_per_s for turn in turns):.1f}",
            f"{median(rates):.3f} ({min(rates):.3f}–{max(rates):.3f})",
            f"{median(turn[way].cpu_ms_a_photo for turn in turns):.2f}",
            f"{median(costs):.3f} ({min(costs):.3f}–{max(costs):.3f})",
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
