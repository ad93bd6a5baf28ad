"""How near the service comes to what the cores can do, and how it compares with other ways.

python -m benchmarks.stream [--photos DIR] [--only 12MP ...] [--size 1.0] [--rounds 3] [--labels 100]
    [--no-rivals] [--no-s3]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple, get_args

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import Corpus, Kind, make_corpus
from benchmarks.latency import latency_table
from benchmarks.rivals.job import CORES, photo_files
from benchmarks.service import SteadyState, serve_version, steady_state
from bootstrap.weights.weights import compile_weights
from store.objects.operations import overwrite
from store.settings import load_settings
from tests.support.servers import REGION, made_bucket, s3_server

# A few for warming up and the naive way; some 25 s for the limit and the rivals, so that the beginning of their jobs
# weighs little; two or three batches of 20 s for the service, after its first two.
_FILES: dict[Kind, tuple[int, int, int]] = {
    "12MP": (40, 1200, 2600),
    "350px": (250, 5000, 13_000),
    "100px": (310, 7000, 17_000),
}
_ENGINES = {"daft_job": "daft", "ray_job": "ray"}

console = Console(width=150)


class Corpora(NamedTuple):
    """One kind of photos: a few to warm up and for the naive way, some for limit and rivals, many for the service."""

    few: Corpus
    some: Corpus
    many: Corpus


def main(
    photos: Annotated[Path | None, typer.Option(help="Labelled photos to make the corpora from; else drawn.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Kinds to measure: 12MP, 350px, 100px.")] = None,
    size: Annotated[float, typer.Option(help="Share of the usual number of photos.")] = 1.0,
    rivals: Annotated[bool, typer.Option(help="Measure the naive way, Daft and Ray Data too.")] = True,
    s3: Annotated[bool, typer.Option(help="Measure from an S3 server on this machine too.")] = True,
    seconds: Annotated[int, typer.Option(help="How long photos trickle for the latency; 0 for not at all.")] = 60,
    labels: Annotated[int, typer.Option(help="Also measure with a served version that names so many labels.")] = 0,
    rounds: Annotated[int, typer.Option(help="How often limit, service and rivals take turns.")] = 3,
) -> None:
    """Print the tables of docs/benchmarks.md."""
    kinds = [kind for kind in get_args(Kind) if not only or kind in only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = folder / "network.tflite"
        network.write_bytes(compile_weights("untrained:7", print).network)
        for kind in kinds:
            corpora = _corpora(folder / "corpora", kind, size, photos)
            console.print(f"{kind}: {corpora.many.description}.")
            limits = [_rival("limit", corpora, network, folder)["rate"]]
            rows, turns = [], []
            named = f"disk, {labels} labels"
            for place in ["disk", *[named] * bool(labels)] * rounds + ["S3"] * s3:
                if place == "S3":
                    steady = _service_from_s3(corpora, network, folder)
                else:
                    steady = _service(corpora, network, folder, labels if place == named else 0)
                rows.append((place, steady))
                limits.append(_rival("limit", corpora, network, folder)["rate"])
                if rivals and place == "disk":
                    answers = [_rival(name, corpora, network, folder) for name in _installed(_ENGINES)]
                    turns.append((rows[-1][1], answers))
            _print_service(kind, limits, rows)
            if rivals:
                turns[-1][1].append(_rival("naive", corpora, network, folder))
                _print_rivals(kind, turns)
        if seconds:
            console.print(latency_table(kinds[:2], network.read_bytes(), photos, seconds, "1s"))


def _corpora(folder: Path, kind: Kind, size: float, photos: Path | None) -> Corpora:
    counts = zip(Corpora._fields, _FILES[kind], strict=True)
    return Corpora(*(make_corpus(folder / f"{kind}-{name}", kind, max(8, int(size * n)), photos) for name, n in counts))


def _service(corpora: Corpora, network: Path, folder: Path, labels: int) -> SteadyState:
    _read_once(corpora.many)
    with tempfile.TemporaryDirectory(dir=folder) as home:
        settings = load_settings(home=f"{home}/home", landing=str(corpora.many.folder), master=f"local[{CORES},4]")
        if labels:
            serve_version(settings.places(), network.read_bytes(), labels)
        return steady_state(settings, network.read_bytes(), corpora.many.count)


def _service_from_s3(corpora: Corpora, network: Path, folder: Path) -> SteadyState:
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWSREGION=REGION)
    with s3_server(folder) as endpoint:
        made_bucket(endpoint, "benchmark")
        settings = load_settings(
            home="s3://benchmark/home", s3_endpoint=endpoint, s3_region=REGION, master=f"local[{CORES},4]"
        )
        landing = settings.places().landing
        # The server keeps all of them in memory.
        for path in photo_files(corpora.some.folder):
            overwrite(landing, path.relative_to(corpora.some.folder).as_posix(), path)
        return steady_state(settings, network.read_bytes(), corpora.some.count)


def _rival(name: str, corpora: Corpora, network: Path, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        photos = corpora.few if name == "naive" else corpora.some
        _read_once(photos)
        command = [sys.executable, "-m", f"benchmarks.rivals.{name}", "--photos", str(photos.folder)]
        command += ["--warm-up", str(corpora.few.folder), "--out", f"{out}/rows"]
        if name != "naive":
            command += ["--network", str(network)]
        with (folder / f"{name}.log").open("wb") as log:
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=True)
    line = json.loads(answer.stdout)
    return {**line, "rate": line["photos"] / line["seconds"]}


def _read_once(corpus: Corpus) -> None:
    # So that nobody reads from the disk what the kernel still holds for another: all find their files in memory.
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda path: len(path.read_bytes()), photo_files(corpus.folder)))


def _print_service(kind: Kind, limits: list[float], rows: list[tuple[str, SteadyState]]) -> None:
    table = Table(
        "from",
        "limit, photos/s",
        "service, photos/s",
        "ratio",
        *rows[0][1].shares,
        "commit",
        "worker, MB",
        "batches",
        title=kind,
    )
    for (place, steady), around in zip(rows, pairwise(limits), strict=True):
        limit = sum(around) / 2
        figures = [f"{limit:.1f}", f"{steady.photos_per_s:.1f}", f"{steady.photos_per_s / limit:.2f}"]
        shares = [f"{100 * share:.1f} %" for share in (*steady.shares.values(), steady.commit_share)]
        batches = f"{steady.batches} in {steady.seconds:.0f} s"
        table.add_row(place, *figures, *shares, f"{steady.peak_worker_mb:.0f}", batches)
    console.print(table)
    console.print(f"The limit, before and after each: {', '.join(f'{rate:.1f}' for rate in limits)} photos/s.")


def _installed(engines: dict[str, str]) -> list[str]:
    for module in (module for module in engines.values() if find_spec(module) is None):
        console.print(f"{module} is not installed here; `make benchmark` has it.")
    return [name for name, module in engines.items() if find_spec(module) is not None]


def _print_rivals(kind: Kind, turns: list[tuple[SteadyState, list[dict[str, Any]]]]) -> None:
    """Each rival beside the service's run right before it."""
    table = Table(
        "way", "photos/s", "service then, photos/s", "service is faster by", "worker, MB", title=f"{kind}: other ways"
    )
    factors = defaultdict(list)
    for service, answers in turns:
        for answer in answers:
            factor = service.photos_per_s / answer["rate"]
            factors[answer["name"]].append(factor)
            row = [f"{answer['rate']:.1f}", f"{service.photos_per_s:.1f}", f"{factor:.2f}"]
            table.add_row(answer["name"], *row, str(answer["peak_worker_mb"]))
    console.print(table)
    medians = [f"{name} {median(its_factors):.2f}" for name, its_factors in factors.items()]
    console.print(f"The service is faster by, in the median: {', '.join(medians)}.")


if __name__ == "__main__":
    typer.run(main)
