"""The small copy of a photo: what it shows, what is not in it, and that it gives the same pixels again."""

import io

import numpy as np
import pytest
from PIL import Image

from features import jpeg
from features.featurizer import Recipe
from features.image import Limits, Photo, decode
from features.isolation import IsolatedDecoder
from tests.support.pictures import display_p3, encoded, grainy, pixels

LIMITS = Limits(max_image_bytes=30_000_000, max_pixels=100_000_000)
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><exif:GPSLatitude>48,51.5N</exif:GPSLatitude></x:xmpmeta>'
SECRETS = (b"Exif", b"ICC_PROFILE", b"acsp", b"xmpmeta", b"GPSLatitude", b"Maker of phones", b"A comment", b"secret")


def _exif(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker of phones"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def _copy(body: bytes, copy_px: int = 300) -> tuple[Photo, bytes, Image.Image]:
    photo = decode(body, LIMITS, Recipe(copy_px=copy_px))
    assert photo.copy is not None
    with Image.open(io.BytesIO(photo.copy)) as opened:
        opened.load()
        return photo, photo.copy, opened


@pytest.mark.parametrize("form", FORMATS)
def test_it_shows_the_photo_upright_and_holds_nothing_else(form: str) -> None:
    wide = Image.fromarray(pixels(seed=3, width_px=800, height_px=600))
    body = io.BytesIO()
    comment = {"comment": b"A comment"} if form == "JPEG" else {}
    wide.save(body, form, quality=95, exif=_exif(6), xmp=XMP, icc_profile=display_p3(), **comment)
    photo, copy, shown = _copy(body.getvalue())
    assert (photo.width_px, photo.height_px, photo.format) == (600, 800, form)
    assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", (300, 400))
    assert not shown.getexif()
    assert shown.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert [secret for secret in SECRETS if secret in copy] == []
    assert jpeg.is_bare(copy)
    # Colours and turn are those of the features of a home without copies.
    assert np.abs(photo.pixels.astype(int) - decode(body.getvalue(), LIMITS).pixels.astype(int)).mean() < 3


@pytest.mark.parametrize(("copy_px", "size"), [(300, (504, 378)), (512, (1008, 756))])
def test_of_12_megapixels_it_is_the_draft_that_is_decoded_anyway(copy_px: int, size: tuple[int, int]) -> None:
    body = encoded(grainy(1, 4032, 3024), "JPEG", quality=92)
    _, copy, shown = _copy(body, copy_px)
    assert shown.size == size
    if copy_px == 300:
        assert len(copy) < len(body) / 30


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("copy_px", [300, 512])
def test_decoded_again_it_gives_the_same_pixels_and_itself(form: str, copy_px: int) -> None:
    body = io.BytesIO()
    Image.fromarray(grainy(5, 1300, 900)).save(body, form, quality=90, exif=_exif(8))
    photo, copy, _ = _copy(body.getvalue(), copy_px)
    again, same, _ = _copy(copy, copy_px)
    assert same == copy
    assert np.array_equal(again.pixels, photo.pixels)
    if copy_px == 300:
        # A home without copies sees the same in it.
        assert np.array_equal(decode(copy, LIMITS).pixels, photo.pixels)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_a_copy_already_stays_byte_for_byte(mode: str, progressive: bool) -> None:
    body = io.BytesIO()
    Image.fromarray(pixels(seed=4, width_px=320, height_px=240)).convert(mode).save(
        body, "JPEG", quality=93, progressive=progressive
    )
    assert _copy(body.getvalue())[1] == body.getvalue()
    # One that lacks only its end marker is stored with it.
    assert _copy(body.getvalue()[:-2])[1] == body.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        encoded(pixels(seed=4), "JPEG", exif=_exif()),
        encoded(pixels(seed=4), "JPEG", comment=b"secret"),
        encoded(pixels(seed=4), "JPEG", icc_profile=display_p3()),
        encoded(pixels(seed=4), "JPEG") + b"secret",
        encoded(pixels(seed=4), "JPEG")[:20] + b"secret" + encoded(pixels(seed=4), "JPEG")[20:],
        encoded(pixels(seed=4), "JPEG")[:-2] + b"Exif secret\xff\xd9",
        encoded(pixels(seed=4), "MPO", save_all=True, append_images=[Image.fromarray(pixels(seed=5))]),
        encoded(pixels(seed=4, width_px=900, height_px=700), "JPEG"),
    ],
    ids=["exif", "comment", "profile", "bytes behind", "bytes between", "bytes in a scan", "two pictures", "too large"],
)
def test_of_any_other_only_the_picture_is_kept(body: bytes) -> None:
    _, copy, _ = _copy(body)
    assert copy != body
    assert jpeg.is_bare(copy)
    assert [secret for secret in SECRETS if secret in copy] == []


@pytest.mark.parametrize("progressive", [False, True])
def test_a_small_upright_jpeg_only_loses_what_stands_beside_its_picture(progressive: bool) -> None:
    plain = encoded(pixels(seed=4), "JPEG", quality=93, progressive=progressive)
    told = {"exif": _exif(), "xmp": XMP, "comment": b"A comment", "quality": 93, "progressive": progressive}
    body = encoded(pixels(seed=4), "JPEG", **told) + b"secret"
    photo, copy, _ = _copy(body)
    assert copy == plain
    assert np.array_equal(photo.pixels, decode(body, LIMITS).pixels)
    with Image.open(io.BytesIO(body)) as before, Image.open(io.BytesIO(copy)) as after:
        assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "RGB"])
def test_what_says_how_colours_are_stored_is_not_taken_out(mode: str) -> None:
    buffer = io.BytesIO()
    options = {"keep_rgb": True, "subsampling": 0} if mode == "RGB" else {}
    Image.fromarray(pixels(seed=4)).convert(mode).save(buffer, "JPEG", quality=93, comment=b"A comment", **options)
    photo, copy, shown = _copy(buffer.getvalue())
    assert jpeg.is_bare(copy)
    assert shown.mode == "RGB"
    assert np.abs(photo.pixels.astype(int) - decode(buffer.getvalue(), LIMITS).pixels.astype(int)).mean() < 3


def test_transparency_lies_on_white_and_long_strips_fit() -> None:
    clear = Image.new("RGBA", (400, 400), (255, 0, 0, 0))
    body = io.BytesIO()
    clear.save(body, "PNG")
    assert _copy(body.getvalue())[2].getpixel((200, 200)) == (255, 255, 255)
    strip = io.BytesIO()
    Image.new("L", (70_000, 4), 90).save(strip, "PNG")
    assert _copy(strip.getvalue())[2].size == (65_500, 4)


def test_a_decoder_in_a_process_of_its_own_hands_it_over() -> None:
    body = encoded(pixels(seed=6, width_px=700, height_px=500), "JPEG")
    recipe = Recipe(copy_px=300)
    with IsolatedDecoder(LIMITS) as isolated:
        found, here = isolated.decode(body, LIMITS, recipe), decode(body, LIMITS, recipe)
    assert found.copy == here.copy is not None
    assert np.array_equal(found.pixels, here.pixels)
