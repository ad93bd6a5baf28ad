"""How near the service comes to what the cores can do, and how it compares with other ways.

python -m benchmarks.stream [--photos DIR] [--only 12MP --only 350px ...] [--size 1.0] [--no-rivals] [--no-s3]
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import boto3
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import Corpus, Kind, make_corpus
from benchmarks.latency import latency_table
from benchmarks.rivals.job import CORES, photo_files
from benchmarks.service import STAGES, SteadyState, steady_state
from bootstrap.weights import compile_weights
from features.settings import load_settings

# Some 20 s for the limit and the rivals, and several batches of 20 s for the service.
_FILES: dict[Kind, tuple[int, int]] = {"12MP": (400, 1600), "350px": (2500, 10_000), "100px": (3000, 12_000)}
_RIVALS = {"naive": None, "daft_job": "daft", "ray_job": "ray"}
_REGION: Final = "eu-west-3"

console = Console()


@dataclass(frozen=True)
class Corpora:
    """One kind of photos: a few to warm up with, some for the limit and the rivals, many for the service."""

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
    seconds: Annotated[int, typer.Option(help="How long photos trickle for the latency; 0 for not at all.")] = 90,
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
            limits = [_rival("limit", corpora, network, folder)["rate"]]
            rows = [("disk", _service(corpora, network, folder))]
            limits.append(_rival("limit", corpora, network, folder)["rate"])
            if s3:
                rows.append(("S3", _service_from_s3(corpora, network, folder)))
            _print_service(kind, sum(limits) / len(limits), limits, rows)
            if rivals:
                _print_rivals(kind, rows[0][1], corpora, network, folder)
        if seconds:
            console.print(latency_table(kinds, network.read_bytes(), photos, seconds, "1s"))


def _corpora(folder: Path, kind: Kind, size: float, photos: Path | None) -> Corpora:
    some, many = (max(1, int(size * count)) for count in _FILES[kind])
    few = max(8, some // 20)
    counts = {"few": few, "some": some, "many": many}
    return Corpora(**{name: make_corpus(folder / f"{kind}-{name}", kind, n, photos) for name, n in counts.items()})


def _service(corpora: Corpora, network: Path, folder: Path) -> SteadyState:
    with tempfile.TemporaryDirectory(dir=folder) as home:
        settings = load_settings(home=f"{home}/home", landing=str(corpora.many.folder), master=f"local[{CORES},4]")
        return steady_state(settings, network.read_bytes(), corpora.many.count)


def _service_from_s3(corpora: Corpora, network: Path, folder: Path) -> SteadyState:
    with _s3_server(folder) as endpoint:
        _upload(corpora.some, endpoint)
        settings = load_settings(
            home="s3://benchmark/home", s3_endpoint=endpoint, s3_region=_REGION, master=f"local[{CORES},4]"
        )
        return steady_state(settings, network.read_bytes(), corpora.some.count)


@contextmanager
def _s3_server(folder: Path) -> Iterator[str]:
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWS_REGION=_REGION)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _upload(corpus: Corpus, endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, region_name=_REGION)
    client.create_bucket(Bucket="benchmark", CreateBucketConfiguration={"LocationConstraint": _REGION})

    def upload(path: Path) -> None:
        key = f"home/landing/{path.relative_to(corpus.folder).as_posix()}"
        client.put_object(Bucket="benchmark", Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(upload, photo_files(corpus.folder)))


def _rival(name: str, corpora: Corpora, network: Path, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", f"benchmarks.rivals.{name}", "--photos", str(corpora.some.folder)]
        command += ["--warm-up", str(corpora.few.folder), "--out", f"{out}/rows"]
        if name != "naive":
            command += ["--network", str(network)]
        with (folder / f"{name}.log").open("wb") as log:
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=True)
    line: dict[str, Any] = json.loads(answer.stdout)
    return line | {"rate": line["photos"] / line["seconds"]}


def _print_service(kind: Kind, limit: float, limits: list[float], rows: list[tuple[str, SteadyState]]) -> None:
    table = Table("from", "limit, photos/s", "service, photos/s", "ratio", *STAGES, "worker, MB", title=kind)
    for place, steady in rows:
        shares = [f"{100 * steady.shares[stage]:.1f} %" for stage in STAGES]
        figures = [f"{limit:.1f}", f"{steady.photos_per_s:.1f}", f"{steady.photos_per_s / limit:.2f}"]
        table.add_row(place, *figures, *shares, f"{steady.peak_worker_mb:.0f}")
    console.print(table)
    of = ", ".join(f"{steady.batches} batches in {steady.seconds:.0f} s" for _, steady in rows)
    console.print(f"Limit before and after: {', '.join(f'{rate:.1f}' for rate in limits)} photos/s. Service: {of}.")


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
