"""Odd photos have the colours that Chromium shows."""

import base64
import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from features.image import Limits, decode
from tests.support.pictures import display_p3, encoded, pixels
from tests.support.png_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    chromaticities,
    chunk,
    code_points,
    gamma,
    palette_alpha,
    png,
    profile,
    transparent,
    with_wrong_checksum,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("browser")

LIMITS = Limits(max_image_bytes=64 * 2**20, max_pixels=20_000_000)
WIDTH_PX, HEIGHT_PX = 300, 224
PICTURE = pixels(seed=3, width_px=WIDTH_PX, height_px=HEIGHT_PX)
GREYS = np.asarray(Image.fromarray(PICTURE).convert("L"))
ALPHA = np.tile(np.linspace(0, 255, WIDTH_PX), (HEIGHT_PX, 1)).astype(np.uint8)
KEYED = np.where(np.arange(HEIGHT_PX)[:, None, None] < 75, np.array([9, 8, 7]), PICTURE)
ADOBE_RGB = chromaticities(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SAMPLES = {
    "grey": (GREYS, GREY, 8, []),
    "grey, 16 bits": (GREYS.astype(np.uint16) * 257, GREY, 16, []),
    "grey, 2 bits, a transparent one": (GREYS >> 6, GREY, 2, [transparent(2)]),
    "grey, 16 bits, a transparent one": (GREYS.astype(np.uint16) * 257, GREY, 16, [transparent(100 * 257)]),
    "grey with alpha": (np.dstack([GREYS, ALPHA]), GREY_ALPHA, 8, []),
    "grey with alpha, 16 bits": (np.dstack([GREYS, ALPHA]).astype(np.uint16) * 257, GREY_ALPHA, 16, []),
    "colours": (PICTURE, RGB, 8, []),
    "colours, 16 bits, a transparent one": (KEYED * 257, RGB, 16, [transparent(9 * 257, 8 * 257, 7 * 257)]),
    "colours with alpha": (np.dstack([PICTURE, ALPHA]), RGBA, 8, []),
    "palette": (GREYS >> 4, PALETTE, 4, [chunk(b"PLTE", bytes(range(0, 240, 5))), palette_alpha(0, 99, 255, 9)]),
}
TOLD = {
    "nothing": [],
    "linear gamma": [gamma(1.0)],
    "gamma of old Macs": [gamma(0.55)],
    "gamma of sRGB": [gamma(0.45455)],
    "Adobe RGB": [gamma(0.45455), ADOBE_RGB],
    "Adobe RGB beside sRGB": [gamma(1.0), ADOBE_RGB, chunk(b"sRGB", b"\0")],
    "Display P3 by profile": [profile(display_p3())],
    "Display P3 by code points": [code_points(12, 13), gamma(1.0)],
    "BT.2020": [code_points(9, 14)],
    "DCI P3": [code_points(11, 17)],
    "PQ": [code_points(9, 16)],
    "HLG": [code_points(9, 18)],
    "unknown code points": [code_points(99, 99), gamma(1.0)],
    "damage": [with_wrong_checksum(gamma(1.0)), chunk(b"iCCP", b"icc\0\0garbage"), chunk(b"pHYs", b"\0")],
    "texts": [chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(2_000_000)))],
}


@pytest.fixture(scope="module")
def canvas(browser: "Browser") -> "Canvas":
    return Canvas(browser)


class Canvas:
    """A white canvas of sRGB pixels that a browser draws pictures on."""

    def __init__(self, browser: "Browser") -> None:
        self._page = browser.new_page()

    def shown(self, body: bytes, kind: str) -> NDArray[np.uint8]:
        width_px, height_px, drawn = self._page.evaluate(
            """async ([body, kind]) => {
                const image = new Image();
                image.src = `data:image/${kind};base64,${body}`;
                await image.decode();
                const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
                const context = canvas.getContext("2d", {colorSpace: "srgb"});
                context.fillStyle = "white";
                context.fillRect(0, 0, canvas.width, canvas.height);
                context.drawImage(image, 0, 0);
                const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
                let text = "";
                for (let at = 0; at < data.length; at += 32768)
                    text += String.fromCharCode(...data.subarray(at, at + 32768));
                return [canvas.width, canvas.height, btoa(text)];
            }""",
            [base64.b64encode(body).decode(), kind],
        )
        pixels = np.frombuffer(base64.b64decode(drawn), np.uint8).reshape(height_px, width_px, 4)[..., :3]
        return np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC))


def difference(canvas: Canvas, body: bytes, kind: str) -> float:
    ours = decode(body, LIMITS).pixels.astype(np.int16)
    return float(np.abs(ours - canvas.shown(body, kind)).mean())


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("stored", SAMPLES)
def test_a_png(stored: str, told: str, canvas: Canvas) -> None:
    samples, colour_type, depth, chunks = SAMPLES[stored]
    # A mean of one level of 255; a browser keeps colours under alpha in fewer levels.
    assert difference(canvas, png(samples, colour_type, depth, *TOLD[told], *chunks), "png") <= 1


@pytest.mark.parametrize(
    ("primaries", "transfer"), [(1, 13), (12, 13), (9, 14), (12, 2), (2, 1), (9, 16), (9, 18), (1, 8)]
)
def test_an_avif_by_code_points(primaries: int, transfer: int, canvas: Canvas) -> None:
    body = encoded(PICTURE, "AVIF", quality=90, subsampling="4:4:4")
    at = body.index(b"colrnclx") + 8
    told = body[:at] + struct.pack(">HH", primaries, transfer) + body[at + 4 :]
    assert difference(canvas, told, "avif") <= 1


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_wide_colours_by_profile(form: str, mode: str, canvas: Canvas) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, form, quality=95, icc_profile=display_p3())
    # The JPEG is not made smaller by its DCT here, since it is small; lossy files are decoded alike to a level.
    assert difference(canvas, buffer.getvalue(), form.lower()) <= 1


def test_transparency_of_a_webp(canvas: Canvas) -> None:
    body = encoded(np.dstack([PICTURE, ALPHA]), "WEBP", lossless=True, icc_profile=display_p3())
    assert difference(canvas, body, "webp") <= 1
