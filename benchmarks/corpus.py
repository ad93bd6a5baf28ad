"""Folders of photos to measure with: as many as asked for, sized like a phone's, no two files alike."""

import io
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from features.errors import InvalidSetting
from ops.demo.photos import demo_files

Kind: TypeAlias = Literal["12MP", "350px", "100px"]

DRAWN_PHOTOS = 24


@dataclass(frozen=True)
class Corpus:
    """A folder of `count` JPEG files `<label>/<n>.jpg`; the description names no place."""

    folder: Path
    count: int
    description: str


def make_corpus(folder: Path, kind: Kind, count: int, photos: Path | None) -> Corpus:
    """Fill `folder` with `count` JPEG files of one kind and say what is in it.

    photos: a folder of labelled JPEG files, `<label>/<any name>.jpg`, to make them from; None has them drawn.
    A 12MP file is 4032 x 3024 px, 3 to 5 MB, and half of them are turned by EXIF; the others are square and upright.
    Raises InvalidSetting when the folder exists, or `photos` has no JPEG file.
    """
    if folder.exists():
        raise InvalidSetting(f"{folder} exists already; choose another folder.")
    sources = _drawn() if photos is None else _jpegs_below(photos)
    size_bytes = _write(folder, _KINDS[kind], count, sources)
    return Corpus(folder, count, _description(_KINDS[kind], count, size_bytes, sources, drawn=photos is None))


@dataclass(frozen=True)
class _Kind:
    width_px: int
    height_px: int
    smallest_bytes: int
    largest_bytes: int
    qualities: tuple[int, int]
    renderings: int
    orientations: tuple[int, ...]


# Renderings differ in every pixel; beyond them files differ in their EXIF id alone, which is enough for their hash.
_KINDS: dict[Kind, _Kind] = {
    "12MP": _Kind(4032, 3024, 3_200_000, 4_800_000, (92, 95), 24, (1, 6, 1, 8, 1, 3)),
    "350px": _Kind(350, 350, 16_000, 24_000, (75, 85), 200, (1,)),
    "100px": _Kind(100, 100, 3_000, 5_000, (75, 85), 200, (1,)),
}


@dataclass(frozen=True)
class _Jpeg:
    label: str
    body: bytes


_ORIENTATION, _EXIF_IFD, _UNIQUE_ID = 0x0112, 0x8769, 0xA420
_NO_ID = b"0" * 32
# What undoes the turn that each orientation asks a viewer for.
_AS_STORED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def _write(folder: Path, kind: _Kind, count: int, sources: list[_Jpeg]) -> int:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        numbers = range(min(count, kind.renderings))
        renderings = list(pool.map(lambda number: _rendering(kind, sources[number % len(sources)], number), numbers))
    size_bytes = 0
    for number in range(count):
        rendering = renderings[number % len(renderings)]
        path = folder / rendering.label / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rendering.body.replace(_NO_ID, b"%032x" % (number + 1), 1))
        size_bytes += len(rendering.body)
    return size_bytes


def _rendering(kind: _Kind, source: _Jpeg, number: int) -> _Jpeg:
    rng = np.random.default_rng(number)
    orientation = kind.orientations[number % len(kind.orientations)]
    clean = _framed(kind, source, orientation, rng)
    noise = _noise(rng)
    goal_bytes = int(rng.integers(kind.smallest_bytes, kind.largest_bytes))
    quality = int(rng.integers(*kind.qualities, endpoint=True))
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    # Room for an id: filled in afterwards, it makes files differ without encoding them again.
    exif.get_ifd(_EXIF_IFD)[_UNIQUE_ID] = _NO_ID.decode()
    # Enlarged pictures are smooth and would be small and quick to decode; a sensor's grain gives the entropy back.
    weakest, strongest = 0.0, 24.0
    for _ in range(7):
        strength = (weakest + strongest) / 2
        buffer = io.BytesIO()
        _grainy(clean, noise, strength, rng).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", exif=exif)
        body = buffer.getvalue()
        if abs(len(body) - goal_bytes) < 0.05 * goal_bytes:
            break
        weakest, strongest = (strength, strongest) if len(body) < goal_bytes else (weakest, strength)
    return _Jpeg(source.label, body)


