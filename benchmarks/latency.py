"""From a photo's drop to the moment a query finds it, for a trickle of photos.

python -m benchmarks.latency [--photos DIR] [--seconds 90] [--trigger 1s]
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import Kind, make_corpus
from benchmarks.rivals.job import photo_files
from benchmarks.service import reports, running_stream
from bootstrap.weights.weights import compile_weights
from ops.query.query import connect, run_query
from store.settings import Settings, load_settings

# Not counted: the first photos meet workers that are only starting.
WARM_UP_PHOTOS = 5


def trickle(settings: Settings, network: bytes, photos: list[Path], trigger: str) -> list[float]:
    """Drop a photo a second into a running service; seconds from drop to queryable, in the order of dropping.

    A photo counts as queryable when the service has printed its batch, which is after the commit.
    """
    landing = settings.places().landing
    landing.create()
    warm_up, measured = photos[:WARM_UP_PHOTOS], photos[WARM_UP_PHOTOS:]
    committed_at: dict[int, datetime] = {}
    dropped_at: dict[str, datetime] = {}
    with running_stream(settings, network, "--trigger", trigger) as process:
        batches = reports(process)
        _drop(warm_up, landing.directory, 0.0, {})
        _follow(batches, len(warm_up), committed_at)
        dropper = threading.Thread(target=_drop, args=(measured, landing.directory, 1.0, dropped_at), daemon=True)
        dropper.start()
        _follow(batches, len(measured), committed_at)
    found = run_query(connect(settings.places()), "SELECT source, batch FROM features").to_pylist()
    ended = {row["source"].rsplit("/", 1)[1]: committed_at[row["batch"]] for row in found}
    return [(ended[name] - dropped).total_seconds() for name, dropped in dropped_at.items()]


def main(
    photos: Annotated[Path | None, typer.Option(help="Labelled photos to make the corpora from.")] = None,
    seconds: Annotated[int, typer.Option(help="How long photos are dropped, one a second.")] = 90,
    trigger: Annotated[str, typer.Option(help="How often the service looks.")] = "1s",
) -> None:
    """Print the percentiles for 12 MP and 350 px photos."""
    network = compile_weights("untrained:7", print).network
    Console().print(latency_table(["12MP", "350px"], network, photos, seconds, trigger))


def latency_table(kinds: list[Kind], network: bytes, photos: Path | None, seconds: int, trigger: str) -> Table:
    """The percentiles by kind of photo, each for a new home on disk and one photo a second."""
    title = f"drop to queryable, one photo a second, trigger {trigger}"
    table = Table("photos", "dropped", "median, s", "p95, s", "longest, s", title=title)
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            corpus = make_corpus(Path(folder, "corpus"), kind, seconds + WARM_UP_PHOTOS, photos)
            settings = load_settings(home=f"{folder}/home")
            latencies_s = trickle(settings, network, photo_files(corpus.folder), trigger)
        figures = (*np.percentile(latencies_s, (50, 95)), max(latencies_s))
        table.add_row(kind, str(len(latencies_s)), *(f"{figure:.2f}" for figure in figures))
    return table


def _follow(batches: Iterator[dict[str, Any]], photos: int, committed_at: dict[int, datetime]) -> None:
    while photos > 0:
        batch = next(batches)
        committed_at[batch["batch"]] = datetime.fromisoformat(batch["time"])
        photos -= batch["photos"]


def _drop(photos: list[Path], landing: Path, every_s: float, dropped_at: dict[str, datetime]) -> None:
    begin_s = time.monotonic()
    for turn, photo in enumerate(photos):
        time.sleep(max(0.0, begin_s + turn * every_s - time.monotonic()))
        target = landing / photo.parent.name / photo.name
        target.parent.mkdir(exist_ok=True)
        # Moved into place whole, as an upload to S3 appears.
        unfinished = target.with_name(f".{target.name}")
        unfinished.write_bytes(photo.read_bytes())
        dropped_at[target.name] = datetime.now(UTC)
        unfinished.rename(target)


if __name__ == "__main__":
    typer.run(main)
