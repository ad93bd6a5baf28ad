"""Phone photos of fruit, drawn from nothing, for machines that have no photos to ingest."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import BytesIO
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from PIL.TiffImagePlugin import IFDRational
from pillow_heif import register_heif_opener

# Colours are planar, (3, height, width): with the colour axis last, mixing takes three times as long.
Plane: TypeAlias = npt.NDArray[np.floating[Any]]
Rng: TypeAlias = np.random.Generator
_Vector: TypeAlias = tuple[float, float, float]

FEWEST_FILES = 12

register_heif_opener()


@dataclass(frozen=True)
class DemoFile:
    """One file as a phone would upload it; `key` sits below the landing prefix and its first folder is the label."""

    key: str
    body: bytes


def demo_files(count: int = 80, seed: int = 2026) -> Iterator[DemoFile]:
    """Draw `count` files one at a time, four of them broken and the rest photos; `seed` alone decides every byte.

    Photos are 1600x1200 px, one in 27 is 4032x3024 px; upright, either side may be the long one.
    """
    if count < FEWEST_FILES:
        raise ValueError(f"count is {count}, the least that shows every kind of file is {FEWEST_FILES}")
    for shot in _plan(count, seed):
        yield DemoFile(shot.key, _body(shot))


@dataclass(frozen=True)
class _Shot:
    label: str
    key: str
    taken: datetime
    long_side_px: int
    portrait: bool
    format: str
    orientation: int
    flaw: str
    draw_seed: tuple[int, int]


_FLAWS = ("empty", "truncated", "text", "corrupt")
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "HEIF": "heic"}
# Names that trip URL decoding, Unicode normalisation, three-byte encodings and one-level listings.
_ODD_NAMES = {1: "{} market+stall", 2: "{}_été", 3: "{}_🍓", 4: "2026/10/{}"}
_PHONES = (
    ("Google", "Pixel 8", "PXL_%Y%m%d_%H%M%S000"),
    ("samsung", "SM-S911B", "%Y%m%d_%H%M%S"),
    ("Fairphone", "FP5", "IMG_%Y%m%d_%H%M%S"),
)
# Markets in Lyon, Munich, Bologna, Ghent and Porto: degrees north, degrees east.
_MARKETS = ((45.764, 4.827), (48.135, 11.576), (44.494, 11.343), (51.054, 3.725), (41.149, -8.606))


def _plan(count: int, seed: int) -> list[_Shot]:
    rng = np.random.default_rng(seed)
    photos = count - len(_FLAWS)
    taken = datetime(2026, 10, 3, 7, 30)
    shots = []
    for i in range(count):
        taken += timedelta(seconds=int(rng.integers(20, 400)))
        label = list(_FRUITS)[i % len(_FRUITS)]
        flaw = _FLAWS[i - photos] if i >= photos else ""
        # Periods prime to the ten labels, so that no label owns a format or an orientation.
        sound = {4: "HEIF", 5: "PNG", 6: "WEBP"}.get(i % 19, "JPEG")
        format_ = "PNG" if flaw == "corrupt" else "JPEG" if flaw else sound
        turn = (6, 1, 8, 3, 1, 6, 1)[i % 7]
        name = _ODD_NAMES.get(i, "{}").format(taken.strftime(_phone(taken)[2]))
        shot = _Shot(
            label=label,
            key=f"{label}/{name}.{_SUFFIXES[format_]}",
            taken=taken,
            long_side_px=4032 if i % 27 == 7 and not flaw else 1600,
            portrait=turn in (6, 8),
            format=format_,
            orientation=turn if format_ == "JPEG" else 1,
            flaw=flaw,
            draw_seed=(seed, i),
        )
        shots.append(shot)
    return [shots[i] for i in rng.permutation(count)]


def _phone(taken: datetime) -> tuple[str, str, str]:
    return _PHONES[taken.second % len(_PHONES)]


def _body(shot: _Shot) -> bytes:
    if shot.flaw == "empty":
        return b""
    if shot.flaw == "text":
        return b"The upload was interrupted. Please take the photo again.\n"
    body = _photo(shot)
    middle = len(body) // 2
    if shot.flaw == "truncated":
        return body[:middle]
    if shot.flaw == "corrupt":
        return body[:middle] + bytes(255 - b for b in body[middle : middle + 512]) + body[middle + 512 :]
    return body


_QUARTER_TURNS = {1: 0, 6: 1, 3: 2, 8: 3}


def _photo(shot: _Shot) -> bytes:
    rng = np.random.default_rng(shot.draw_seed)
    stored = np.rot90(_scene(shot, rng), _QUARTER_TURNS[shot.orientation], axes=(1, 2))
    picture = _developed(stored, shot.long_side_px, rng)
    buffer = BytesIO()
    if shot.format == "PNG":
        # Huffman coding only: sensor noise leaves nothing for string matching to find.
        picture.save(buffer, "PNG", compress_level=1, compress_type=2)
    elif shot.format == "WEBP":
        picture.save(buffer, "WEBP", quality=85, method=0)
    elif shot.format == "HEIF":
        picture.save(buffer, "HEIF", quality=80, enc_params={"preset": "ultrafast"})
    else:
        picture.save(buffer, "JPEG", quality=int(rng.integers(85, 93)), exif=_exif(shot, rng))
    return buffer.getvalue()


def _exif(shot: _Shot, rng: Rng) -> Image.Exif:
    make, model, _ = _phone(shot.taken)
    written = shot.taken.strftime("%Y:%m:%d %H:%M:%S")
    north, east = _MARKETS[int(rng.integers(len(_MARKETS)))] + rng.uniform(-0.01, 0.01, 2)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x0132] = make, model, shot.orientation, written
    exif.get_ifd(0x8769)[0x9003] = written
    exif.get_ifd(0x8825).update({1: "N", 2: _arc(north), 3: "E" if east > 0 else "W", 4: _arc(east)})
    return exif


def _arc(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    seconds = round(abs(degrees) * 3600)
    return IFDRational(seconds // 3600), IFDRational(seconds // 60 % 60), IFDRational(seconds % 60)


def _developed(scene: Plane, long_side_px: int, rng: Rng) -> Image.Image:
    height, width = scene.shape[1:]
    fall = rng.uniform(0.1, 0.3)
    down, across = (1 - fall * _array(np.linspace(-1, 1, side)) ** 2 for side in (height, width))
    balance = _array(rng.uniform(0.9, 1.1, (3, 1, 1)) * rng.uniform(0.9, 1.15))
    # No pixel is left within 12 of black or white, so that adding the noise modulo 256, the cheap way, cannot wrap.
    exposed = np.clip(scene * (down[:, None] * across) * balance, 0.05**2, 0.95**2)
    drawn = _pixels(exposed).filter(ImageFilter.BoxBlur(rng.uniform(0, 0.6)))
    zoom = long_side_px / max(height, width)
    picture = drawn.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BILINEAR)
    # One noise tile is repeated: noise for every pixel would cost more than drawing the fruit.
    grain = np.clip(rng.uniform(2, 5) * rng.standard_normal((251, 251, 3), dtype=np.float32), -12, 12)
    tile = Image.fromarray(grain.astype(np.int8).view(np.uint8))
    noise = Image.new("RGB", picture.size)
    for left_px, top_px in product(range(0, picture.width, 251), range(0, picture.height, 251)):
        noise.paste(tile, (left_px, top_px))
    return ImageChops.add_modulo(picture, noise)


def _scene(shot: _Shot, rng: Rng) -> Plane:
    # Drawn smaller than it is shot and enlarged when developed: detail finer than that would drown in the noise.
    long_px = {1600: 640, 4032: 1008}[shot.long_side_px]
    short_px = long_px * 3 // 4
    height, width = (long_px, short_px) if shot.portrait else (short_px, long_px)
    fruit = _FRUITS[shot.label]
    light = _unit(rng.uniform(-0.7, 0.7), rng.uniform(-0.8, -0.3), 1)
    canvas = _surface(height, width, rng)
    count = int(rng.integers(fruit.fewest, fruit.most + 1))
    radius_px = short_px * rng.uniform(0.36, 0.44) / count**0.45 * fruit.scale
    for i, (x_px, y_px) in enumerate(_spots(count, radius_px, height, width, rng)):
        piece_px = radius_px * rng.uniform(0.88, 1.1)
        draw = fruit.forms[int(rng.integers(len(fruit.forms))) if i else 0]
        side = _array(np.linspace(-fruit.reach, fruit.reach, round(2 * fruit.reach * piece_px)))
        x, y = _turned(side[None, :], side[:, None], rng.normal(0, fruit.lean_rad))
        _place(canvas, draw(x, y, rng), x_px, y_px, piece_px, light)
    return canvas


def _spots(count: int, radius_px: float, height: int, width: int, rng: Rng) -> list[tuple[float, float]]:
    spots = [(width * rng.uniform(0.4, 0.6), height * rng.uniform(0.42, 0.58))]
    margin_px = min(0.8 * radius_px, 0.4 * width)
    while len(spots) < count:
        tries = rng.uniform(margin_px, (width - margin_px, height - margin_px), (40, 2))
        nearest = np.min(np.linalg.norm(tries[:, None] - np.array(spots), axis=2), axis=1)
        x_px, y_px = tries[np.argmin(np.abs(nearest - 1.85 * radius_px))].tolist()
        spots.append((x_px, y_px))
    return spots


@dataclass(frozen=True)
class _Piece:
    """One fruit on its own square of n pixels a side, lengths in fruit radii, all float32.

    `inside` (n, n) is the depth within the outline, negative outside; `height` (n, n) the relief towards the camera;
    `albedo` (3, n, n) linear colour; `gloss` runs from 0, matte, to 1, wet.
    """

    inside: Plane
    height: Plane
    albedo: Plane
    gloss: float


def _place(canvas: Plane, piece: _Piece, x_px: float, y_px: float, radius_px: float, light: _Vector) -> None:
    alpha = np.clip(piece.inside * radius_px + 0.5, 0, 1)
    left, top, margin_px = round(x_px - len(alpha) / 2), round(y_px - len(alpha) / 2), round(0.5 * radius_px)
    outline = Image.fromarray((np.pad(alpha, margin_px) * 255).astype(np.uint8))
    quarter = outline.resize((outline.width // 4, outline.height // 4), Image.Resampling.BOX)
    # A tight dark shadow where the fruit touches, and a wide soft one away from the light.
    for offset, blur in ((0.05, 0.05), (0.32, 0.14)):
        soft = quarter.filter(ImageFilter.GaussianBlur(blur * radius_px / 4)).resize(outline.size)
        shadow = np.asarray(soft, dtype=np.float32) * (0.6 / 255)
        drift_x, drift_y = -light[0] * offset * radius_px, (0.24 - 0.6 * light[1]) * offset * radius_px
        _blend(canvas, left - margin_px + round(drift_x), top - margin_px + round(drift_y), shadow, None)
    _blend(canvas, left, top, alpha, _lit(piece, radius_px, light))


def _blend(canvas: Plane, left: int, top: int, alpha: Plane, colour: Plane | None) -> None:
    rows = slice(max(-top, 0), min(alpha.shape[0], canvas.shape[1] - top))
    columns = slice(max(-left, 0), min(alpha.shape[1], canvas.shape[2] - left))
    window = canvas[:, rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
    window *= 1 - alpha[rows, columns]
    if colour is not None:
        window += colour[:, rows, columns] * alpha[rows, columns]


def _lit(piece: _Piece, radius_px: float, light: _Vector) -> Plane:
    slope_y, slope_x = np.gradient(piece.height * radius_px)
    up = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    facing = (light[2] - slope_x * light[0] - slope_y * light[1]) * up
    half = _unit(light[0], light[1], light[2] + 1)
    glint = np.clip((half[2] - slope_x * half[0] - slope_y * half[1]) * up, 0, 1) ** 2
    glint_8 = (glint * glint) ** 2
    # Wrapped diffuse light and a brighter sky side stand in for the many lamps and walls of a kitchen.
    diffuse = 0.95 * np.clip(0.82 * facing + 0.18, 0, 1) + 0.12 + 0.1 * slope_y * up
    shine = piece.gloss * (0.06 * glint_8 + 0.55 * glint_8**12) + 0.05 * (1 - up) ** 2
    return _array(piece.albedo * diffuse + shine)


def _apple(x: Plane, y: Plane, rng: Rng) -> _Piece:
    notch = 0.13 * np.exp(-((x / 0.3) ** 2)) * _step(0, -0.5, y)
    r = np.hypot(x / (0.96 - 0.1 * y), (y - notch) / 0.92)
    hollow = np.exp(-(x * x + ((y + 0.66) * 1.8) ** 2) / 0.06)
    streak = _around(np.arctan2(x, y + 0.8), 70, rng)
    ripe = _step(0.2, 0.6, _cloud(rng, len(x), 3) + 0.2 * streak + rng.uniform(-0.1, 0.3))
    albedo = _mix(_mix(_rgb(0xC98A3C), _rgb(0xB3242A), ripe), _rgb(0x860C1A), ripe * streak)
    freckle, tone = _dots(x * 11 + streak, y * 11, rng)
    albedo = _mix(_mix(albedo, _rgb(0xA8963C), 0.8 * hollow), _rgb(0xE0B080), 0.3 * tone * _step(0.13, 0.05, freckle))
    fruit = _Piece(1 - r, _dome(r) - 0.35 * hollow, albedo, 0.9)
    return _stemmed(fruit, x, y, -1.15, -0.7, _rgb(0x4A3018), rng)


def _orange(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r = np.hypot(x, y / 0.96)
    bulge = 1 + 0.25 * r * r
    lumps = _cloud(rng, len(x), 9)
    pore, _ = _dots(x * bulge * 20 + 2 * lumps, y * bulge * 20 - 2 * lumps, rng)
    pits = np.exp(-((pore / 0.28) ** 2))
    button_x, button_y = x - rng.uniform(-0.4, 0.4), y + rng.uniform(0.3, 0.7)
    button = np.hypot(button_x, button_y * 1.5)
    star = _step(-0.02, 0.02, 0.07 + 0.03 * np.cos(5 * np.arctan2(button_y, button_x)) - button)
    albedo = _mix(_rgb(0xF08A12), _rgb(0xE2700A), _cloud(rng, len(x), 4))
    albedo = _mix(_mix(albedo, _rgb(0xC85F08), 0.35 * pits), _rgb(0x6E7A30), star)
    height = _dome(r) - 0.011 * pits + 0.03 * lumps - 0.06 * np.exp(-((button / 0.14) ** 2))
    return _Piece(1 - r, height, albedo, 0.6)


def _lime(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r = np.hypot(x / 0.8, y * (1 - 0.1 * np.exp(-((x / 0.16) ** 2))))
    lumps = _cloud(rng, len(x), 9)
    pore, _ = _dots(x * 26 + 2 * lumps, y * 26 - 2 * lumps, rng)
    yellowing = 0.8 * _step(0.1, 1.0, _cloud(rng, len(x), 2) + rng.uniform(-0.2, 0.2))
    albedo = _mix(_mix(_rgb(0x3F8A1E), _rgb(0x2F6F16), lumps), _rgb(0x9DB83A), yellowing)
    albedo = _mix(albedo, _rgb(0x8A7B3C), _step(0.09, 0.05, np.hypot(x, y + 0.97)))
    return _Piece(1 - r, 0.85 * _dome(r) - 0.006 * np.exp(-((pore / 0.3) ** 2)), albedo, 0.95)


def _cut_lime(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r, angle = np.hypot(x, y / 0.94), np.arctan2(y, x)
    wall = np.abs(np.sin(angle * int(rng.integers(9, 12)) / 2 + 0.15 * np.sin(7 * r))) * r
    pulp = _step(0.03, 0.08, wall) * _step(0.9, 0.86, r) * _step(0.05, 0.1, r)
    albedo = _mix(_rgb(0xD8E2A8), _mix(_rgb(0xB4CC58), _rgb(0x93B53A), _around(angle, 150, rng)), pulp)
    albedo = _mix(albedo, _rgb(0x3A7F1C), _step(0.95, 0.98, r))
    return _Piece(1 - r, 0.03 * pulp * _around(angle, 90, rng) + 0.15 * _step(1.05, 0.9, r), albedo, 0.5)


def _pomegranate(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r = np.hypot(x, y / 0.94) * (1 + 0.025 * np.cos(6 * np.arctan2(y, x) + rng.uniform(0, 6)))
    blotch, speck = _step(0.45, 0.9, _cloud(rng, len(x), 4)), _step(0.55, 0.8, _cloud(rng, len(x), 40))
    albedo = _mix(_mix(_rgb(0xA82038), _rgb(0xD08A5E), 0.7 * blotch), _rgb(0x8A4A30), 0.5 * speck)
    teeth = y + 1.02 + 0.2 * np.abs(np.sin(x * 12 + 0.6))
    crown = np.where(y < -0.7, np.minimum(0.2 + 0.5 * np.clip(-0.88 - y, 0, 1) - np.abs(x), teeth), -1)
    albedo = _mix(albedo, _mix(_rgb(0xB0483A), _rgb(0x6B3220), _step(0.2, 0, crown)), _step(-0.02, 0.02, crown))
    height = np.where(crown > 0, 0.5 + 0.1 * np.cos(x * 24), _dome(r) + 0.02 * _cloud(rng, len(x), 12))
    return _Piece(np.maximum(0.97 - r, crown), height, albedo, 0.5)


def _cut_pomegranate(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r, angle = np.hypot(x, y / 0.95), np.arctan2(y, x) + rng.uniform(0, 6)
    wall = np.abs(np.sin(3 * angle + 0.5 * np.sin(4 * r))) * r
    distance, tone = _dots(x * 6.5, y * 6.5, rng)
    aril = _step(0.5, 0.4, distance) * _step(0.05, 0.12, wall) * _step(0.86, 0.8, r) * _step(0.08, 0.14, r)
    albedo = _mix(_rgb(0xE8CF9A), _mix(_rgb(0xB00F2C), _rgb(0x6E0618), tone), aril)
    albedo = _mix(albedo, _rgb(0xA8323A), _step(0.93, 0.96, r))
    domes = 0.09 * aril * np.sqrt(np.clip(1 - (distance / 0.52) ** 2, 0, 1))
    return _Piece(1 - r, domes + 0.1 * _step(1.05, 0.9, r), albedo, 1.0)


def _plum(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r = np.hypot(x / 0.86, y / 0.97)
    crease = np.exp(-(((x - 0.3 * (1 - y * y)) / 0.05) ** 2))
    bloom = _step(0.3, 0.8, _cloud(rng, len(x), 4)) * (0.35 + 0.65 * _cloud(rng, len(x), 24))
    albedo = _mix(_mix(_rgb(0x3A1030), _rgb(0x5A1638), _cloud(rng, len(x), 3)), _rgb(0x8088B8), 0.55 * bloom)
    fruit = _Piece(1 - r, _dome(r) - 0.07 * crease, _mix(albedo, _rgb(0x1C0818), 0.5 * crease), 0.35)
    return _stemmed(fruit, x, y, -1.12, -0.85, _rgb(0x5A4424), rng)


def _pear(x: Plane, y: Plane, rng: Rng) -> _Piece:
    belly, neck = np.hypot(x, y - 0.38) - 0.62, np.hypot(x - 0.06, y + 0.55) - rng.uniform(0.24, 0.34)
    blend = np.clip(0.5 + 0.5 * (neck - belly) / 0.6, 0, 1)
    depth = 0.6 * blend * (1 - blend) - neck - (belly - neck) * blend
    girth = 0.32 + 0.32 * blend
    speck, tone = _dots(x * 17, y * 17, rng)
    ripe = np.clip(_cloud(rng, len(x), 3) + rng.uniform(-0.3, 0.4), 0, 1)
    blush = 0.5 * _step(0.45, 0.8, _cloud(rng, len(x), 3) + 0.3 * x)
    albedo = _mix(_mix(_rgb(0x9CA83A), _rgb(0xD6BC4C), ripe), _rgb(0xB8682E), blush)
    albedo = _mix(albedo, _rgb(0x6E5A22), 0.6 * _step(0.2, 0.1, speck + 0.12 * tone))
    fruit = _Piece(depth, girth * _dome(1 - depth / girth), albedo, 0.45)
    return _stemmed(fruit, x - 0.06, y, -1.2, -0.8, _rgb(0x50381C), rng)


def _strawberry(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r = np.hypot(x / (0.74 - 0.34 * y), y / 0.98)
    bulge = 1 + 0.2 * r * r
    seed, _ = _dots(x * bulge * 5.5, y * bulge * 6.5, rng)
    pits = np.exp(-((seed / 0.3) ** 2))
    albedo = _mix(_rgb(0xC8141C), _rgb(0xE23A2C), _cloud(rng, len(x), 4))
    albedo = _mix(albedo, _rgb(0xE8B070), 0.6 * _step(-0.35, -0.95, y + 0.2 * _cloud(rng, len(x), 5)))
    albedo = _mix(_mix(albedo, _rgb(0x8A0812), 0.5 * pits), _rgb(0xE0B84C), _step(0.17, 0.11, seed))
    angle, span = np.arctan2(y + 0.82, x), np.hypot(x, (y + 0.82) * 1.5)
    leaves = 0.16 + 0.42 * np.abs(np.cos(angle * 3.5 + rng.uniform(0, 3))) ** 1.5 - span
    green = _mix(_rgb(0x2E6B1C), _rgb(0x6FA33A), _cloud(rng, len(x), 14))
    height = np.where(leaves > 0, 0.7 + 0.3 * leaves, 0.85 * _dome(r) - 0.06 * pits)
    return _Piece(np.maximum(1 - r, leaves), height, _mix(albedo, green, _step(-0.01, 0.02, leaves)), 0.85)


def _banana(x: Plane, y: Plane, rng: Rng) -> _Piece:
    inside, height, albedo = np.full_like(x, -1), np.zeros_like(x), np.zeros((3, *x.shape), np.float32)
    unripe, spotless, fingers = rng.uniform(0, 0.5), rng.uniform(0.7, 1.0), int(rng.integers(1, 5))
    mottle, spots = 0.4 * _cloud(rng, len(x), 6), _cloud(rng, len(x), 22)
    for finger in range(fingers):
        # Every finger hangs from one stalk at (-1, -0.45) and fans out below the one before.
        u, v = _turned(x + 1, y + 0.45, 0.17 * (finger - (fingers - 1) / 2) + rng.normal(0, 0.02))
        bow, along = np.hypot(u - 1, v + 0.6) - 1.17, np.arctan2(u - 1, v + 0.6)
        girth = 0.05 + 0.15 * _step(1.0, 0.6, along) * _step(-1.0, -0.6, along)
        depth = np.minimum(girth - np.abs(bow), 1.03 - np.abs(along))
        ridge = np.exp(-(((np.abs(bow / girth - 0.1) - 0.4) / 0.07) ** 2))
        peel = _mix(_rgb(0xF2C81E), _rgb(0xD9A514), 0.5 * ridge + mottle)
        peel = _mix(peel, _rgb(0x93A52E), unripe * _step(0.45, 0.9, np.abs(along)))
        peel = _mix(peel, _rgb(0x5A3A14), _step(spotless, spotless + 0.08, spots))
        peel = _mix(peel, _rgb(0x30220F), _step(0.93, 0.97, along)) * (0.45 + 0.55 * _step(0, 0.07, depth))
        albedo = np.where(depth > 0, peel, albedo)
        height = np.where(depth > 0, girth * (_dome(np.abs(bow / girth)) + 0.07 * ridge) + 0.03 * finger, height)
        inside = np.maximum(inside, depth)
    return _Piece(inside, height, albedo, 0.3)


def _kiwi(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r, fuzz = np.hypot(x / 0.82, y), _cloud(rng, len(x), 60)
    return _Piece(1 - r, 0.85 * _dome(r) + 0.02 * fuzz, _mix(_rgb(0x7A5A2E), _rgb(0x523818), fuzz), 0.05)


def _cut_kiwi(x: Plane, y: Plane, rng: Rng) -> _Piece:
    r, angle, back = np.hypot(x, y / 0.92), np.arctan2(y, x), np.hypot(x, (y - 0.2) / 0.95)
    rays = _around(angle, 70, rng)
    flesh = _mix(_rgb(0x7FAE22), _rgb(0xA5CC3E), rays * _step(0.9, 0.3, r))
    flesh = _mix(_mix(flesh, _rgb(0x5F8F18), _step(0.6, 0.95, r)), _rgb(0xE9EBC0), _step(0.3, 0.2, r + 0.08 * rays))
    seed, tone = _dots(angle * int(rng.integers(20, 27)) / (2 * math.pi), (r - 0.26 - 0.03 * rays) / 0.13, rng)
    ring = _step(0.27, 0.29, r) * _step(0.54, 0.52, r) * (tone > 0.2)
    flesh = _mix(flesh, _rgb(0x14100C), _step(0.24, 0.17, seed) * ring)
    skin = _mix(_rgb(0x6E4F26), _rgb(0x4A3214), _cloud(rng, len(x), 50))
    height = np.where(r < 1, 0.025 * _cloud(rng, len(x), 18) + 0.5, 0.9 * _dome(back))
    return _Piece(np.maximum(1 - r, 1 - back), height, _mix(flesh, skin, _step(0.95, 0.975, r)), 0.55)


def _watermelon(x: Plane, y: Plane, rng: Rng) -> _Piece:
    opening = rng.uniform(0.5, 1.5)
    reach = min(1.15 / math.sin(opening), 1.9)
    r, angle = np.hypot(x, y + reach / 2) / reach, np.arctan2(x, y + reach / 2)
    inside = reach * np.minimum(1 - r, np.sin(np.clip(opening - np.abs(angle), -1.5, 1.5)) * r)
    flesh = _mix(_rgb(0xD8303A), _rgb(0xE85850), _cloud(rng, len(x), 30))
    flesh = _mix(flesh, _rgb(0xEE8078), _step(0.7, 0.86, r))
    distance, tone = _dots(angle * r * reach * 5, r * reach * 3.6, rng)
    seed = _step(0.2, 0.14, distance) * (tone > 0.45) * _step(0.35, 0.4, r) * _step(0.78, 0.74, r)
    rind = _mix(_rgb(0xE6EDC4), _rgb(0xA9C97A), _step(0.9, 0.94, r))
    stripes = _mix(_rgb(0x1F5A22), _rgb(0x5E9A3C), _around(angle * 2, 40, rng))
    albedo = _mix(_mix(flesh, _rgb(0x1A0E0A), seed), rind, _step(0.85, 0.89, r))
    height = 0.02 * _cloud(rng, len(x), 40) + 0.03 * seed + 0.1 * _step(0, 0.06, inside)
    return _Piece(inside, height, _mix(albedo, stripes, _step(0.945, 0.955, r)), 0.45)


@dataclass(frozen=True)
class _Fruit:
    """How a label is photographed; `scale` and `reach`, the half side of a piece's square, are in fruit radii."""

    forms: tuple[Callable[[Plane, Plane, Rng], _Piece], ...]
    fewest: int
    most: int
    lean_rad: float
    scale: float = 1.0
    reach: float = 1.05


