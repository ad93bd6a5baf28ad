"""The practical limit: nothing but reading, decoding and the network, in one plain process per core."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.rivals.job import CORES, LIMITS, answering, asked_for, line, own_peak_mb, photo_files
from features.featurizer import Featurizer
from features.image import decode

# How long the slowest process may take to load its network and warm up.
START_S = 120


@dataclass
class Stages:
    """Seconds that one process, or all together, spent on each step."""

    read_s: float = 0.0
    decode_s: float = 0.0
    infer_s: float = 0.0


@dataclass
class _Share:
    photos: int = 0
    stages: Stages = field(default_factory=Stages)
    ended_s: float = 0.0
    peak_mb: float = 0.0


def main() -> None:
    """Print the line of `compete`, with `stages` added: seconds of all processes together; no file is written."""
    asked = asked_for("--network", usual=None)
    spawn = multiprocessing.get_context("spawn")
    ready, taken = spawn.Barrier(CORES + 1), spawn.Value("q", 0)
    with answering() as answer, ProcessPoolExecutor(CORES, spawn, _keep, (ready, taken)) as pool:
        paths = photo_files(asked.photos)
        warm_up = photo_files(asked.warm_up) if asked.warm_up else []
        # One call for each process: until all wait at the barrier, none is free to take a second.
        calls = [pool.submit(_share, Path(asked.model), warm_up, paths) for _ in range(CORES)]
        ready.wait(START_S)
        started_s = time.perf_counter()
        shares = [call.result() for call in calls]
        photos, peak_mb = sum(share.photos for share in shares), max(share.peak_mb for share in shares)
        # The clock is the machine's, so one process can read when another ended.
        ended_s = max(share.ended_s for share in shares)
        stages = {step: round(seconds, 3) for step, seconds in asdict(_together(shares)).items()}
        answer(line("limit", photos, started_s, ended_s, peak_mb) | {"stages": stages})


def _together(shares: list[_Share]) -> Stages:
    return Stages(
        read_s=sum(share.stages.read_s for share in shares),
        decode_s=sum(share.stages.decode_s for share in shares),
        infer_s=sum(share.stages.infer_s for share in shares),
    )


_started: tuple[Barrier, "Synchronized[int]"]


def _keep(ready: Barrier, taken: "Synchronized[int]") -> None:
    global _started
    _started = ready, taken


def _share(network: Path, warm_up: list[Path], paths: list[Path]) -> _Share:
    ready, taken = _started
    try:
        featurizer = Featurizer(network.read_bytes())
        for path in warm_up:
            _work(path, featurizer, Stages())
    except BaseException:
        ready.abort()
        raise
    ready.wait(START_S)
    return _worked(paths, _next(taken), featurizer)


def _next(taken: "Synchronized[int]") -> Callable[[], int]:
    def number() -> int:
        with taken.get_lock():
            taken.value += 1
            return taken.value - 1

    return number


def _worked(paths: list[Path], number: Callable[[], int], featurizer: Featurizer) -> _Share:
    share = _Share()
    # Whoever is free takes the next, so that all end within a photo of each other.
    while (turn := number()) < len(paths):
        _work(paths[turn], featurizer, share.stages)
        share.photos += 1
    share.ended_s, share.peak_mb = time.perf_counter(), own_peak_mb()
    return share


def _work(path: Path, featurizer: Featurizer, stages: Stages) -> None:
    moments = [time.perf_counter()]
    body = path.read_bytes()
    moments.append(time.perf_counter())
    pixels = decode(body, LIMITS).pixels
    moments.append(time.perf_counter())
    featurizer.features(pixels[None])
    moments.append(time.perf_counter())
    stages.read_s += moments[1] - moments[0]
    stages.decode_s += moments[2] - moments[1]
    stages.infer_s += moments[3] - moments[2]


if __name__ == "__main__":
    main()
