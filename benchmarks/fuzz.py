"""Damaged photos through the worker's decoder and network: each must end as features or as a listed reason.

python -m benchmarks.fuzz [--count 10000] [--network FILE]
"""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.rivals.job import peak_mb
from bootstrap.weights.weights import compile_weights
from features.featurizer import Featurizer
from features.image import FORMATS, Limits, Photo
from features.isolation import IsolatedDecoder, decode_or_die
from features.rejects import Rejected
from tests.support.mutants import mutant

LIMITS = Limits(max_image_bytes=64 * 2**20, max_pixels=100_000_000, max_decode_s=20.0)


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: a format when it gave features, else a reason; and how it went."""

    number: int
    what: str
    detail: str
    seconds: float
    died: bool
    peak_mb: float


def fuzz(numbers: Iterable[int], network: bytes, limits: Limits) -> Iterator[Outcome]:
    """Take mutants through one worker process as a task does, isolated where the worker died of one.

    Raises whatever the decoder lets through that is neither features nor a reason.
    """
    waiting = list(reversed(list(numbers)))
    while waiting:
        mine, its = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=_work, args=(its, network, limits), daemon=True)
        worker.start()
        its.close()
        try:
            while waiting:
                mine.send(waiting[-1])
                outcome, error = mine.recv()
                if error is not None:
                    raise RuntimeError(f"Mutant {waiting[-1]} ended as neither features nor a reason.") from error
                yield outcome
                waiting.pop()
            mine.send(None)
        except EOFError:
            with IsolatedDecoder(limits) as decoder:
                yield _outcome(waiting.pop(), decoder.decode, Featurizer(network), limits, died=True)
        finally:
            mine.close()
            worker.join()


def main(
    count: Annotated[int, typer.Option(help="How many mutants.")] = 10_000,
    first: Annotated[int, typer.Option(help="The first mutant's number.")] = 0,
    network: Annotated[Path | None, typer.Option(help="A compiled network; default: untrained:7.")] = None,
) -> None:
    """Print what became of the mutants, by outcome."""
    compiled = network.read_bytes() if network else compile_weights("untrained:7", print).network
    numbers = range(first, first + count)
    outcomes = list(track(fuzz(numbers, compiled, LIMITS), description="mutants", total=count, transient=True))
    table = Table("outcome", "mutants", "slowest, s", "example")
    for what, times in Counter(outcome.what for outcome in outcomes).most_common():
        alike = [outcome for outcome in outcomes if outcome.what == what]
        example = next((outcome.detail for outcome in alike if outcome.detail), "")
        table.add_row(what, str(times), f"{max(outcome.seconds for outcome in alike):.2f}", example[:90])
    console = Console()
    console.print(table)
    console.print(
        f"{len(outcomes)} mutants, {sum(outcome.died for outcome in outcomes)} took their worker along; "
        f"the workers' memory reached {max(outcome.peak_mb for outcome in outcomes):.0f} MB."
    )


def _work(pipe: Connection, network: bytes, limits: Limits) -> None:
    featurizer = Featurizer(network)
    while (number := pipe.recv()) is not None:
        try:
            pipe.send((_outcome(number, decode_or_die, featurizer, limits, died=False), None))
        except Exception as error:
            pipe.send((None, error))
            return


def _outcome(
    number: int, decode: Callable[[bytes, Limits], Photo], featurizer: Featurizer, limits: Limits, died: bool
) -> Outcome:
    body, began_s = mutant(number), time.perf_counter()
    try:
        photo = decode(body, limits)
        vector = featurizer.features(photo.pixels[None])
        if not np.isfinite(vector).all() or photo.format not in FORMATS:
            raise ValueError(f"{photo.format} gave features that are not numbers.")
        what, detail = f"features of {photo.format}", ""
    except Rejected as rejected:
        what, detail = str(rejected.reason), rejected.detail
    return Outcome(number, what, detail, time.perf_counter() - began_s, died, 0.0 if died else peak_mb())


if __name__ == "__main__":
    typer.run(main)
