"""Any file gives a photo or a listed reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from features.featurizer import Featurizer
from features.image import Limits, decode
from features.rejects import Reason, Rejected
from tests.support.pictures import display_p3, encoded, grainy, jpeg, pixels, text_file, truncated_jpeg

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


FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF")
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}}
# What encoding may cost: the mean difference of a level, of 255.
LOSS = {"PNG": 0.1, "WEBP": 0.1, "JPEG": 1.5, "HEIF": 1.5, "AVIF": 1.5}


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"quality": 95} | LOSSLESS.get(form, {}) | options))
    return buffer.getvalue()


def as_seen(picture: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC), np.int16)


def difference(body: bytes, expected: NDArray[np.int16]) -> float:
    return float(np.abs(decode(body, LIMITS).pixels - expected).mean())


@pytest.mark.parametrize("form", FORMATS)
def test_a_photo_becomes_what_pillow_shows(form: str) -> None:
    picture = pixels(seed=3, width_px=400, height_px=300)
    photo = decode(saved(Image.fromarray(picture), form), LIMITS)
    assert (photo.format, photo.width_px, photo.height_px) == (form, 400, 300)
    assert (photo.pixels.shape, photo.pixels.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(photo.pixels - as_seen(picture)).mean() <= LOSS[form]


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"subsampling": "4:4:4"}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "L", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": False}),
        ("WEBP", "RGBA", {}),
        ("HEIF", "L", {}),
        ("HEIF", "RGBA", {}),
        ("AVIF", "RGBA", {}),
    ],
)
def test_every_kind_of_every_format_becomes_what_pillow_shows(form: str, mode: str, options: dict[str, object]) -> None:
    picture = Image.fromarray(pixels(seed=4, width_px=500, height_px=400)).convert(mode)
    assert difference(saved(picture, form, **options), as_seen(np.asarray(picture.convert("RGB")))) <= 2


@pytest.mark.parametrize("mode", ["P", "1"])
def test_a_palette_becomes_its_colours(mode: str) -> None:
    picture = Image.fromarray(pixels(seed=4, width_px=224, height_px=224)).convert(mode)
    assert difference(saved(picture, "PNG"), np.asarray(picture.convert("RGB"), np.int16)) == 0


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.tile(np.linspace(0, 65535, 224).astype(np.uint16), (224, 1))
    expected = np.repeat((grey >> 8)[..., None], 3, axis=2).astype(np.int16)
    assert difference(encoded(grey, "PNG"), expected) == 0
    # Pillow writes no colours in 16 bits: signature, header (16 bits, RGB), data, end.
    colours = np.stack([grey, grey[:, ::-1], grey // 2], axis=-1)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in colours)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 224, 224, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    assert difference(png, (colours >> 8).astype(np.int16)) == 0


@pytest.mark.parametrize("orientation", sorted(STORE_AS))
@pytest.mark.parametrize("form", FORMATS)
def test_every_orientation_gives_the_upright_picture(orientation: int, form: str) -> None:
    upright = pixels(seed=5, width_px=500, height_px=300)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORE_AS[orientation](upright)))
    # As bytes, because only then pillow-heif writes the turn that viewers of HEIC files go by.
    photo = decode(saved(stored, form, exif=exif.tobytes()), LIMITS)
    assert (photo.width_px, photo.height_px) == (500, 300)
    assert np.abs(photo.pixels - as_seen(upright)).mean() <= LOSS[form]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "HEIF", "AVIF"])
def test_transparency_is_composed_on_white(form: str) -> None:
    see_through = np.zeros((300, 300, 4), np.uint8)
    see_through[:, 150:, 3] = 255
    seen = decode(saved(Image.fromarray(see_through), form), LIMITS).pixels
    assert seen[:, :100].min() >= 254
    assert seen[:, 124:].max() <= 2


def test_a_transparent_palette_entry_is_white() -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([200, 0, 0, 0, 200, 0])
    assert (decode(saved(picture, "PNG", transparency=0), LIMITS).pixels == 255).all()


@pytest.mark.parametrize("form", FORMATS)
def test_wide_gamut_colours_become_srgb(form: str) -> None:
    wide = Image.new("RGB", (300, 300), (200, 120, 60))
    seen = decode(saved(wide, form, icc_profile=display_p3()), LIMITS).pixels
    # Linear Display P3 to linear sRGB (CSS Color 4, section 17); both have sRGB's transfer curve.
    matrix = [[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]]
    linear = matrix @ (((np.array([200, 120, 60]) / 255 + 0.055) / 1.055) ** 2.4)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert expected[0] > 208
    assert np.abs(seen.reshape(-1, 3).mean(axis=0) - expected).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [b"no profile at all", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
    ids=["not a profile", "of other colours"],
)
def test_a_profile_that_does_not_fit_is_no_profile(profile: bytes) -> None:
    picture = pixels(seed=6, width_px=300, height_px=300)
    assert difference(encoded(picture, "PNG", icc_profile=profile), as_seen(picture)) <= LOSS["PNG"]


def test_a_damaged_exif_block_is_no_exif_block() -> None:
    picture = pixels(seed=6, width_px=300, height_px=300)
    body = encoded(picture, "JPEG", quality=95, exif=b"Exif\0\0this is not TIFF")
    assert difference(body, as_seen(picture)) <= LOSS["JPEG"]


@pytest.mark.parametrize(
    ("form", "size", "options", "least"),
    [
        # The smallest of its shape that is decoded at an eighth.
        ("JPEG", (3200, 2400), {}, 0.99),
        ("JPEG", (1204, 1204), {}, 0.99),
        ("JPEG", (500, 375), {}, 0.999),
        ("PNG", (1200, 900), {"compress_level": 1}, 0.999),
        ("HEIF", (600, 450), {}, 0.999),
    ],
)
def test_features_are_those_of_full_decoding(
    form: str, size: tuple[int, int], options: dict[str, object], least: float, trained: Featurizer
) -> None:
    for seed in (0, 1):
        body = saved(Image.fromarray(grainy(seed, *size)), form, **options)
        whole = Image.open(io.BytesIO(body)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        ours, whole_s = trained.features(np.stack([decode(body, LIMITS).pixels, np.asarray(whole)]))
        assert float(ours @ whole_s / np.linalg.norm(ours) / np.linalg.norm(whole_s)) >= least


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
        (b"\0\0\0\x18ftypheic" + b"\0" * 100, Reason.CORRUPT),
        (b"\0\0\0\x18ftypisom" + b"\0" * 100, Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypqt  " + b"\0" * 100, Reason.UNSUPPORTED_FORMAT),
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
    photo = decode(buffer.getvalue(), LIMITS)
    assert set(vars(photo)) == {"pixels", "format", "width_px", "height_px", "copy"}
    assert photo.copy is None
