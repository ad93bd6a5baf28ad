"""The job that every rival does, and the one line that says how long it took."""

import argparse
import hashlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import FruitsError
from features.featurizer import FEATURES, Featurizer
from features.image import Limits, decode

CORES = os.cpu_count() or 1
LIMITS = Limits(64 * 2**20, 100_000_000)
ROWS = pa.schema(
    [
        ("source", pa.string()),
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("features", pa.list_(pa.float32())),
        ("worker_peak_mb", pa.float32()),
    ]
)

# From photos and a folder that is not there yet to parquet files in that folder.
Run: TypeAlias = Callable[[Path, Path], None]


class JobIncomplete(FruitsError):
    """A rival wrote other rows than one for each photo."""


def compete(
    name: str, opened: Callable[[str], AbstractContextManager[Run]], model: str = "--network", usual: str | None = None
) -> None:
    """Run a rival as the command line asks, and print one JSON line; all that its engine says goes to standard error.

    opened: given the value of the flag `model` (`usual` when left out), starts the engine and gives its run.
    The line: `seconds` of the run alone, after one over the warm-up folder if there is one; `peak_worker_mb` of the
    largest worker. Raises JobIncomplete when the rows are not one for each photo.
    """
    options = arguments(model, usual)
    with answering() as answer, opened(options.model) as run:
        if options.warm_up is not None:
            run(options.warm_up, options.out.with_name(f"{options.out.name}-warm-up"))
        started_s = time.perf_counter()
        run(options.photos, options.out)
        seconds = time.perf_counter() - started_s
        photos, workers_peak_mb = _check_rows(options.out, len(photo_files(options.photos)))
        answer(line(name, photos, seconds, workers_peak_mb))


def line(name: str, photos: int, seconds: float, workers_peak_mb: float) -> dict[str, Any]:
    """What a rival answers."""
    return {"name": name, "photos": photos, "seconds": round(seconds, 3), "peak_worker_mb": round(workers_peak_mb)}


def arguments(model: str = "--network", usual: str | None = None) -> argparse.Namespace:
    """The command line: `photos`, `out`, `warm_up` (or None) and `model`, whose flag is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, required=True, help="a folder of <label>/<name>.jpg")
    parser.add_argument(model, dest="model", required=usual is None, default=usual)
    parser.add_argument("--out", type=Path, required=True, help="where the parquet goes")
    parser.add_argument("--warm-up", type=Path, help="a small folder of the same kind")
    return parser.parse_args()


@contextmanager
def answering() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Keep standard output for the answer; whatever this process and its children print goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as standard_output:
        os.dup2(2, 1)
        yield lambda answer: print(json.dumps(answer), file=standard_output, flush=True)


def photo_files(photos: Path) -> list[Path]:
    """The files `<label>/<name>` of a folder, in order; hidden ones are not photos."""
    return sorted(path for path in photos.glob("[!.]*/[!.]*") if path.is_file())


def rows_of(featurizer: Featurizer, paths: Sequence[str]) -> pa.Table:
    """The job for some photos `<anything>/<label>/<name>`; a table of `ROWS`."""
    bodies = [Path(path).read_bytes() for path in paths]
    columns = {
        "source": paths,
        "image_id": [hashlib.sha256(body).hexdigest() for body in bodies],
        "label": [path.rsplit("/", 2)[-2] for path in paths],
        "features": [featurizer.features(decode(body, LIMITS).pixels[None])[0] for body in bodies],
        "worker_peak_mb": [peak_mb()] * len(bodies),
    }
    return pa.table(columns, schema=ROWS)


@cache
def kept_featurizer(network: str) -> Featurizer:
    """The process's own featurizer, made when first asked for; `network` is the path of the flatbuffer."""
    return Featurizer(Path(network).read_bytes())


def peak_mb(pid: int | None = None) -> float:
    """The most memory a process ever had in RAM, by default this one, shared pages included, in MB; NaN if unknown."""
    try:
        # Not getrusage: on Linux its peak is inherited from whoever started the process.
        status = Path(f"/proc/{pid or 'self'}/status").read_text()
    except OSError:
        return math.nan if pid else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return 1024 / 1e6 * float(next((row.split()[1] for row in status.splitlines() if row.startswith("VmHWM")), "nan"))


def _check_rows(out: Path, expected: int) -> tuple[int, float]:
    rows = pq.read_table(out, columns=["source", "features", "worker_peak_mb"])
    if not pa.types.is_list(rows.schema.field("features").type):
        raise JobIncomplete(f"The features are {rows.schema.field('features').type}, not lists.")
    whole = pc.sum(pc.equal(pc.list_value_length(rows["features"]), FEATURES)).as_py()
    if not rows.num_rows == pc.count_distinct(rows["source"]).as_py() == whole == expected:
        raise JobIncomplete(f"{rows.num_rows} rows, {whole} of them whole, for {expected} photos.")
    return rows.num_rows, pc.max(rows["worker_peak_mb"]).as_py()
