"""How near the service comes to what the cores can do, and how it compares with other ways.

python -m benchmarks.stream [--photos DIR] [--only 12MP ...] [--size 1.0] [--rounds 2] [--no-rivals] [--no-s3]
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import boto3
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import Corpus, Kind, make_corpus
from benchmarks.latency import latency_table
from benchmarks.rivals.job import CORES, photo_files
from benchmarks.servers import s3_server
from benchmarks.service import SteadyState, steady_state
from bootstrap.weights import compile_weights
from features.settings import load_settings

# Some 12 s for the limit and the rivals, and two or three batches of 20 s for the service.
_FILES: dict[Kind, tuple[int, int]] = {"12MP": (320, 1200), "350px": (2000, 8000), "100px": (2500, 10_000)}
_RIVALS = {"naive": None, "daft_job": "daft", "ray_job": "ray"}
_STAGES = ("fetch", "decode", "infer", "write", "idle")
_REGION: Final = "eu-west-3"

console = Console(width=150)


@dataclass(frozen=True)
class Corpora:
    """One kind of photos: a few to warm up and for the naive way, some for limit and rivals, many for the service."""

    few: Corpus
    some: Corpus
    many: Corpus


def main(
    photos: Annotated[Path | None, typer.Option(help="Labelled photos to make the corpora from; else drawn.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Kinds to measure: 12MP, 350px, 100px.")] = None,
    size: Annotated[float, typer.Option(help="Share of the usual number of photos.")] = 1.0,
    work: Annotated[Path | None, typer.Option(help="Where corpora are kept between runs.")] = None,
    rivals: Annotated[bool, typer.Option(help="Measure the naive way, Daft and Ray Data too.")] = True,
    s3: Annotated[bool, typer.Option(help="Measure from an S3 server on this machine too.")] = True,
    seconds: Annotated[int, typer.Option(help="How long photos trickle for the latency; 0 for not at all.")] = 60,
    rounds: Annotated[int, typer.Option(help="How often limit and service take turns.")] = 2,
) -> None:
    """Print the tables of docs/benchmarks.md."""
    kinds = [kind for kind in get_args(Kind) if not only or kind in only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = folder / "network.tflite"
        network.write_bytes(compile_weights("untrained:7", print).network)
        for kind in kinds:
            corpora = _corpora(work or folder / "corpora", kind, size, photos)
            console.print(f"{kind}: {corpora.many.description}.")
            limits = [_limit(corpora, network, folder)]
            rows = []
            for place in ["disk"] * rounds + ["S3"] * s3:
                from_place = _service if place == "disk" else _service_from_s3
                rows.append((place, from_place(corpora, network, folder)))
                limits.append(_limit(corpora, network, folder))
            _print_service(kind, limits, rows)
            if rivals:
                _print_rivals(kind, rows[rounds - 1][1], corpora, network, folder)
        if seconds:
            console.print(latency_table(kinds[:2], network.read_bytes(), photos, seconds, "1s"))


def _corpora(folder: Path, kind: Kind, size: float, photos: Path | None) -> Corpora:
    some, many = (max(1, int(size * count)) for count in _FILES[kind])
    few = max(8, some // 8)
    counts = {"few": few, "some": some, "many": many}
    return Corpora(**{name: make_corpus(folder / f"{kind}-{name}", kind, n, photos) for name, n in counts.items()})


def _service(corpora: Corpora, network: Path, folder: Path) -> SteadyState:
    with tempfile.TemporaryDirectory(dir=folder) as home:
        settings = load_settings(home=f"{home}/home", landing=str(corpora.many.folder), master=f"local[{CORES},4]")
        return steady_state(settings, network.read_bytes(), corpora.many.count)


def _service_from_s3(corpora: Corpora, network: Path, folder: Path) -> SteadyState:
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWS_REGION=_REGION)
    with s3_server(folder) as endpoint:
        _upload(corpora.many, endpoint)
        settings = load_settings(
            home="s3://benchmark/home", s3_endpoint=endpoint, s3_region=_REGION, master=f"local[{CORES},4]"
        )
        return steady_state(settings, network.read_bytes(), corpora.many.count)


def _upload(corpus: Corpus, endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, region_name=_REGION)
    client.create_bucket(Bucket="benchmark", CreateBucketConfiguration={"LocationConstraint": _REGION})

    def upload(path: Path) -> None:
        key = f"home/landing/{path.relative_to(corpus.folder).as_posix()}"
        client.put_object(Bucket="benchmark", Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(upload, photo_files(corpus.folder)))


def _limit(corpora: Corpora, network: Path, folder: Path) -> float:
    rate: float = _rival("limit", corpora, network, folder)["rate"]
    return rate


def _rival(name: str, corpora: Corpora, network: Path, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        photos = corpora.few if name == "naive" else corpora.some
        command = [sys.executable, "-m", f"benchmarks.rivals.{name}", "--photos", str(photos.folder)]
        command += ["--warm-up", str(corpora.few.folder), "--out", f"{out}/rows"]
        if name != "naive":
            command += ["--network", str(network)]
        with (folder / f"{name}.log").open("wb") as log:
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=True)
    line: dict[str, Any] = json.loads(answer.stdout)
    return line | {"rate": line["photos"] / line["seconds"]}


def _print_service(kind: Kind, limits: list[float], rows: list[tuple[str, SteadyState]]) -> None:
    table = Table(
        "from", "limit, photos/s", "service, photos/s", "ratio", *_STAGES, "commit", "worker, MB", "batches", title=kind
    )
    for (place, steady), around in zip(rows, pairwise(limits), strict=True):
        limit = sum(around) / 2
        figures = [f"{limit:.1f}", f"{steady.photos_per_s:.1f}", f"{steady.photos_per_s / limit:.2f}"]
        shares = [
            f"{100 * share:.1f} %" for share in (*(steady.shares[stage] for stage in _STAGES), steady.commit_share)
        ]
        batches = f"{steady.batches} in {steady.seconds:.0f} s"
        table.add_row(place, *figures, *shares, f"{steady.peak_worker_mb:.0f}", batches)
    console.print(table)
    console.print(f"The limit, before and after each: {', '.join(f'{rate:.1f}' for rate in limits)} photos/s.")


def _print_rivals(kind: Kind, service: SteadyState, corpora: Corpora, network: Path, folder: Path) -> None:
    table = Table("way", "photos/s", "service is faster by", "worker, MB", title=f"{kind}: other ways")
    for name, needs in _RIVALS.items():
        if needs and find_spec(needs) is None:
            console.print(f"{needs} is not installed here; `make benchmark` has it.")
            continue
        line = _rival(name, corpora, network, folder)
        factor = f"{service.photos_per_s / line['rate']:.2f}"
        table.add_row(line["name"], f"{line['rate']:.1f}", factor, str(line["peak_worker_mb"]))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
