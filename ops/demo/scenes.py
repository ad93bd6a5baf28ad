"""Pictures of fruit on a table, drawn from nothing."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

# Colours are planar, (3, height, width): with the colour axis last, mixing takes three times as long.
Plane: TypeAlias = npt.NDArray[np.floating[Any]]
Rng: TypeAlias = np.random.Generator
# One fruit on a square of n pixels a side, lengths in its radii: the depth within the outline (n, n), negative outside,
# the height towards the camera (n, n), and linear colour (3, n, n).
Piece: TypeAlias = tuple[Plane, Plane, Plane]
# Pores, freckles or seeds: how many on a radius, their colour, their size in their own distance, their depth.
Dots: TypeAlias = tuple[float, int, float, float]


@dataclass(frozen=True)
class Flesh:
    """The cut face of a fruit: its core and pulp, how many sections, and its seeds with where they lie."""

    core: int
    pulp: int
    core_radius: float
    sections: int
    seeds: Dots
    ring: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Fruit:
    """How one kind of fruit looks: colours are 0xRRGGBB, lengths are in its radii, `taper` narrows the bottom."""

    skin: tuple[int, int]
    most: int
    gloss: float
    dots: Dots
    width: float = 1.0
    taper: float = 0.0
    stem: int | None = None
    leaves: int | None = None
    flesh: Flesh | None = None


_NONE = (1, 0, 1e-6, 0)
_KIWI = Flesh(0xE9EBC0, 0x8DBB2E, 0.25, 0, (11, 0x14100C, 0.3, 0.03), (0.27, 0.56))
_LIME = Flesh(0xD8E2A8, 0x9CBF40, 0.08, 10, _NONE)
_POMEGRANATE = Flesh(0xE8CF9A, 0xE0B98A, 0.1, 6, (6.5, 0xA00F2C, 0.46, 0.05), (0.1, 0.84))
_MELON = Flesh(0xE0606A, 0xD8303A, 0.2, 0, (6, 0x1A0E0A, 0.17, 0.03), (0.3, 0.76))
FRUITS = {
    "banana": Fruit((0xF2C81E, 0xD9A514), 2, 0.3, _NONE),
    "kiwi": Fruit((0x7A5A2E, 0x523818), 5, 0.05, (30, 0x3A2610, 0.5, 0.01), 0.84, flesh=_KIWI),
    "lime": Fruit((0x3F8A1E, 0x9DB83A), 5, 0.9, (24, 0x2F6F16, 0.3, 0.006), 0.82, flesh=_LIME),
    "strawberry": Fruit((0xC8141C, 0xE23A2C), 7, 0.85, (6, 0xE0B84C, 0.16, 0.06), 0.74, 0.42, leaves=0x4A8A2A),
    "orange": Fruit((0xF08A12, 0xE2700A), 5, 0.6, (20, 0xC85F08, 0.35, 0.012)),
    "pomegranate": Fruit((0xA82038, 0xC86A52), 3, 0.5, (26, 0x8A4A30, 0.15, 0), leaves=0x8A3A2C, flesh=_POMEGRANATE),
    "red-apple": Fruit((0xA8141E, 0xC98A3C), 4, 0.9, (10, 0xE0B080, 0.1, 0), 1.0, 0.12, stem=0x4A3018),
    "watermelon": Fruit((0x1F5A22, 0xD6E4B4), 1, 0.5, _NONE, flesh=_MELON),
    "plum": Fruit((0x3A1030, 0x7078A8), 6, 0.35, _NONE, 0.86, stem=0x5A4424),
    "pear": Fruit((0xB4B440, 0xD0A03C), 3, 0.45, (15, 0x6E5A22, 0.12, 0), 0.66, -0.36, stem=0x50381C),
}


def draw_scene(label: str, width_px: int, height_px: int, rng: Rng) -> Image.Image:
    """Pieces of one kind of fruit, a key of FRUITS, on wood, stone or cloth; half of those with flesh are cut."""
    fruit, scene = FRUITS[label], _table(width_px, height_px, rng)
    light = _light(rng)
    count = int(rng.integers(1, fruit.most + 1))
    radius_px = min(height_px, width_px) * rng.uniform(0.36, 0.44) / count**0.45
    spots: list[list[int]] = []
    for spot in (rng.uniform(0.25, 0.75, (200, 2)) * (width_px, height_px)).astype(int).tolist():
        if len(spots) < count and all(math.dist(spot, other) > 1.7 * radius_px for other in spots):
            spots.append(spot)
    for n, spot in enumerate(spots):
        side = np.linspace(-1.3, 1.3, round(2.6 * radius_px), dtype=np.float32)
        x, y = _turned(side[None, :], side[:, None], rng.normal(0, 0.6))
        if label == "banana":
            piece = _bananas(x, y, fruit, rng)
        else:
            piece = _whole(x, y, fruit, rng) if n % 2 or not fruit.flesh else _cut(x, y, fruit, fruit.flesh, rng)
        _put(scene, piece, spot, radius_px, light, fruit.gloss)
    return scene


def draw_mug(width_px: int, height_px: int, rng: Rng) -> Image.Image:
    """A striped mug on wood, stone or cloth: no fruit at all."""
    scene, radius_px = _table(width_px, height_px, rng), min(height_px, width_px) * 0.31
    side = np.linspace(-1.3, 1.3, round(2.6 * radius_px), dtype=np.float32)
    x, y = side[None, :] + 0 * side[:, None], side[:, None] + 0 * side[None, :]
    handle = 0.12 - np.abs(np.hypot(x - 0.6, y) - 0.4)
    inside = np.maximum(np.minimum(0.7 - np.abs(x + 0.15), 0.9 - np.abs(y)), handle)
    relief = np.sqrt(np.maximum(0.5 - (x + 0.15) ** 2, 0))
    glaze = _mix(_rgb(0x3060A0), _rgb(0xE8E8F0), _step(0.32, 0.28, np.abs(y)))
    _put(scene, (inside, relief, glaze), [width_px // 2, height_px // 2], radius_px, _light(rng), 0.5)
    return scene


def _light(rng: Rng) -> Plane:
    light: Plane = rng.uniform((-0.7, -0.8, 1), (0.7, -0.3, 1))
    return light / np.linalg.norm(light)


def _whole(x: Plane, y: Plane, fruit: Fruit, rng: Rng) -> Piece:
    girth = fruit.width * (1 - fruit.taper * np.tanh(2.2 * y))
    r = np.hypot(x / girth, y)
    on_a_radius, dot, size, depth = fruit.dots
    bulge = on_a_radius * (1 + 0.2 * r * r)
    distance, _ = _dots(x * bulge, y * bulge, rng)
    relief = girth * _dome(r) - depth * np.exp(-((distance / 0.3) ** 2))
    skin = _mix(_patches(fruit.skin, len(x), rng), _rgb(dot), 0.8 * _step(size, 0.6 * size, distance))
    piece = (1 - r, relief, skin)
    if fruit.stem is not None:
        bend = rng.uniform(-0.5, 0.5) * (y + 0.7) ** 2
        piece = _with_part(piece, np.minimum(0.05 - np.abs(x - bend), np.minimum(y + 1.2, -0.7 - y)), fruit.stem)
    if fruit.leaves is not None:
        angle, span = np.arctan2(y + 0.86, x), np.hypot(x, (y + 0.86) * 1.5)
        leaves = 0.12 + 0.38 * np.abs(np.cos(angle * 3.5 + rng.uniform(0, 3))) ** 1.5 - span
        piece = _with_part(piece, leaves, fruit.leaves)
    return piece


def _patches(colours: tuple[int, int], side: int, rng: Rng) -> Plane:
    share = _step(0.3, 0.9, _cloud(rng, side, 3) + rng.uniform(-0.2, 0.2)) * (0.5 + 0.5 * _cloud(rng, side, 20))
    return _mix(_rgb(colours[0]), _rgb(colours[1]), share)


def _with_part(piece: Piece, depth: Plane, colour: int) -> Piece:
    inside, relief, whole = piece
    mixed = _mix(whole, _rgb(colour), _step(-0.01, 0.02, depth))
    return np.maximum(inside, depth), np.where(depth > 0, 0.7 + 0.3 * depth, relief), mixed


def _cut(x: Plane, y: Plane, fruit: Fruit, flesh: Flesh, rng: Rng) -> Piece:
    r, angle, rays = np.hypot(x, y), np.arctan2(y, x), _cloud(rng, len(x), 30)
    pulp = _step(flesh.core_radius, flesh.core_radius + 0.08, r + 0.08 * rays)
    if flesh.sections:
        pulp = pulp * _step(0.03, 0.08, np.abs(np.sin(angle * flesh.sections / 2)) * r)
    colour = _mix(_rgb(flesh.core), _rgb(flesh.pulp) * (0.8 + 0.4 * rays), pulp)
    on_a_radius, seed, size, depth = flesh.seeds
    distance, tone = _dots(x * on_a_radius, y * on_a_radius, rng)
    seeds = _step(size, 0.7 * size, distance) * (tone > 0.25)
    seeds = seeds * _step(flesh.ring[0], flesh.ring[0] + 0.04, r) * _step(flesh.ring[1], flesh.ring[1] - 0.04, r)
    colour = _mix(colour, _rgb(seed) * (0.7 + 0.6 * tone), seeds)
    colour = _mix(colour, _rgb(fruit.skin[1]), _step(0.88, 0.9, r))
    colour = _mix(colour, _rgb(fruit.skin[0]), _step(0.93, 0.96, r))
    return 1 - r, 0.03 * pulp * rays + depth * seeds + 0.15 * _step(1, 0.92, r), colour


def _bananas(x: Plane, y: Plane, fruit: Fruit, rng: Rng) -> Piece:
    inside, relief, colour = np.full_like(x * y, -1), np.zeros_like(x * y), np.zeros((3, len(x), len(x)), np.float32)
    fingers, peel = int(rng.integers(2, 5)), _patches(fruit.skin, len(x), rng)
    spots = _step(0.75, 0.83, _cloud(rng, len(x), 22))
    for finger in range(fingers):
        # All fingers hang from one stalk at (-1, -0.45), and each fans out below the one before.
        u, v = _turned(x + 1, y + 0.45, 0.17 * (finger - (fingers - 1) / 2))
        bow, along = np.hypot(u - 1, v + 0.6) - 1.17, np.arctan2(u - 1, v + 0.6)
        girth = 0.05 + 0.15 * _step(1.0, 0.6, along) * _step(-1.0, -0.6, along)
        depth = np.minimum(girth - np.abs(bow), 1.03 - np.abs(along))
        brown = np.maximum(spots, _step(0.93, 0.97, along))
        shaded = _mix(peel, _rgb(0x4A3014), brown) * (0.45 + 0.55 * _step(0, 0.07, depth))
        colour = np.where(depth > 0, shaded, colour)
        relief = np.where(depth > 0, girth * _dome(np.abs(bow / girth)) + 0.03 * finger, relief)
        inside = np.maximum(inside, depth)
    return inside, relief, colour


def _put(scene: Image.Image, piece: Piece, at_px: list[int], radius_px: float, light: Plane, gloss: float) -> None:
    """Lay a piece on the scene, above a soft shadow away from the light."""
    inside, relief, colour = piece
    outline = Image.fromarray((np.clip(inside * radius_px + 0.5, 0, 1) * 255).astype(np.uint8))
    half_px, margin_px = outline.width // 2, outline.width // 4
    left_px, top_px = at_px[0] - half_px, at_px[1] - half_px
    shadow = ImageOps.expand(outline, margin_px).filter(ImageFilter.GaussianBlur(0.1 * radius_px))
    away_x_px, away_y_px = round(-0.2 * light[0] * radius_px), round((0.1 - 0.3 * light[1]) * radius_px)
    shadow_px = (left_px - margin_px + away_x_px, top_px - margin_px + away_y_px)
    scene.paste((20, 20, 20), shadow_px, shadow.point([int(0.6 * tone) for tone in range(256)]))
    slope_y, slope_x = np.gradient(relief * radius_px)
    up = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    facing = np.clip((light[2] - slope_x * light[0] - slope_y * light[1]) * up, 0, 1)
    # A brighter sky side stands in for the many lamps and walls of a kitchen.
    lit = colour * (0.8 * facing + 0.28 + 0.1 * slope_y * up)
    scene.paste(_picture(lit + 0.5 * gloss * facing**50), (left_px, top_px), outline)


# Wood, stone and cloth.
_TABLES = (
    ((0xC99A62, 0x8A5A2C), (0x8A6440, 0x4A3020), (0x8C8880, 0x58544E)),
    ((0xE8E6E2, 0x8C8C92), (0x34363C, 0x8A8A8A), (0xE0D4C0, 0xA08460)),
    ((0xF0ECE4, 0xB02030), (0xF0ECE4, 0x2850A0), (0xF0ECE4, 0x3A7A4A)),
)


def _table(width_px: int, height_px: int, rng: Rng) -> Image.Image:
    side, kind = max(height_px, width_px), int(rng.integers(3))
    one, other = _TABLES[kind][int(rng.integers(3))]
    share = _cloud(rng, side, 4)
    if kind == 0:
        share = 0.7 * _stretched(rng.random((side // 3, 14), dtype=np.float32), side) + 0.3 * share
    elif kind == 1:
        share = 0.4 * share + 0.7 * np.exp(-np.abs(_cloud(rng, side, 3) - 0.5) / 0.02)
    else:
        band = _step(0.48, 0.52, np.linspace(0, int(rng.integers(4, 9)), side, dtype=np.float32) % 1)
        share = 0.45 * (band[:, None] + band) + 0.1 * share
    return _picture(_mix(_rgb(one), _rgb(other), np.clip(share, 0, 1))).crop((0, 0, width_px, height_px))


def _turned(x: Plane, y: Plane, angle_rad: float) -> tuple[Plane, Plane]:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return x * cos + y * sin, y * cos - x * sin


def _dome(r: Plane) -> Plane:
    # Goes on below zero outside the outline, so that the slope stays steep right up to the edge.
    return np.copysign(np.sqrt(np.abs(1 - r * r)), 1 - r)


def _dots(x: Plane, y: Plane, rng: Rng) -> tuple[Plane, Plane]:
    """Distance to the dot of the own cell in a staggered unit lattice, and that dot's random tone from 0 to 1."""
    table, row = rng.random((3, 4096), dtype=np.float32), np.floor(y)
    staggered = x + 0.5 * (row % 2)
    column = np.floor(staggered)
    across, down, tone = table[:, (row * 64 + column).astype(np.intp) & 4095]
    return np.hypot(staggered - column - 0.35 - 0.3 * across, y - row - 0.35 - 0.3 * down), tone


def _cloud(rng: Rng, side: int, lumps: int) -> Plane:
    """Smooth noise, mostly 0 to 1, with `lumps` lumps to a side and a finer octave: float32 (side, side)."""
    coarse, fine = (rng.random((n, n), dtype=np.float32) - 0.5 for n in (lumps, 3 * lumps))
    return 0.5 + 0.9 * _stretched(coarse, side) + 0.45 * _stretched(fine, side)


def _stretched(grid: Plane, side: int) -> Plane:
    return np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC))


def _step(edge_0: float, edge_1: float, value: Plane) -> Plane:
    t: Plane = np.clip((value - edge_0) * (1 / (edge_1 - edge_0)), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(one: Plane, other: Plane, share: Plane) -> Plane:
    return one + (other - one) * share


def _rgb(code: int) -> Plane:
    return (np.array([[[code >> 16]], [[code >> 8 & 255]], [[code & 255]]], np.float32) / 255) ** 2


# Gamma 2 for the sRGB curve, both ways: a square root costs a third of a power.
def _picture(light: Plane) -> Image.Image:
    return Image.fromarray(np.moveaxis(np.sqrt(np.clip(light, 0, 1)) * 255, 0, 2).astype(np.uint8))
