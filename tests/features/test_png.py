"""PNG files with odd chunks, depths and transparency come out as the picture in them, on white."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from features.image import Limits, decode
from features.png import MAX_PROFILE_BYTES
from features.rejects import Reason, Rejected
from tests.support.pictures import display_p3, pixels
from tests.support.png_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    chromaticities,
    chunk,
    gamma,
    palette_alpha,
    png,
    profile,
    transparent,
    with_wrong_checksum,
)

LIMITS = Limits(max_image_bytes=64 * 2**20, max_pixels=20_000_000)
# The network's own size, so that a pixel of the file is a pixel of the photo.
PICTURE = pixels(seed=3, width_px=224, height_px=224)
GREYS = np.asarray(Image.fromarray(PICTURE).convert("L"))
ORIENTATION_6 = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)


def shown(body: bytes) -> NDArray[np.uint8]:
    return decode(body, LIMITS).pixels


def difference(body: bytes, expected: ArrayLike) -> float:
    return float(np.abs(shown(body).astype(np.int16) - np.asarray(expected, np.int16)).max())


def on_white(colours: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """Alpha compositing (PNG, third edition, 13.16); alpha from 0 to 1."""
    share = np.asarray(alpha, np.float64)[..., None]
    picture = np.asarray(colours, np.float64)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    return share * picture + (1 - share) * 255


def text(name: bytes, value: bytes) -> bytes:
    return chunk(b"zTXt", name + b"\0\0" + zlib.compress(value))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "chunks",
    [
        [text(b"Comment", b"a" * 2_100_000)],
        [text(b"c%d" % number, b"b" * 1_000_000) for number in range(70)],
        [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000))],
        [chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000)],
        [chunk(b"tEXt", b"c%d\0" % number + b"t" * 1_000_000) for number in range(40)],
        [chunk(b"prVt", bytes(3_000_000))],
    ],
    ids=["a text of 2 MB", "texts of 70 MB", "packed XMP", "plain XMP", "plain texts of 40 MB", "a private chunk"],
)
def test_a_photo_with_large_texts_is_its_picture(chunks: list[bytes], place: str) -> None:
    body = png(PICTURE, RGB, 8, *chunks) if place == "before" else png(PICTURE, RGB, 8, after=chunks)
    assert difference(body, PICTURE) == 0


@pytest.mark.parametrize(
    "odd",
    [
        with_wrong_checksum(chunk(b"tEXt", b"Comment\0hello")),
        with_wrong_checksum(gamma(1.0)),
        with_wrong_checksum(transparent(*PICTURE[100, 100])),
        with_wrong_checksum(chunk(b"eXIf", ORIENTATION_6)),
        with_wrong_checksum(profile(display_p3())),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"\0" * 5),
        chunk(b"pHYs", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"cICP", b"\x0c"),
        chunk(b"tRNS", b"\0\1"),
        chunk(b"tIME", b"\0"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, 9999, 9999, 0, 0, 1, 1, 0, 0)),
        chunk(b"zTXt", b"Comment\0\7garbage"),
        chunk(b"iTXt", b"Comment\0\1\0\0\0garbage"),
        chunk(b"eXIf", b"garbage"),
        chunk(b"eXIf", b""),
        chunk(b"iCCP", b"icc\0\0\x78\x9cgarbage"),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(display_p3())[:-20]),
        chunk(b"iCCP", b"icc\0\1" + zlib.compress(display_p3())),
        chunk(b"iCCP", b"icc"),
        chunk(b"iCCP", b""),
        profile(display_p3(), name=b""),
        profile(display_p3(), name=b"n" * 80),
        profile(b"no profile at all"),
        profile(display_p3() + bytes(MAX_PROFILE_BYTES)),
    ],
    ids=lambda odd: f"{odd[4:8].decode()} {len(odd)}",
)
def test_an_ancillary_chunk_that_cannot_be_used_is_passed_over(odd: bytes) -> None:
    assert difference(png(PICTURE, RGB, 8, odd), PICTURE) == 0
    assert difference(png(PICTURE, RGB, 8, after=[odd]), PICTURE) == 0


@pytest.mark.parametrize("kind", ["IHDR", "PLTE"])
def test_a_wrong_checksum_in_a_critical_chunk_is_corrupt(kind: str) -> None:
    body = bytearray(png(GREYS >> 4, PALETTE, 8, chunk(b"PLTE", bytes(range(48)))))
    assert decode(bytes(body), LIMITS).format == "PNG"
    at = body.index(kind.encode()) - 4
    body[at + 8 + int.from_bytes(body[at : at + 4], "big")] ^= 0xFF
    with pytest.raises(Rejected) as rejected:
        decode(bytes(body), LIMITS)
    assert rejected.value.reason == Reason.CORRUPT


def test_a_large_profile_is_used() -> None:
    padded = display_p3() + bytes(1_500_000)
    large = struct.pack(">I", len(padded)) + padded[4:]
    assert difference(png(PICTURE, RGB, 8, profile(large)), shown(png(PICTURE, RGB, 8, profile(display_p3())))) == 0


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_bomb_is_not_unpacked_beyond_the_limit(kind: bytes) -> None:
    heads = {b"iCCP": b"icc\0\0", b"zTXt": b"c\0\0", b"iTXt": b"c\0\1\0\0\0"}
    bomb = chunk(kind, heads[kind] + zlib.compress(bytes(40_000_000)))
    body = png(PICTURE, RGB, 8, *[bomb] * 20, after=[bomb] * 20)
    tracemalloc.start()
    try:
        assert difference(body, PICTURE) == 0
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * MAX_PROFILE_BYTES + 2 * len(body)


def test_a_file_of_nothing_but_chunks_costs_no_more_than_its_copy() -> None:
    body = png(PICTURE, RGB, 8, *[chunk(b"tEXt", b"") + chunk(b"vpAg", b"")] * 80_000)
    tracemalloc.start()
    try:
        assert difference(body, PICTURE) == 0
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_200_000


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("size_bytes", [0, 2_000_000])
def test_the_turn_of_an_exif_chunk_is_used_wherever_it_lies(place: str, size_bytes: int) -> None:
    exif = chunk(b"eXIf", ORIENTATION_6 + bytes(size_bytes))
    stored = np.rot90(PICTURE)
    body = png(stored, RGB, 8, exif) if place == "before" else png(stored, RGB, 8, after=[exif])
    assert difference(body, PICTURE) == 0


def test_texts_do_not_turn_a_photo() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    raw = b"\nexif\n%8d\n%s\n" % (len(ORIENTATION_6) + 6, (b"Exif\0\0" + ORIENTATION_6).hex().encode())
    for texts in (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp), text(b"Raw profile type exif", raw)):
        assert difference(png(PICTURE, RGB, 8, texts), PICTURE) == 0


def test_chunks_between_the_data_are_passed_over() -> None:
    body = png(PICTURE, RGB, 8, data_bytes=1000)
    second = body.index(b"IDAT", body.index(b"IDAT") + 4) - 4
    assert difference(body[:second] + chunk(b"tEXt", b"a\0b") + body[second:], PICTURE) == 0


def test_a_file_that_is_cut_behind_its_picture_is_whole() -> None:
    end = len(chunk(b"IEND", b""))
    body = png(PICTURE, RGB, 8, after=[chunk(b"tEXt", b"Comment\0" + b"t" * 1000)])
    assert difference(body[: -end - 500], PICTURE) == 0
    assert difference(png(PICTURE, RGB, 8)[:-end], PICTURE) == 0


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"eXIf", b"IDAT"])
def test_a_file_that_is_cut_before_its_picture_ends_is_truncated(kind: bytes) -> None:
    body = png(PICTURE, RGB, 8, chunk(kind, b"x\0" + b"t" * 1000) if kind != b"IDAT" else b"")
    with pytest.raises(Rejected) as rejected:
        decode(body[: body.index(kind) + 500], LIMITS)
    assert rejected.value.reason == Reason.TRUNCATED


def test_of_an_animation_the_default_picture_is_taken() -> None:
    frame = struct.pack(">IIIIIHHBB", 0, 224, 224, 0, 0, 1, 10, 0, 0)
    black = zlib.compress(bytes(224 * (1 + 3 * 224)))
    parts = [chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"fcTL", frame)]
    later = chunk(b"fdAT", struct.pack(">I", 1) + black)
    # As a frame of the animation, and beside an animation of other pictures.
    assert difference(png(PICTURE, RGB, 8, *parts, after=[later]), PICTURE) == 0
    assert difference(png(PICTURE, RGB, 8, parts[0], after=[parts[1], later]), PICTURE) == 0


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_greys_of_every_depth_and_their_transparent_one(depth: int, interlaced: bool) -> None:
    most = (1 << depth) - 1
    samples = (GREYS.astype(np.uint32) * most + 127) // 255
    greys = samples >> 8 if depth == 16 else samples * 255 // most
    opaque = np.repeat(greys[..., None], 3, axis=2)
    assert difference(png(samples, GREY, depth, interlaced=interlaced), opaque) == 0
    key = int(samples[100, 100])
    body = png(samples, GREY, depth, transparent(key), interlaced=interlaced)
    assert difference(body, on_white(opaque, samples != key)) <= 1
    if depth < 16:
        # Bits above the depth do not count.
        assert difference(png(samples, GREY, depth, transparent(key | 0x4000)), on_white(opaque, samples != key)) <= 1


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", [8, 16])
def test_colours_of_every_depth_and_their_transparent_one(depth: int, interlaced: bool) -> None:
    samples = PICTURE.astype(np.uint32) * (1 if depth == 8 else 257)
    samples[:100] = (3, 2, 1) if depth == 8 else (900, 800, 700)
    opaque = samples >> (depth - 8)
    assert difference(png(samples, RGB, depth, interlaced=interlaced), opaque) == 0
    body = png(samples, RGB, depth, transparent(*samples[0, 0]), interlaced=interlaced)
    assert difference(body, on_white(opaque, np.arange(224)[:, None].repeat(224, 1) >= 100)) <= 1
    other = samples[0, 0] + (0, 1, 0)
    assert difference(png(samples, RGB, depth, transparent(*other), interlaced=interlaced), opaque) == 0


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour_type", [GREY_ALPHA, RGBA])
def test_an_alpha_channel_of_every_depth(colour_type: int, depth: int, interlaced: bool) -> None:
    picture = GREYS if colour_type == GREY_ALPHA else PICTURE
    alpha = np.tile(np.arange(224), (224, 1))
    samples = np.dstack([picture, alpha]).astype(np.uint32) * (1 if depth == 8 else 257)
    body = png(samples, colour_type, depth, interlaced=interlaced)
    assert difference(body, on_white(picture, alpha / 255)) <= 1.5


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_of_every_depth_and_its_transparency(depth: int) -> None:
    count = 1 << depth
    indices = (GREYS.astype(np.uint32) * (count - 1) + 127) // 255
    entries = np.random.default_rng(depth).integers(0, 256, (count, 3))
    alphas = [0, 100, 255, 30][:count]
    stored = chunk(b"PLTE", entries.astype(np.uint8).tobytes())
    assert difference(png(indices, PALETTE, depth, stored), entries[indices]) == 0
    alpha = np.array(alphas + [255] * (count - len(alphas)))[indices] / 255
    body = png(indices, PALETTE, depth, stored, palette_alpha(*alphas))
    assert difference(body, on_white(entries[indices], alpha)) <= 1.5
    # More alphas than a palette may have entries are none.
    assert difference(png(indices, PALETTE, depth, stored, palette_alpha(*[0] * 300)), entries[indices]) == 0


def test_chromaticities_alone_say_nothing() -> None:
    adobe = chromaticities(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    assert difference(png(PICTURE, RGB, 8, adobe), PICTURE) == 0
