"""What copies cost and what they keep: processor time and bytes for each photo, features, and names.

Run as `python -m benchmarks.copies [TRAIN VAL --weights FILE]`. Each turn decodes and featurizes the same drawn photos
in each way, one way after the other, and counts processor time: other work on the machine then disturbs all ways alike.
With two folders `<group>/<label>/<photo>`, as in `benchmarks.identification`, real photos are named from copies, too.
Each of those gets a segment that cannot be taken out, so that no copy is simply the photo; drawn ones get a comment.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.identification import MIN_ROWS, Photos
from bootstrap.weights.network import keras_quietly
from bootstrap.weights.weights import compile_weights
from features.classifier import name_rows, within_labels
from features.featurizer import Featurizer, Recipe
from features.image import Limits, decode
from store.home import Home
from store.settings import load_settings
from store.tables.copies import CopySpool
from store.tables.files import write_large_file
from store.tables.schemas import COPY_ROWS
from tests.support.pictures import encoded, grainy

SIZES_PX = {"12 MP, drawn": (4032, 3024), "350 px, drawn": (467, 350)}
# How often each drawn picture comes in a turn: a task writes one file of copies for some hundred photos.
REPEATED = {"12 MP, drawn": 4, "350 px, drawn": 20}
REAL_PHOTOS = 150
WAYS = {"without copies": None, "copies of 300 px": 300, "copies of 512 px": 512}
PICTURES = 6
TURNS = 5
LIMITS = Limits(max_image_bytes=2**26, max_pixels=10**8)
_ROW = {"image_id": "0" * 64, "source": "s3://bucket/landing/kiwi/1.jpg", "etag": "e", "batch": 1}
_DAY = {"ingest_date": "2026-01-01"}


def main() -> None:
    parser = argparse.ArgumentParser(description="What copies cost and what they keep.")
    parser.add_argument("folders", type=Path, nargs="*", metavar="TRAIN VAL")
    parser.add_argument("--weights", default="auto")
    given = parser.parse_args()
    featurizer = Featurizer(compile_weights(given.weights, print).network)
    with TemporaryDirectory() as folder:
        home = load_settings(home=folder).places()
        for name, (width_px, height_px) in SIZES_PX.items():
            drawn = [encoded(grainy(seed, width_px, height_px), "JPEG", quality=92) for seed in range(PICTURES)]
            _costs(name, [_with_comment(body) for body in drawn] * REPEATED[name], featurizer, home)
        if given.folders:
            photos = sorted(path for path in given.folders[1].glob("*/*/*") if path.is_file())
            some = [path.read_bytes() for path in photos[:: -(-len(photos) // REAL_PHOTOS)]]
            _costs("photos of VAL with a comment", [_with_comment(body) for body in some], featurizer, home)
            _costs("photos of VAL, written anew", [_with_adobes(body) for body in some], featurizer, home)
    if given.folders:
        train, val = given.folders
        whole = _by_keras(val, Path(given.weights)) if given.weights.endswith(".h5") else None
        _names(train, val, featurizer, whole)


def _costs(name: str, bodies: Sequence[bytes], featurizer: Featurizer, home: Home) -> None:
    ways = {way: [0.0] * TURNS for way in WAYS}
    for turn in range(TURNS):
        for way, copy_px in WAYS.items():
            ways[way][turn] = _seconds(partial(_taken, bodies, featurizer, home, copy_px)) / len(bodies)
    landed_bytes = sum(map(len, bodies))
    base = np.array(ways["without copies"])
    for way, copy_px in WAYS.items():
        taken = np.array(ways[way])
        more = np.median(taken / base - 1)
        line = f"{name}, {way}: {1e3 * np.median(taken):.2f} ms of processor time a photo"
        if copy_px is not None:
            copied_bytes = sum(len(decode(body, LIMITS, Recipe(copy_px=copy_px)).copy or b"") for body in bodies)
            line += f" ({more:+.1%}), {copied_bytes / len(bodies) / 1e3:.0f} KB, 1/{landed_bytes / copied_bytes:.0f}"
        print(line, flush=True)


def _taken(bodies: Sequence[bytes], featurizer: Featurizer, home: Home, copy_px: int | None) -> None:
    with CopySpool() as spool:
        for body in bodies:
            photo = decode(body, LIMITS, Recipe(copy_px=copy_px))
            featurizer.features(photo.pixels[None])
            if photo.copy is not None:
                spool.add({**_ROW, "arrived_at": datetime.now(UTC)}, photo.copy)
        if copy_px is not None:
            write_large_file(home, COPY_ROWS, spool.parts, _DAY)


def _seconds(work: Callable[[], None]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def _names(train: Path, val: Path, featurizer: Featurizer, whole: NDArray[np.float32] | None) -> None:
    vectors: dict[str, NDArray[np.float32]] = {}
    for way, copy_px in WAYS.items():
        fitted, named = (_photos(folder, featurizer, copy_px) for folder in (train, val))
        classifier = within_labels(fitted.sums(), MIN_ROWS).classifier()
        names = name_rows(classifier, named.vectors)
        accuracy = (np.array(classifier.labels)[names.places[:, 0]] == named.labels).mean()
        vectors[way] = named.vectors
        line = f"{way}: accuracy {accuracy:.3f}, cosine with ours of photos"
        line += f" {_cosines(vectors['without copies'], named.vectors).mean():.4f}"
        if whole is not None:
            cosines = _cosines(whole, named.vectors)
            line += f", with Keras's of whole photos {cosines.mean():.4f} (least {cosines.min():.3f})"
        print(line, flush=True)


def _cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: NDArray[np.float32] = (ours * theirs).sum(axis=1) / lengths
    return cosines


def _by_keras(folder: Path, weights: Path) -> NDArray[np.float32]:
    """What Keras's own MobileNetV2 sees in photos that were decoded whole and resized once."""
    applications = keras_quietly().applications
    model = applications.MobileNetV2(include_top=False, pooling="avg", weights=str(weights), input_shape=(224, 224, 3))
    vectors: list[NDArray[np.float32]] = []
    for path in sorted(path for path in folder.glob("*/*/*") if path.is_file()):
        with Image.open(path) as photo:
            seen = ImageOps.exif_transpose(photo).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        scaled = applications.mobilenet_v2.preprocess_input(np.asarray(seen, np.float32)[None])
        vectors.append(np.asarray(model(scaled, training=False), np.float32))
    return np.concatenate(vectors)


def _photos(folder: Path, featurizer: Featurizer, copy_px: int | None) -> Photos:
    paths = sorted(path for path in folder.glob("*/*/*") if path.is_file())
    pixels = (decode(_with_adobes(path.read_bytes()), LIMITS, Recipe(copy_px=copy_px)).pixels for path in paths)
    return Photos(
        np.concatenate([featurizer.features(picture[None]) for picture in pixels]),
        np.array([path.parent.name for path in paths]),
        np.array([path.parent.parent.name for path in paths]),
    )


def _with_comment(body: bytes) -> bytes:
    return body[:2] + b"\xff\xfe\0\x04??" + body[2:] if body.startswith(b"\xff\xd8") else body


def _with_adobes(body: bytes) -> bytes:
    return body[:2] + b"\xff\xee\0\x04??" + body[2:] if body.startswith(b"\xff\xd8") else body


if __name__ == "__main__":
    main()
