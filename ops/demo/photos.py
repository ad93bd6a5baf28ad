"""The files of the demo: phone photos of fruit in every format, and four broken uploads."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

from ops.demo.scenes import FRUITS, Rng, draw_mug, draw_scene

FEWEST_FILES = 12
# With fewer, most labels have too few photos to be told apart.
FEWEST_WITH_SURPRISES = 40

MUG = "mug"

_FLAWS = ("empty", "truncated", "text", "corrupt")
# The suffix of each format, and how Pillow saves it quickly: sensor noise leaves a PNG nothing to compress.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("jpg", {"quality": 88}),
    "PNG": ("png", {"compress_level": 1, "compress_type": 2}),
    "WEBP": ("webp", {"quality": 85, "method": 0}),
    "HEIF": ("heic", {"quality": 80, "enc_params": {"preset": "ultrafast"}}),
}
# Names that trip URL decoding, Unicode normalisation, three-byte encodings and one-level listings.
_ODD_NAMES = {1: "{} market+stall", 2: "{}_été", 3: "{}_🍓", 4: "2026/10/{}"}
_PHONES = (
    ("Google", "Pixel 8", "PXL_%Y%m%d_%H%M%S000"),
    ("samsung", "SM-S911B", "%Y%m%d_%H%M%S"),
    ("Fairphone", "FP5", "IMG_%Y%m%d_%H%M%S"),
)
# Markets in Lyon, Munich, Bologna, Ghent and Porto: degrees north, degrees east.
_MARKETS = ((45.764, 4.827), (48.135, 11.576), (44.494, 11.343), (51.054, 3.725), (41.149, -8.606))
_DEGREES = {1: 0, 6: 90, 3: 180, 8: 270}

register_heif_opener()


@dataclass(frozen=True)
class DemoFile:
    """One file as a phone would upload it; `key` is below the landing prefix and its first folder is the label.

    `shows` is the fruit on it; `mug` for the one photo that shows none, and None for a broken file.
    """

    key: str
    body: bytes
    shows: str | None

    @property
    def label(self) -> str | None:
        folder, _, name = self.key.partition("/")
        return folder if name else None


def demo_files(count: int = 80, seed: int = 2026) -> Iterator[DemoFile]:
    """Draw `count` files one at a time, four of them broken and the rest photos; `seed` alone decides every byte.

    From 40 files on, one photo of the first half is in the folder of another fruit, and one of the last fifth shows a
    mug and is in no folder.
    Photos are 1600x1200 px, one in 27 is 4032x3024 px; upright, either side may be the long one.
    """
    if count < FEWEST_FILES:
        raise ValueError(f"count is {count}, the least that shows every kind of file is {FEWEST_FILES}")
    for shot in _plan(count, seed):
        yield DemoFile(shot.key, _body(shot), None if shot.flaw else shot.shows)


@dataclass(frozen=True)
class _Shot:
    shows: str
    key: str
    taken: datetime
    phone: tuple[str, str, str]
    long_side_px: int
    portrait: bool
    format: str
    orientation: int
    flaw: str
    draw_seed: tuple[int, int]


def _plan(count: int, seed: int) -> list[_Shot]:
    rng = np.random.default_rng(seed)
    flaws = [""] * (count - len(_FLAWS)) + list(_FLAWS)
    taken = datetime(2026, 10, 3, 7, 30)
    shots = []
    for i, flaw in enumerate(flaws):
        taken += timedelta(seconds=int(rng.integers(20, 400)))
        label, phone = list(FRUITS)[i % len(FRUITS)], _PHONES[taken.second % len(_PHONES)]
        # Periods prime to the ten labels, so that no label owns a format or an orientation.
        sound = {4: "HEIF", 5: "PNG", 6: "WEBP"}.get(i % 19, "JPEG")
        format_ = "PNG" if flaw == "corrupt" else "JPEG" if flaw else sound
        turn = (6, 1, 8, 3, 1, 6, 1)[i % 7]
        key = f"{label}/{_ODD_NAMES.get(i, '{}').format(taken.strftime(phone[2]))}.{_FORMATS[format_][0]}"
        orientation = turn if format_ == "JPEG" else 1
        side_px = 4032 if i % 27 == 7 and not flaw else 1600
        shots.append(_Shot(label, key, taken, phone, side_px, turn in (6, 8), format_, orientation, flaw, (seed, i)))
    shots = [shots[i] for i in rng.permutation(count)]
    return _with_surprises(shots) if count >= FEWEST_WITH_SURPRISES else shots


def _with_surprises(shots: list[_Shot]) -> list[_Shot]:
    sound = [place for place, shot in enumerate(shots) if not shot.flaw and shot.key.count("/") == 1]
    # Of both kinds enough others are there, so that one can see what it is and what it is not.
    kinds = Counter(shots[place].shows for place in sound[: len(sound) // 2])
    (commonest, _), (wrong, _) = kinds.most_common(2)
    first, last = next(place for place in sound if shots[place].shows == commonest), sound[-1]
    shots[first] = replace(shots[first], key=f"{wrong}/{shots[first].key.split('/')[1]}")
    shots[last] = replace(shots[last], shows=MUG, key=shots[last].key.split("/")[1])
    return shots


def _body(shot: _Shot) -> bytes:
    body = _photo(shot)
    middle = len(body) // 2
    return {
        "empty": b"",
        "text": b"The upload was interrupted. Please take the photo again.\n",
        "truncated": body[:middle],
        "corrupt": body[:middle] + bytes(512) + body[middle + 512 :],
    }.get(shot.flaw, body)


def _photo(shot: _Shot) -> bytes:
    rng = np.random.default_rng(shot.draw_seed)
    # Drawn smaller than it is shot and then enlarged: finer detail would drown in the noise.
    size_px = (480, 640) if shot.portrait else (640, 480)
    scene = draw_mug(*size_px, rng) if shot.shows == MUG else draw_scene(shot.shows, *size_px, rng)
    stored = scene.rotate(_DEGREES[shot.orientation], expand=True)
    picture, body = _exposed(stored, shot.long_side_px, rng), BytesIO()
    picture.save(body, shot.format, exif=_exif(shot, rng), **_FORMATS[shot.format][1])
    return body.getvalue()


def _exif(shot: _Shot, rng: Rng) -> Image.Exif:
    written = shot.taken.strftime("%Y:%m:%d %H:%M:%S")
    north, east = _MARKETS[int(rng.integers(len(_MARKETS)))] + rng.uniform(-0.01, 0.01, 2)
    seconds = [round(abs(degrees) * 3600) for degrees in (north, east)]
    arcs = [(float(each // 3600), float(each // 60 % 60), float(each % 60)) for each in seconds]
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x0132] = *shot.phone[:2], shot.orientation, written
    exif.get_ifd(0x8769)[0x9003] = written
    exif.get_ifd(0x8825).update({1: "N", 2: arcs[0], 3: "E" if east > 0 else "W", 4: arcs[1]})
    return exif


def _exposed(scene: Image.Image, long_side_px: int, rng: Rng) -> Image.Image:
    """A scene as a phone stores it: enlarged, with a colour cast and sensor noise."""
    picture = ImageOps.contain(scene, (long_side_px, long_side_px), Image.Resampling.BILINEAR)
    # One tile of noise is repeated: noise for every pixel would cost more than drawing the fruit.
    tile = (rng.uniform(2, 5) * rng.standard_normal((251, 251, 3), dtype=np.float32)).astype(np.int16)
    noise = np.tile(tile, (picture.height // 251 + 1, picture.width // 251 + 1, 1))[: picture.height, : picture.width]
    tint = rng.uniform(0.95, 1.05, 3).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(picture) * tint + noise, 0, 255).astype(np.uint8))