_FRUITS = {
    "banana": _Fruit((_banana,), 1, 2, 0.7, scale=1.15, reach=1.3),
    "kiwi": _Fruit((_cut_kiwi, _kiwi), 1, 5, 0.6, reach=1.2),
    "lime": _Fruit((_lime, _lime, _cut_lime), 1, 5, 1.2, reach=1.12),
    "strawberry": _Fruit((_strawberry,), 2, 7, 0.9, reach=1.12),
    "orange": _Fruit((_orange,), 1, 5, 0.6),
    "pomegranate": _Fruit((_pomegranate, _cut_pomegranate), 1, 3, 0.6, reach=1.3),
    "red-apple": _Fruit((_apple,), 1, 4, 0.3, reach=1.2),
    "watermelon": _Fruit((_watermelon,), 1, 3, 0.5, scale=1.1, reach=1.2),
    "plum": _Fruit((_plum,), 2, 6, 0.8, reach=1.15),
    "pear": _Fruit((_pear,), 1, 3, 0.4, scale=1.1, reach=1.25),
}


def _stemmed(piece: _Piece, x: Plane, y: Plane, top: float, foot: float, colour: Plane, rng: Rng) -> _Piece:
    bend = rng.uniform(-0.5, 0.5) * (foot - y) ** 2 / (foot - top)
    depth = np.minimum(0.045 - np.abs(x - bend), np.minimum(y - top, foot - y))
    return replace(
        piece,
        inside=np.maximum(piece.inside, depth),
        height=np.where(depth > 0, 0.6 + depth, piece.height),
        albedo=_mix(piece.albedo, colour, _step(-0.01, 0.01, depth)),
    )