def _framed(kind: _Kind, source: _Jpeg, orientation: int, rng: np.random.Generator) -> Image.Image:
    size = (kind.height_px, kind.width_px) if orientation in (6, 8) else (kind.width_px, kind.height_px)
    with Image.open(io.BytesIO(source.body)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    # Each rendering frames its source anew, so that two of one source are two pictures.
    bleed = float(rng.uniform(0, 0.12))
    centring = (float(rng.uniform()), float(rng.uniform()))
    picture = ImageOps.fit(upright, size, Image.Resampling.BICUBIC, bleed, centring)
    if rng.integers(2):
        picture = ImageOps.mirror(picture)
    return picture.transpose(_AS_STORED[orientation]) if orientation in _AS_STORED else picture


_TILE_PX = 1024


def _noise(rng: np.random.Generator) -> NDArray[np.float32]:
    # Half of it as fine as the pixels and half twice as coarse, and grey: a phone's denoising leaves no coloured grain.
    fine = rng.standard_normal((_TILE_PX, _TILE_PX), dtype=np.float32)
    coarse = rng.standard_normal((_TILE_PX // 2, _TILE_PX // 2), dtype=np.float32)
    wide = np.asarray(Image.fromarray(coarse).resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC))
    both: NDArray[np.float32] = fine + wide
    return both


def _grainy(clean: Image.Image, noise: NDArray[np.float32], strength: float, rng: np.random.Generator) -> Image.Image:
    tile = Image.fromarray(np.clip(128 + strength * noise, 0, 255).astype(np.uint8))
    grain = Image.new("L", clean.size)
    # One tile many times, each time begun elsewhere: noise for every pixel would take longer than all the rest.
    for top_px in range(0, clean.height, _TILE_PX):
        for left_px in range(0, clean.width, _TILE_PX):
            shifted = ImageChops.offset(tile, *(int(shift) for shift in rng.integers(0, _TILE_PX, 2)))
            grain.paste(shifted, (left_px, top_px))
    return ImageChops.add(clean, Image.merge("RGB", [grain] * 3), offset=-128)


def _jpegs_below(photos: Path) -> list[_Jpeg]:
    by_label: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(photos.glob("*/*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            by_label[path.parent.name].append(path)
    if not by_label:
        raise InvalidSetting(f"There is no <label>/<name>.jpg below {photos}; give a folder of labelled photos.")
    # One of each label in turn, so that a few renderings show many labels.
    paths = (path for turn in zip_longest(*by_label.values()) for path in turn if path is not None)
    most = max(kind.renderings for kind in _KINDS.values())
    return [_Jpeg(path.parent.name, path.read_bytes()) for path in islice(paths, most)]


def _drawn() -> list[_Jpeg]:
    # The drawing's own files include other formats and broken ones; twice as many hold enough whole JPEGs.
    jpegs = (file for file in demo_files(2 * DRAWN_PHOTOS) if file.body.startswith(b"\xff\xd8\xff"))
    whole = (file for file in jpegs if file.body.endswith(b"\xff\xd9"))
    return [_Jpeg(file.key.partition("/")[0], file.body) for file in islice(whole, DRAWN_PHOTOS)]


def _description(kind: _Kind, count: int, size_bytes: int, sources: list[_Jpeg], drawn: bool) -> str:
    mean = size_bytes / count
    size = f"{mean / 1e6:.1f} MB" if mean >= 1e6 else f"{mean / 1e3:.1f} kB"
    renderings = min(count, kind.renderings)
    origin = f"{min(renderings, len(sources))} {'drawn' if drawn else 'given'} photos"
    turned = ", half of them turned by EXIF" if len(kind.orientations) > 1 else ""
    return (
        f"{count} JPEG files of {kind.width_px} x {kind.height_px} px, {size} on average{turned}; "
        f"{renderings} different pictures, framed anew from {origin} and given a sensor's grain"
    )
