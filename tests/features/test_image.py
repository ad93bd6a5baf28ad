"""Any file gives a photo or a listed reason."""

import io

import numpy as np
import pytest
from PIL import Image

from features.image import Limits, decode
from features.rejects import Reason, Rejected
from tests.pictures import encoded, jpeg, pixels, text_file, truncated_jpeg

LIMITS = Limits(max_image_bytes=10_000_000, max_pixels=20_000_000)
# How to store a picture so that a viewer that applies the orientation shows it upright (EXIF 2.3, tag 0x0112).
STORE_AS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_photo_becomes_what_pillow_shows(form: str) -> None:
    picture = pixels(seed=3, width_px=400, height_px=300)
    options = {"lossless": True} if form == "WEBP" else {}
    photo = decode(encoded(picture, form, **options), LIMITS)
    expected = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC), np.int16)
    assert (photo.format, photo.width_px, photo.height_px) == (form, 400, 300)
    assert photo.pixels.dtype == np.uint8
    assert np.abs(photo.pixels - expected).max() <= (12 if form == "JPEG" else 1)


@pytest.mark.parametrize("orientation", sorted(STORE_AS))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_gives_the_upright_picture(orientation: int, form: str) -> None:
    upright = pixels(seed=5, width_px=500, height_px=300)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORE_AS[orientation](upright))
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    photo = decode(encoded(stored, form, exif=exif, **options), LIMITS)
    straight = decode(encoded(upright, form, **options), LIMITS)
    assert (photo.width_px, photo.height_px) == (500, 300)
    difference = np.abs(photo.pixels.astype(int) - straight.pixels)
    assert difference.mean() < 1
    assert difference.max() <= 12


def test_transparency_is_composed_on_white() -> None:
    see_through = np.zeros((50, 50, 4), np.uint8)
    assert (decode(encoded(see_through, "PNG"), LIMITS).pixels == 255).all()


def test_a_large_jpeg_decoded_small_shows_the_same() -> None:
    picture = pixels(seed=8, width_px=4032, height_px=3024)
    photo = decode(encoded(picture, "JPEG", quality=92), LIMITS)
    expected = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC), np.int16)
    assert (photo.width_px, photo.height_px) == (4032, 3024)
    assert np.abs(photo.pixels - expected).mean() < 2


def _png_with_damaged_data() -> bytes:
    body = bytearray(encoded(pixels(seed=2), "PNG"))
    body[len(body) // 2] ^= 0xFF
    return bytes(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.EMPTY),
        (text_file(), Reason.NOT_AN_IMAGE),
        (truncated_jpeg(), Reason.TRUNCATED),
        (_png_with_damaged_data(), Reason.CORRUPT),
        (jpeg(seed=1)[:10], Reason.TRUNCATED),
        (encoded(pixels(seed=1), "GIF"), Reason.UNSUPPORTED_FORMAT),
        (encoded(pixels(seed=1), "TIFF"), Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypheic" + b"\0" * 100, Reason.UNSUPPORTED_FORMAT),
        (encoded(np.zeros((5000, 5000), np.uint8), "PNG"), Reason.TOO_MANY_PIXELS),
        (b"\xff\xd8\xff" + b"\0" * 10_000_000, Reason.TOO_MANY_BYTES),
    ],
    ids=lambda value: str(value) if isinstance(value, Reason) else f"{len(value)} bytes",
)
def test_what_is_not_a_usable_photo_has_its_reason(body: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        decode(body, LIMITS)
    assert rejected.value.reason == reason
    assert rejected.value.detail


def test_nothing_of_the_exif_survives() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker of phones"
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed=1)).save(buffer, "JPEG", exif=exif)
    assert set(vars(decode(buffer.getvalue(), LIMITS))) == {"pixels", "format", "width_px", "height_px"}