def _surface(height: int, width: int, rng: Rng) -> Plane:
    """Something to put fruit on, seen at a slant: linear colour, float32 (3, height, width)."""
    side = max(height, width)
    texture = _pixels((_wood, _cloth, _marble, _grass)[int(rng.integers(4))](side, rng))
    angle, zoom, lean = rng.uniform(-0.6, 0.6), rng.uniform(0.5, 0.64), rng.uniform(0.1, 0.35) / height
    cos, sin, floor = zoom * math.cos(angle), zoom * math.sin(angle), 1 - lean * height / 2
    to_x = (cos, sin + side / 2 * lean, side / 2 * floor - (cos * width + sin * height) / 2)
    to_y = (-sin, cos + side / 2 * lean, side / 2 * floor - (cos * height - sin * width) / 2)
    slant = (*(c / floor for c in to_x), *(c / floor for c in to_y), 0.0, lean / floor)
    seen = texture.transform((width, height), Image.Transform.PERSPECTIVE, slant, Image.Resampling.BILINEAR)
    return _linear(seen)


_WOODS = ((0xC99A62, 0x8A5A2C), (0x8A6440, 0x4A3020), (0xD8C4A0, 0xA88C64), (0x8C8880, 0x58544E))
_DYES = (0xB02030, 0x2850A0, 0x3A7A4A, 0xD8B048, 0x707880)
_STONES = ((0xE8E6E2, 0x8C8C92), (0x34363C, 0x8A8A8A), (0xE0D4C0, 0xA08460))


