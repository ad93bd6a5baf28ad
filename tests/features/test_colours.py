"""Colours that a file tells by profile, code points or gamma become sRGB, by formulas written down here once more."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pillow_heif
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from features.image import Limits, decode
from tests.support.pictures import display_p3, encoded
from tests.support.png_files import (
    GREY,
    GREY_ALPHA,
    RGB,
    RGBA,
    chromaticities,
    chunk,
    code_points,
    gamma,
    png,
    profile,
    with_wrong_checksum,
)

LIMITS = Limits(max_image_bytes=10_000_000, max_pixels=20_000_000)
# Patches of 32 pixels; the photo is as large as the network's input, so each is seen as it is stored.
COLOURS = np.array(
    [
        *[(level, level, level) for level in (0, 8, 32, 64, 100, 128, 160, 200, 230, 255)],
        *[(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 60), (60, 160, 90), (20, 10, 40), (240, 230, 20)],
    ]
)
PATCH_PX = 32
MOSAIC = np.kron(np.resize(COLOURS, (7, 7, 3)), np.ones((PATCH_PX, PATCH_PX, 1))).astype(np.uint8)

Transfer = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Matrix = NDArray[np.float64]


def srgb_light(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def power(exponent: float) -> Transfer:
    return lambda code: code**exponent


# Linear light of these primaries to linear sRGB: CSS Color 4, section 17, and ITU-R BT.2087 for BT.2020.
SAME = np.eye(3)
DISPLAY_P3 = np.array([[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]])
BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
ADOBE_RGB = np.array([[1.3984, -0.3984, 0.0], [0.0, 1.0, 0.0], [0.0, -0.0429, 1.0429]])
ADOBE_RGB_XY = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB_CHUNK = chunk(b"sRGB", b"\0")


def expected(colours: ArrayLike, transfer: Transfer, matrix: Matrix) -> NDArray[np.float64]:
    linear = np.clip(transfer(np.asarray(colours) / 255) @ matrix.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def seen(body: bytes) -> NDArray[np.float64]:
    """The patches as the network sees them, in the order of COLOURS."""
    patches = decode(body, LIMITS).pixels.reshape(7, PATCH_PX, 7, PATCH_PX, 3)[:, 8:-8, :, 8:-8]
    return patches.mean(axis=(1, 3)).reshape(-1, 3)[: len(COLOURS)]


def grey_linear_profile() -> bytes:
    """An ICC profile of greys in proportion to light (ICC.1:2010)."""
    white = b"".join(struct.pack(">i", round(number * 65536)) for number in (0.9642, 1.0, 0.8249))
    tags = {
        b"desc": b"mluc\0\0\0\0" + struct.pack(">IIHHII", 1, 12, 0x656E, 0x5553, 4, 28) + "gr".encode("utf-16-be"),
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IHH", 1, 256, 0),
    }
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(tag))
        data += tag
    size = struct.pack(">I", 128 + len(table) + len(data))
    head = size + b"lcms" + bytes([4, 0x30, 0, 0]) + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + data


def with_nclx(avif: bytes, primaries: int, transfer: int) -> bytes:
    """The same file with other code points in its `colr` box (ISO/IEC 14496-12, 12.1.5)."""
    at = avif.index(b"colrnclx") + 8
    return avif[:at] + struct.pack(">HH", primaries, transfer) + avif[at + 4 :]


def heif(picture: NDArray[np.uint8], primaries: int, transfer: int, **options: object) -> bytes:
    told = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 6}
    how = {"full_range_flag": 1, "quality": 95, "chroma": 444, "save_nclx_profile": True}
    return encoded(picture, "HEIF", **(told | how | options))


@pytest.mark.parametrize(
    ("primaries", "transfer", "light", "matrix"),
    [
        (1, 13, srgb_light, SAME),
        (12, 13, srgb_light, DISPLAY_P3),
        (9, 13, srgb_light, BT2020),
        (1, 1, power(2.4), SAME),
        (9, 14, power(2.4), BT2020),
        (12, 1, power(2.4), DISPLAY_P3),
        (1, 4, power(2.2), SAME),
        (1, 5, power(2.8), SAME),
        (1, 8, power(1.0), SAME),
    ],
)
def test_code_points_of_a_png(primaries: int, transfer: int, light: Transfer, matrix: Matrix) -> None:
    for depth, samples in ((8, MOSAIC), (16, MOSAIC.astype(np.uint16) * 257)):
        body = png(samples, RGB, depth, code_points(primaries, transfer))
        assert np.abs(seen(body) - expected(COLOURS, light, matrix)).max() <= 1.5


# What Chromium 156 shows for these greys in a PNG of BT.2020, whose peak it takes for 1000 cd/m².
@pytest.mark.parametrize(
    ("transfer", "greys"),
    [(16, [0, 0, 5, 30, 76, 132, 213, 255, 255, 255]), (18, [0, 1, 14, 43, 75, 99, 135, 202, 234, 255])],
    ids=["PQ", "HLG"],
)
def test_hdr_is_brought_to_a_screen_as_chromium_does(transfer: int, greys: list[int]) -> None:
    shown = seen(png(MOSAIC, RGB, 8, code_points(9, transfer)))
    assert np.abs(shown[: len(greys)] - np.array(greys)[:, None]).max() <= 1.5
    wide = seen(heif(MOSAIC, 9, transfer))
    assert np.abs(wide - shown).mean() <= 2


@pytest.mark.parametrize("told", ["cLLI", "mDCV"])
def test_the_peak_that_a_picture_tells_is_shown_as_white(told: str) -> None:
    peak = struct.pack(">I", 600 * 10_000)
    light = chunk(b"cLLI", peak + bytes(4)) if told == "cLLI" else chunk(b"mDCV", bytes(16) + peak + bytes(4))
    shown = seen(png(MOSAIC, RGB, 8, code_points(9, 16), light))[:, 0]
    # As Chromium 156 shows it.
    assert np.abs(shown[[4, 5, 6, 7]] - [88, 150, 236, 255]).max() <= 1.5


@pytest.mark.parametrize(
    ("chunks", "light", "matrix"),
    [
        ([gamma(1.0)], power(1.0), SAME),
        ([gamma(0.55)], power(1 / 0.55), SAME),
        ([gamma(0.36)], power(1 / 0.36), SAME),
        ([gamma(1.0), chromaticities(*ADOBE_RGB_XY)], power(1.0), ADOBE_RGB),
        ([gamma(0.45455), chromaticities(*ADOBE_RGB_XY)], power(2.2), ADOBE_RGB),
        # A gamma alone that is about sRGB's stands for sRGB, and chromaticities without one for nothing.
        ([gamma(0.45455)], srgb_light, SAME),
        ([gamma(0.47)], srgb_light, SAME),
        ([chromaticities(*ADOBE_RGB_XY)], srgb_light, SAME),
        # No number that could be meant.
        ([gamma(0)], srgb_light, SAME),
        ([gamma(1.0), chromaticities(*[0.0] * 8)], srgb_light, SAME),
        ([gamma(1.0), chromaticities(*[0.3] * 8)], srgb_light, SAME),
        ([gamma(1.0), chromaticities(0.3127, 0.0, *ADOBE_RGB_XY[2:])], srgb_light, SAME),
        ([gamma(1.0), chromaticities(0.3127, 0.3290, 7.0, *ADOBE_RGB_XY[3:])], srgb_light, SAME),
    ],
)
def test_gamma_and_chromaticities_of_a_png(chunks: list[bytes], light: Transfer, matrix: Matrix) -> None:
    assert np.abs(seen(png(MOSAIC, RGB, 8, *chunks)) - expected(COLOURS, light, matrix)).max() <= 1.5


P3_CHUNK = profile(display_p3())


@pytest.mark.parametrize(
    ("chunks", "light", "matrix"),
    [
        ([code_points(9, 14), P3_CHUNK, SRGB_CHUNK, gamma(1.0)], power(2.4), BT2020),
        ([P3_CHUNK, SRGB_CHUNK, gamma(1.0)], srgb_light, DISPLAY_P3),
        ([gamma(1.0), SRGB_CHUNK, P3_CHUNK, code_points(9, 14)], power(2.4), BT2020),
        ([SRGB_CHUNK, gamma(1.0), chromaticities(*ADOBE_RGB_XY)], srgb_light, SAME),
        # What cannot be used leaves the word to the next.
        ([code_points(2, 2), P3_CHUNK], srgb_light, DISPLAY_P3),
        ([code_points(12, 99), gamma(1.0)], power(1.0), SAME),
        ([code_points(9, 14, matrix=9), gamma(1.0)], power(1.0), SAME),
        ([code_points(9, 14, full_range=0), gamma(1.0)], power(1.0), SAME),
        ([with_wrong_checksum(code_points(9, 14)), P3_CHUNK], srgb_light, DISPLAY_P3),
        ([chunk(b"iCCP", b"icc\0\0garbage"), gamma(1.0)], power(1.0), SAME),
        ([profile(b"no profile at all"), gamma(1.0)], power(1.0), SAME),
        ([profile(grey_linear_profile()), gamma(0.55)], power(1 / 0.55), SAME),
        # Of two alike the first one.
        ([gamma(1.0), gamma(0.55)], power(1.0), SAME),
    ],
)
def test_of_several_words_on_colours_the_best_counts(chunks: list[bytes], light: Transfer, matrix: Matrix) -> None:
    assert np.abs(seen(png(MOSAIC, RGB, 8, *chunks)) - expected(COLOURS, light, matrix)).max() <= 2.5


def test_words_behind_the_picture_do_not_count() -> None:
    body = png(MOSAIC, RGB, 8, after=[gamma(1.0), code_points(9, 14), P3_CHUNK])
    assert np.abs(seen(body) - COLOURS).max() <= 0.5


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
@pytest.mark.parametrize(
    ("primaries", "transfer", "light", "matrix"),
    [
        (12, 13, srgb_light, DISPLAY_P3),
        (9, 13, srgb_light, BT2020),
        (1, 8, power(1.0), SAME),
        (1, 4, power(2.2), SAME),
        # Browsers take television's transfers, and what they do not know, for sRGB's.
        (1, 1, srgb_light, SAME),
        (12, 1, srgb_light, DISPLAY_P3),
        (9, 14, srgb_light, BT2020),
        (12, 2, srgb_light, DISPLAY_P3),
        (2, 2, srgb_light, SAME),
    ],
)
def test_code_points_of_heif_and_avif(
    form: str, primaries: int, transfer: int, light: Transfer, matrix: Matrix
) -> None:
    if form == "HEIF":
        body = heif(MOSAIC, primaries, transfer)
    else:
        body = with_nclx(encoded(MOSAIC, "AVIF", quality=100, subsampling="4:4:4"), primaries, transfer)
    off = np.abs(seen(body) - expected(COLOURS, light, matrix))
    # Dark codes are spread over many levels of sRGB, and with them what encoding changed.
    assert off.mean() <= 2


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_a_profile_counts_before_code_points(form: str) -> None:
    if form == "HEIF":
        plain = heif(MOSAIC, 9, 16)
        body = heif(MOSAIC, 9, 16, icc_profile=display_p3())
    else:
        plain = with_nclx(encoded(MOSAIC, "AVIF", quality=100, subsampling="4:4:4"), 9, 16)
        body = encoded(MOSAIC, "AVIF", quality=100, subsampling="4:4:4", icc_profile=display_p3())
        body = with_nclx(body, 9, 16)
        assert b"colrprof" in body
    assert np.abs(seen(body) - expected(COLOURS, srgb_light, DISPLAY_P3)).mean() <= 2
    assert np.abs(seen(plain) - seen(body)).mean() > 10


@pytest.mark.parametrize("full_range", [0, 1])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_matrix_and_range_of_a_heif_are_the_decoders_and_right(matrix: int, full_range: int) -> None:
    body = heif(MOSAIC, 1, 13, matrix_coefficients=matrix, full_range_flag=full_range)
    assert np.abs(seen(body) - COLOURS).mean() <= 1.5


def test_ten_bits_of_hdr() -> None:
    deep = pillow_heif.from_bytes("RGB;16", (224, 224), (MOSAIC.astype("<u2") * 257).tobytes())
    buffer = io.BytesIO()
    told = {"color_primaries": 9, "transfer_characteristics": 16, "matrix_coefficients": 9, "full_range_flag": 0}
    deep.save(buffer, quality=95, chroma=444, save_nclx_profile=True, **told)
    assert np.abs(seen(buffer.getvalue()) - seen(png(MOSAIC, RGB, 8, code_points(9, 16)))).mean() <= 2


ALPHA = np.full((224, 224), 128, np.uint8)
GREYS = np.asarray(Image.fromarray(MOSAIC).convert("L"))
OF_GREY = np.asarray(Image.fromarray(COLOURS[None].astype(np.uint8)).convert("L"))[0][:, None].repeat(3, 1)


@pytest.mark.parametrize(
    ("form", "is_transparent"),
    [(form, has) for form in ("PNG", "PNG of 16 bits", "WEBP", "HEIF", "AVIF") for has in (False, True)]
    + [("JPEG", False)],
)
def test_greys_under_a_grey_profile(form: str, is_transparent: bool) -> None:
    icc = grey_linear_profile()
    if form.startswith("PNG"):
        depth = 16 if form.endswith("16 bits") else 8
        samples = np.dstack([GREYS, ALPHA]) if is_transparent else GREYS
        scaled = samples.astype(np.uint16) * (257 if depth == 16 else 1)
        body = png(scaled, GREY_ALPHA if is_transparent else GREY, depth, profile(icc))
    else:
        picture = np.dstack([GREYS, ALPHA]) if is_transparent else GREYS
        lossless = {"lossless": True} if form == "WEBP" else {"quality": 95}
        body = encoded(picture, form, icc_profile=icc, **lossless)
    share = 128 / 255 if is_transparent else 1
    wanted = share * expected(OF_GREY, power(1.0), SAME) + (1 - share) * 255
    # HEIF and AVIF are lossy, which the darkest greys show most.
    assert np.abs(seen(body) - wanted).mean() <= 2


def test_greys_under_a_profile_of_colours_are_equal_parts_of_them() -> None:
    adobe = encoded(GREYS, "JPEG", quality=100, icc_profile=display_p3())
    assert np.abs(seen(adobe) - OF_GREY).mean() <= 1


@pytest.mark.parametrize("chunks", [[gamma(1.0)], [code_points(1, 8)], [P3_CHUNK]], ids=["gamma", "cICP", "iCCP"])
def test_colours_are_converted_before_they_are_laid_on_white(chunks: list[bytes]) -> None:
    body = png(np.dstack([MOSAIC, ALPHA]), RGBA, 8, *chunks)
    is_wide = chunks == [P3_CHUNK]
    converted = expected(COLOURS, srgb_light if is_wide else power(1.0), DISPLAY_P3 if is_wide else SAME)
    assert np.abs(seen(body) - (128 / 255 * converted + 127 / 255 * 255)).max() <= 2


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_alpha_of_a_heif(mode: str) -> None:
    plain = {"RGBa": np.dstack([MOSAIC, ALPHA]), "La": np.dstack([GREYS, ALPHA])}[mode]
    buffer = io.BytesIO()
    stored = Image.fromarray(plain).convert(mode)
    pillow_heif.from_bytes(mode, stored.size, stored.tobytes()).save(buffer, quality=95, chroma=444)
    assert b"prem" in buffer.getvalue()
    wanted = 128 / 255 * (COLOURS if mode == "RGBa" else OF_GREY) + 127
    assert np.abs(seen(buffer.getvalue()) - wanted).mean() <= 1.5


def test_premultiplied_alpha_of_an_avif() -> None:
    picture = np.dstack([MOSAIC, ALPHA])
    body = encoded(picture, "AVIF", quality=95, subsampling="4:4:4", alpha_premultiplied=True)
    assert b"prem" in body
    assert np.abs(seen(body) - (128 / 255 * COLOURS + 127)).mean() <= 1.5
