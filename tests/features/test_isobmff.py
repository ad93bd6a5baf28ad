"""HEIF and AVIF files are told apart by their brands, turned by their containers, and known to be cut."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from features.image import Limits, Photo, decode
from features.rejects import Reason, Rejected
from tests.features.test_image import STORE_AS
from tests.support.pictures import encoded, pixels

LIMITS = Limits(max_image_bytes=10_000_000, max_pixels=20_000_000)
UPRIGHT = pixels(seed=5, width_px=300, height_px=200)
XMP_UNTURNED = b"<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation=\"1\"/>"
# An EXIF entry with a number that stands for itself, and the orientation of the same length: in both byte orders.
_UNIT, _TURN = 0x0128, 0x0112


def _sequence() -> bytes:
    buffer = io.BytesIO()
    black = Image.new("RGB", (300, 200), "black")
    Image.fromarray(UPRIGHT).save(buffer, "AVIF", save_all=True, append_images=[black])
    return buffer.getvalue()


def _with_brands(body: bytes, major: bytes, *compatible: bytes) -> bytes:
    """The same file with other brands, the last of them repeated, so that nothing in it moves."""
    length_bytes = int.from_bytes(body[:4], "big")
    brands = [*compatible, *[compatible[-1]] * 20][: (length_bytes - 16) // 4]
    return body[:8] + major + body[12:16] + b"".join(brands) + body[length_bytes:]


@pytest.mark.parametrize("major", [b"mif1", b"miaf", b"MA1A", b"avif", b"isom"])
def test_a_compatible_brand_makes_an_avif_file(major: bytes) -> None:
    body = encoded(UPRIGHT, "AVIF")
    assert _same(decode(_with_brands(body, major, b"mif1", b"avif"), LIMITS), decode(body, LIMITS))


@pytest.mark.parametrize("major", [b"msf1", b"mif1", b"miaf", b"avis"])
def test_of_an_avif_sequence_the_first_picture_is_taken(major: bytes) -> None:
    body = _sequence()
    assert _same(decode(_with_brands(body, major, b"msf1", b"mif1", b"avis"), LIMITS), decode(body, LIMITS))


@pytest.mark.parametrize("major", [b"mif1", b"miaf", b"heix", b"isom"])
def test_a_compatible_brand_makes_a_heif_file(major: bytes) -> None:
    body = encoded(UPRIGHT, "HEIF")
    assert _same(decode(_with_brands(body, major, b"mif1", b"heic"), LIMITS), decode(body, LIMITS))


def test_a_heif_file_in_another_codec_is_no_format_of_ours() -> None:
    with pytest.raises(Rejected) as rejected:
        decode(_with_brands(encoded(UPRIGHT, "AVIF"), b"mif1", b"mif1"), LIMITS)
    assert rejected.value.reason == Reason.UNSUPPORTED_FORMAT
    assert "AV1" in rejected.value.detail


@pytest.mark.parametrize("stored_as", sorted(STORE_AS))
@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_the_container_alone_turns_a_photo(form: str, stored_as: int) -> None:
    plain = decode(encoded(UPRIGHT, form, quality=95), LIMITS)
    body = _stored(form, stored_as)
    for claimed in range(1, 10):
        photo = decode(_with_exif_orientation(body, claimed), LIMITS)
        assert (photo.width_px, photo.height_px) == (300, 200)
        assert np.abs(photo.pixels.astype(int) - plain.pixels).mean() < 1.5


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_xmp_turns_nothing(form: str) -> None:
    body = encoded(UPRIGHT, form, xmp=XMP_UNTURNED)
    turned = body.replace(b'Orientation="1"', b'Orientation="6"')
    assert turned != body
    assert _same(decode(turned, LIMITS), decode(body, LIMITS))


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_a_damaged_exif_block_is_no_exif_block(form: str) -> None:
    body = _stored(form, 6)
    damaged = body.replace(b"II*\0", b"XXXX").replace(b"MM\0*", b"XXXX")
    assert damaged != body
    assert _same(decode(damaged, LIMITS), decode(body, LIMITS))


def _stored(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[_TURN], exif[_UNIT] = orientation, 9
    stored = np.ascontiguousarray(STORE_AS[orientation](UPRIGHT))
    return encoded(stored, form, quality=95, exif=exif.tobytes())


def _with_exif_orientation(body: bytes, orientation: int) -> bytes:
    for order in ("little", "big"):
        kind_and_count = (3).to_bytes(2, order) + (1).to_bytes(4, order)  # type: ignore[arg-type]
        entry = _UNIT.to_bytes(2, order) + kind_and_count + (9).to_bytes(2, order)  # type: ignore[arg-type]
        claim = _TURN.to_bytes(2, order) + kind_and_count + orientation.to_bytes(2, order)  # type: ignore[arg-type]
        if entry in body:
            return body.replace(entry, claim)
    raise AssertionError("the EXIF block has no such entry")


def _transparent() -> NDArray[np.uint8]:
    return np.dstack([UPRIGHT, np.full(UPRIGHT.shape[:2], 120, np.uint8)])


# The first cut that leaves the bytes by which a format is known.
KNOWN_FROM_BYTES = {"PNG": 8, "WEBP": 12, "HEIF": 12, "AVIF": 12}
CUT = {
    "png": ("PNG", encoded(UPRIGHT, "PNG")),
    "webp": ("WEBP", encoded(UPRIGHT, "WEBP")),
    "lossless webp": ("WEBP", encoded(UPRIGHT, "WEBP", lossless=True)),
    "webp with exif": ("WEBP", encoded(_transparent(), "WEBP", exif=Image.Exif().tobytes())),
    "heic": ("HEIF", encoded(UPRIGHT, "HEIF")),
    "transparent heic": ("HEIF", encoded(_transparent(), "HEIF")),
    "avif": ("AVIF", encoded(UPRIGHT, "AVIF")),
    "transparent avif": ("AVIF", encoded(_transparent(), "AVIF")),
    "avif sequence": ("AVIF", _sequence()),
}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_file_is_truncated(name: str) -> None:
    form, body = CUT[name]
    found = {cut: _outcome(body[:cut]) for cut in _cuts(len(body)) if cut >= KNOWN_FROM_BYTES[form]}
    # What needs no more bytes is shown: of a PNG all lines, of a sequence the first picture.
    others = {cut: what for cut, what in found.items() if what not in (Reason.TRUNCATED, form)}
    assert others == {}
    shown = [cut for cut, what in found.items() if what == form]
    assert not shown or (min(shown) > len(body) - 30 if form == "PNG" else name == "avif sequence")


@pytest.mark.parametrize("name", [name for name in CUT if name != "avif sequence"])
def test_a_damaged_file_with_all_its_bytes_is_not_taken_for_a_cut_one(name: str) -> None:
    form, body = CUT[name]
    damaged = body[: len(body) // 2] + bytes(b ^ 0xA5 for b in body[len(body) // 2 : -12]) + body[-12:]
    assert _outcome(damaged) in (Reason.CORRUPT, form)


def _cuts(size_bytes: int) -> list[int]:
    near_an_end = {*range(min(700, size_bytes)), *range(max(0, size_bytes - 60), size_bytes)}
    return sorted({*near_an_end, *range(0, size_bytes, max(1, size_bytes // 100))})


def _outcome(body: bytes) -> str:
    try:
        return decode(body, LIMITS).format
    except Rejected as rejected:
        return rejected.reason


def _same(one: Photo, other: Photo) -> bool:
    sizes = [(photo.format, photo.width_px, photo.height_px) for photo in (one, other)]
    return sizes[0] == sizes[1] and np.array_equal(one.pixels, other.pixels)
