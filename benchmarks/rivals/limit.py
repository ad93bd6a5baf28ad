"""The practical limit: nothing but reading, decoding and the network, in one plain process per core."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.rivals.job import CORES, LIMITS, answering, arguments, line, peak_mb, photo_files
from features.featurizer import Featurizer
from features.image import decode

# How long the slowest process may take to load its network and warm up.
START_S = 120


def main() -> None:
    """Print the line of `compete`; no file is written."""
    options = arguments()
    spawn = multiprocessing.get_context("spawn")
    ready, taken = spawn.Barrier(CORES + 1), spawn.Value("q", 0)
    with answering() as answer, ProcessPoolExecutor(CORES, spawn, _keep, (ready, taken)) as pool:
        paths = photo_files(options.photos)
        warm_up = photo_files(options.warm_up) if options.warm_up else []
        # One call for each process: until all wait at the barrier, none is free to take a second.
        calls = [pool.submit(_work, Path(options.model), warm_up, paths) for _ in range(CORES)]
        ready.wait(START_S)
        started_s = time.perf_counter()
        results = [call.result() for call in calls]
        photos, ended_s, peaks_mb = zip(*results, strict=True)
        # The clock is the machine's, so one process can read when another ended.
        answer(line("limit", sum(photos), max(ended_s) - started_s, max(peaks_mb)))


_started: tuple[Barrier, "Synchronized[int]"]


def _keep(ready: Barrier, taken: "Synchronized[int]") -> None:
    global _started
    _started = ready, taken


def _work(network: Path, warm_up: list[Path], paths: list[Path]) -> tuple[int, float, float]:
    """How many photos this process did, when it ended, and its peak memory in MB."""
    ready, taken = _started
    try:
        featurizer = Featurizer(network.read_bytes())
        for path in warm_up:
            _featurize(path, featurizer)
    except BaseException:
        ready.abort()
        raise
    ready.wait(START_S)
    photos = 0
    # Whoever is free takes the next, so that all end within a photo of each other.
    while True:
        with taken.get_lock():
            turn = taken.value
            taken.value += 1
        if turn >= len(paths):
            return photos, time.perf_counter(), peak_mb()
        _featurize(paths[turn], featurizer)
        photos += 1


def _featurize(path: Path, featurizer: Featurizer) -> None:
    featurizer.features(decode(path.read_bytes(), LIMITS).pixels[None])


if __name__ == "__main__":
    main()
