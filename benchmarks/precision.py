"""What int8 gains and what it costs, beside float32.

python -m benchmarks.precision [--photos DIR] [--weights SOURCE]
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bootstrap.weights import network
from bootstrap.weights.calibration import PHOTOS, Calibration
from bootstrap.weights.weights import compile_weights
from features.errors import InvalidSetting
from features.featurizer import Featurizer
from features.image import decode
from features.rejects import Rejected
from ops.demo.photos import demo_files
from store.settings import load_settings

ROUNDS = 200


def main(
    photos: Annotated[
        Path | None, typer.Option(help="Labelled photos, <label>/<any name>; else they are drawn.")
    ] = None,
    weights: Annotated[str, typer.Option(help="A source of weights, as fruits weights takes it.")] = "auto",
) -> None:
    """Print speed, closeness to float32 and nearest neighbours for float32 and for int8, calibrated in two ways."""
    if photos is None:
        files = [(file.key.partition("/")[0], file.body) for file in sorted(demo_files(), key=lambda file: file.key)]
        pixels, labels = _decoded(files)
    else:
        paths = (path for path in sorted(photos.glob("*/*")) if path.is_file())
        pixels, labels = _decoded((path.parent.name, path.read_bytes()) for path in paths)
    # Spread over the labels, and at most half, so that the cosine is of photos no network was calibrated on.
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(PHOTOS, len(pixels) // 2)).astype(int))
    others = np.setdiff1d(np.arange(len(pixels)), chosen)
    calibrations = {
        "float32": None,
        f"int8, calibrated on {len(chosen)} of the photos": pixels[chosen],
        f"int8, calibrated on {PHOTOS} drawn pictures": network.sample_pictures(PHOTOS, seed=0),
    }
    networks = {name: _compiled(weights, pictures) for name, pictures in calibrations.items()}
    featurizers = {name: Featurizer(compiled) for name, compiled in networks.items()}
    seconds = interleaved_s(list(featurizers.values()), pixels)
    features = {name: featurizer.features(pixels) for name, featurizer in featurizers.items()}
    title = f"{len(pixels)} photos of {len(set(labels))} labels, weights {weights}, one thread"
    table = Table("network", title=title)
    for column in ("photos/s", "x float32", "mean cosine", "least cosine", "nearest has label", "bytes"):
        table.add_column(column, justify="right")
    for number, (name, found) in enumerate(features.items()):
        cosines = network.cosines(features["float32"][others], found[others])
        table.add_row(
            name,
            f"{1 / np.median(seconds[:, number]):.0f}",
            f"{np.median(seconds[:, 0] / seconds[:, number]):.2f}",
            f"{cosines.mean():.4f}",
            f"{cosines.min():.4f}",
            f"{same_label(found, labels):.1%}",
            f"{len(networks[name]):,}",
        )
    Console(width=140).print(table)


def _compiled(weights: str, pictures: NDArray[np.uint8] | None) -> bytes:
    calibrate = None if pictures is None else lambda *_: Calibration(pictures, "photos of a benchmark")
    return compile_weights(weights, print, calibrate=calibrate).network


def interleaved_s(featurizers: list[Featurizer], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Seconds that each featurizer takes for one photo, (rounds, featurizers); a round gives all the same photo."""
    seconds = np.empty((ROUNDS, len(featurizers)))
    for number, row in enumerate(seconds):
        photo = pixels[number % len(pixels)][None]
        for column, featurizer in enumerate(featurizers):
            # Once unmeasured: the networks before it have taken the core's cache.
            featurizer.features(photo)
            began = time.perf_counter()
            featurizer.features(photo)
            row[column] = time.perf_counter() - began
    return seconds


def same_label(features: NDArray[np.float32], labels: NDArray[np.str_]) -> float:
    """The share of photos whose nearest other photo, by cosine, has the same label."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    return float((labels[likeness.argmax(axis=1)] == labels).mean())


def _decoded(files: Iterable[tuple[str, bytes]]) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Photos (n, 224, 224, 3), 0 to 255, and what is on them, (n,)."""
    limits = load_settings().limits
    pixels, labels = [], []
    for label, body in files:
        try:
            pixels.append(decode(body, limits).pixels)
        except Rejected:
            continue
        labels.append(label)
    if len(pixels) < 2:
        raise InvalidSetting("Two photos are the least to compare; name a folder of <label>/<photo>.")
    return np.stack(pixels), np.array(labels)


if __name__ == "__main__":
    typer.run(main)