def _wood(side: int, rng: Rng) -> Plane:
    early, late = _WOODS[int(rng.integers(len(_WOODS)))]
    planks = int(rng.integers(3, 8))
    down = _array(np.linspace(0, planks, side, endpoint=False))
    plank, within = np.floor(down)[:, None], (down % 1)[:, None]
    warp = _cloud(rng, side, 3)
    rings = np.sin(2 * np.pi * (within * 20 / planks + 5 * warp + 3.7 * plank))
    fibre = _stretched(rng.random((side // 2, 14), dtype=np.float32), side)
    board = _mix(_rgb(early), _rgb(late), (0.22 + 0.22 * rings) * warp + 0.5 * fibre)
    tone = _array(np.take(rng.uniform(0.75, 1.1, planks), plank.astype(np.intp)))
    return _array(board * tone * (1 - 0.8 * _step(0.02, 0.01, within)))


def _cloth(side: int, rng: Rng) -> Plane:
    line = _array(np.linspace(0, int(rng.integers(8, 16)), side)) % 1
    band = _step(0.48, 0.52, line)
    check, stripes, plain = (band[:, None] + band) / 2, 0.9 * band, np.full_like(band, 0.8)
    pattern: Plane = np.broadcast_to((check, stripes, plain)[int(rng.integers(3))], (side, side))
    threads = 0.12 * rng.random((2, side), dtype=np.float32)
    weave: Plane = 0.63 + threads[0][:, None] + threads[1] + 0.3 * _cloud(rng, side, 3)
    return _mix(_rgb(0xF0ECE4), _rgb(_DYES[int(rng.integers(len(_DYES)))]), pattern) * weave


def _marble(side: int, rng: Rng) -> Plane:
    stone, vein = _STONES[int(rng.integers(len(_STONES)))]
    cloud = _cloud(rng, side, 4)
    vague = _step(0.4, 0.7, _cloud(rng, side, 5))
    cracks = np.exp(-np.abs(_cloud(rng, side, 3) - 0.5) / 0.02) + np.exp(-np.abs(cloud - 0.45) / 0.008)
    return _mix(_rgb(stone), _rgb(vein), np.clip(0.35 * cloud + 0.7 * cracks * vague, 0, 1))


def _grass(side: int, rng: Rng) -> Plane:
    lawn = Image.new("RGB", (side, side), (40, 62, 26))
    pen = ImageDraw.Draw(lawn)
    blades = 3000
    roots, tones = rng.uniform(0, 1.1 * side, (blades, 2)), np.sort(rng.random(blades))
    leans = rng.normal((0.01 * side, -0.06 * side), 0.025 * side, (blades, 2))
    for (x, y), (dx, dy), tone in zip(roots.tolist(), leans.tolist(), tones.tolist(), strict=True):
        green = (int(46 + 64 * tone), int(72 + 66 * tone), int(28 + 26 * tone))
        pen.line((x, y, x + dx, y + dy), green, 1 + int(side / 300 * tone))
    return _linear(lawn.filter(ImageFilter.BoxBlur(0.8)))


def _turned(x: Plane, y: Plane, angle_rad: float) -> tuple[Plane, Plane]:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return x * cos + y * sin, y * cos - x * sin


def _dome(r: Plane) -> Plane:
    # Goes on below zero outside the outline, so that the slope stays steep right up to the edge.
    return np.copysign(np.sqrt(np.abs(1 - r * r)), 1 - r)


def _dots(x: Plane, y: Plane, rng: Rng) -> tuple[Plane, Plane]:
    """Distance to the dot of the own cell in a staggered unit lattice, and that dot's random tone from 0 to 1."""
    table = rng.random((3, 4096), dtype=np.float32)
    row = np.floor(y)
    staggered = x + 0.5 * (row % 2)
    column = np.floor(staggered)
    across, down, tone = table[:, (row * 64 + column).astype(np.intp) & 4095]
    return np.hypot(staggered - column - 0.35 - 0.3 * across, y - row - 0.35 - 0.3 * down), tone


def _around(angle_rad: Plane, count: int, rng: Rng) -> Plane:
    """Random tone from 0 to 1 by angle, about `count` streaks to a turn."""
    knots = np.append(tones := rng.random(count), tones[0])
    table = _array(np.interp(np.linspace(0, count, 1024), np.arange(count + 1), knots))
    return _array(np.take(table, (angle_rad * (512 / np.pi)).astype(np.intp) & 1023))


def _cloud(rng: Rng, side: int, lumps: int) -> Plane:
    """Smooth noise, mostly 0 to 1, with `lumps` lumps to a side and two finer octaves: float32 (side, side)."""
    total = np.full((lumps, lumps), 0.5, np.float32)
    for octave, weight in enumerate((0.9, 0.45, 0.22)):
        total = _stretched(total, lumps << octave)
        total = total + weight * (rng.random(total.shape, dtype=np.float32) - 0.5)
    return _stretched(total, side)


def _stretched(grid: Plane, side: int) -> Plane:
    return np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC))


def _step(edge_0: float, edge_1: float, value: Plane) -> Plane:
    t: Plane = np.clip((value - edge_0) * (1 / (edge_1 - edge_0)), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(a: Plane, b: Plane, share: Plane) -> Plane:
    return a + (b - a) * share


def _rgb(code: int) -> Plane:
    return (_array([[[code >> 16]], [[code >> 8 & 255]], [[code & 255]]]) / 255) ** 2


# Gamma 2 for the sRGB curve, both ways: a square root costs a third of a power.
def _pixels(light: Plane) -> Image.Image:
    channels = (np.sqrt(np.clip(light, 0, 1)) * 255).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(channel) for channel in channels])


def _linear(picture: Image.Image) -> Plane:
    return _array([np.asarray(channel) for channel in picture.split()]) ** 2 * (1 / 255**2)


def _unit(x: float, y: float, z: float) -> _Vector:
    length = math.hypot(x, y, z)
    return x / length, y / length, z / length


def _array(values: npt.ArrayLike) -> Plane:
    return np.asarray(values, dtype=np.float32)
