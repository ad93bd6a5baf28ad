"""The pace of `fruits refeaturize` from copies and from originals: processor time for each photo, commits included.

Run as `python -m benchmarks.refeaturize [VAL] [--weights FILE]`. Homes with the same photos, one with their copies
alone and one with their originals, get features of another network in turns, in this process and without Spark;
processor time is counted, so that other work on the machine disturbs both alike. With a folder
`<group>/<label>/<photo>` some real photos are taken, too; each gets a comment, so that no copy is simply the photo.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from batch.refeaturize.refeaturize import RefeaturizeOptions, refeaturize
from bootstrap.weights.weights import CompiledNetwork, compile_weights
from store.models.registry import publish_featurizer
from store.settings import Settings, load_settings
from tests.support.ingested import ingest
from tests.support.pictures import encoded, grainy
from tests.support.spark_here import SparkHere
from tests.support.stream_run import drop

SIZES_PX = {"12 MP, drawn": (4032, 3024), "350 px, drawn": (467, 350)}
PHOTOS = {"12 MP, drawn": 60, "350 px, drawn": 300}
REAL_PHOTOS = 150
PICTURES = 6
TURNS = 5
# The pixels that each way makes features of: those of the copies, and those of a home without copies.
WAYS = {"copy": 300, "landing": None}


def main() -> None:
    parser = argparse.ArgumentParser(description="The pace of refeaturizing.")
    parser.add_argument("folder", type=Path, nargs="?", metavar="VAL")
    parser.add_argument("--weights", default="auto")
    given = parser.parse_args()
    networks = compile_weights("untrained:7:mobilenet_v3_small@48", print), compile_weights(given.weights, print)
    for name, (width_px, height_px) in SIZES_PX.items():
        drawn = [encoded(grainy(seed, width_px, height_px), "JPEG", quality=92) for seed in range(PICTURES)]
        _compare(name, [drawn[number % PICTURES] for number in range(PHOTOS[name])], *networks)
    if given.folder:
        photos = sorted(path for path in given.folder.glob("*/*/*.jpg") if path.is_file())
        some = photos[:: -(-len(photos) // REAL_PHOTOS)]
        _compare("photos of VAL", [path.read_bytes() for path in some], *networks)


def _compare(name: str, bodies: Sequence[bytes], first: CompiledNetwork, second: CompiledNetwork) -> None:
    with TemporaryDirectory() as folder:
        made = {way: _home(Path(folder, way), bodies, first, second, way) for way in WAYS}
        # The first turn loads libraries, and does not count.
        turns = [[_seconds(made[way], way, len(bodies)) for way in WAYS] for _ in range(1 + TURNS)][1:]
    copies, originals = 1e3 * np.array(turns).T / len(bodies)
    print(
        f"{name}: {np.median(copies):.1f} ms of processor time a photo from copies, {np.median(originals):.1f} ms from "
        f"originals, {np.median(originals / copies):.1f} times as long ({(originals / copies).min():.1f} to "
        f"{(originals / copies).max():.1f})",
        flush=True,
    )


def _home(folder: Path, bodies: Sequence[bytes], first: CompiledNetwork, second: CompiledNetwork, way: str) -> Settings:
    settings = load_settings(home=str(folder), copies=way == "copy", clean="delete" if way == "copy" else "keep")
    home = settings.places()
    _publish(settings, first, None)
    drop(settings, {f"kiwi/{number}.jpg": _with_comment(body) for number, body in enumerate(bodies)})
    ingest(settings)
    _publish(settings, second, WAYS[way])
    assert home.root.directory == folder
    return settings


def _publish(settings: Settings, network: CompiledNetwork, copy_px: int | None) -> None:
    home = settings.places()
    publish_featurizer(home, network.network, network.source, network.fingerprint, kind=network.kind, copy_px=copy_px)


def _seconds(settings: Settings, way: str, photos: int) -> float:
    """Processor time of a whole run on a copy of a home."""
    here: Any = SparkHere()
    with TemporaryDirectory() as folder:
        shutil.copytree(settings.home, folder, dirs_exist_ok=True)
        copied = load_settings(home=folder)
        home = copied.places()
        options = RefeaturizeOptions(settings.limits, share=1.0)
        began_s = time.process_time()
        [done] = refeaturize(here, home, options, print, lambda _, __: None)
        taken_s = time.process_time() - began_s
    assert done.places == {way: photos}, done
    return taken_s


def _with_comment(body: bytes) -> bytes:
    return body[:2] + b"\xff\xfe\0\x04??" + body[2:] if body.startswith(b"\xff\xd8") else body


if __name__ == "__main__":
    main()
