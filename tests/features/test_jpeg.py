"""JPEGs are judged by their headers as a browser would judge them, and refused for the memory they would take."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from features.image import Limits, Photo, decode
from features.rejects import Reason, Rejected
from store.settings import load_settings
from tests.support.pictures import encoded, grainy, in_a_scan_each, jpeg, pixels, scan_bomb, tall_jpeg, with_size

LIMITS = Limits(max_image_bytes=64 * 2**20, max_pixels=100_000_000)
ROOT = Path(__file__).parents[2]
XMP_TURNED = b"<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation=\"6\"/>"
SMALL = grainy(3, 48, 32)
MIDDLE = grainy(3, 320, 240)
LARGE = grainy(3, 1600, 1200)
WHOLE = {
    "tiny": encoded(SMALL, "JPEG"),
    "tiny, progressive": encoded(SMALL, "JPEG", progressive=True),
    "baseline": encoded(MIDDLE, "JPEG", quality=30),
    "progressive": encoded(MIDDLE, "JPEG", progressive=True),
    "restarts": encoded(MIDDLE, "JPEG", restart_marker_rows=1),
    "progressive with restarts": encoded(MIDDLE, "JPEG", progressive=True, restart_marker_rows=1),
    "all of the colours": encoded(MIDDLE, "JPEG", progressive=True, subsampling="4:4:4"),
    "a scan each": in_a_scan_each(MIDDLE),
    "grey": encoded(MIDDLE[..., 0], "JPEG"),
    "reduced": encoded(LARGE, "JPEG"),
    "reduced, progressive": encoded(LARGE, "JPEG", progressive=True),
}


def rejected(body: bytes, limits: Limits = LIMITS) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode(body, limits)
    return caught.value


@pytest.mark.parametrize("missing", [b"\xff\xd9", b"\xd9"], ids=["the end marker", "half of it"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_photo_that_lacks_only_its_end_is_the_whole_photo(name: str, missing: bytes) -> None:
    body = WHOLE[name]
    assert _same(decode(body.removesuffix(missing), LIMITS), decode(body, LIMITS))


@pytest.mark.parametrize("name", WHOLE)
def test_a_photo_that_lacks_more_than_its_end_is_truncated(name: str) -> None:
    body = WHOLE[name]
    for cut in {*range(len(body) - 16, len(body) - 2), *range(100, len(body) - 2, len(body) // 10)}:
        assert rejected(body[:cut]).reason == Reason.TRUNCATED, f"{cut} of {len(body)} bytes"


def test_a_photo_that_lacks_whole_scans_is_truncated() -> None:
    for name in ("progressive", "a scan each"):
        body = WHOLE[name]
        scans = [at for at in range(len(body)) if body[at : at + 2] == b"\xff\xda"]
        assert len(scans) > 2
        for at in scans[1:]:
            assert rejected(body[:at]).reason == Reason.TRUNCATED


def test_a_photo_that_lacks_whole_restart_intervals_is_truncated() -> None:
    for name in ("restarts", "progressive with restarts"):
        body = WHOLE[name]
        restarts = [at for at in range(len(body)) if body[at : at + 2] in {bytes([0xFF, 0xD0 + n]) for n in range(8)}]
        assert len(restarts) > 10
        for at in restarts:
            assert rejected(body[:at]).reason == Reason.TRUNCATED
            assert rejected(body[: at + 2]).reason == Reason.TRUNCATED


@pytest.mark.parametrize("behind", [b"x" * 100, bytes(5000), b"\xff\xd9more", b"\xff\xd9\xff\xd8\xff"])
@pytest.mark.parametrize("name", ["baseline", "progressive", "restarts"])
def test_bytes_behind_the_picture_change_nothing(name: str, behind: bytes) -> None:
    body = WHOLE[name]
    assert _same(decode(body[:-2] + behind, LIMITS), decode(body, LIMITS))


def test_pictures_within_and_behind_a_photo_do_not_stand_for_its_end() -> None:
    thumbnail = b"Exif\0\0" + jpeg(seed=9, width_px=64, height_px=48)
    app1 = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    body = WHOLE["baseline"][:2] + app1 + WHOLE["baseline"][2:]
    assert _same(decode(body[:-2], LIMITS), decode(WHOLE["baseline"], LIMITS))
    assert rejected(body[:-200]).reason == Reason.TRUNCATED
    assert rejected(body[: len(app1)]).reason == Reason.TRUNCATED


def test_every_beginning_of_a_header_is_truncated() -> None:
    for name in ("baseline", "progressive"):
        body = WHOLE[name]
        for cut in range(3, body.index(b"\xff\xda") + 20):
            assert rejected(body[:cut]).reason == Reason.TRUNCATED, f"{name}: {cut} bytes"


def test_a_scan_for_each_component_gives_the_same_picture() -> None:
    difference = (
        decode(in_a_scan_each(MIDDLE), LIMITS).pixels.astype(int) - decode(encoded(MIDDLE, "PNG"), LIMITS).pixels
    )
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize(
    ("at", "becomes", "named"),
    [
        *((1, marker, "a lossless JPEG") for marker in (0xC3, 0xCB)),
        *((1, marker, "a hierarchical JPEG") for marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xDE)),
        (1, 0xF7, "a JPEG-LS file"),
        (4, 12, "a 12-bit JPEG"),
        (4, 16, "a 16-bit JPEG"),
    ],
)
def test_a_jpeg_that_no_browser_shows_is_named(at: int, becomes: int, named: str) -> None:
    body = bytearray(WHOLE["baseline"])
    body[body.index(b"\xff\xc0") + at] = becomes
    found = rejected(bytes(body))
    assert found.reason == Reason.UNSUPPORTED_FORMAT
    assert named in found.detail
    assert "baseline or progressive JPEG" in found.detail


def test_xmp_turns_no_photo() -> None:
    upright = pixels(seed=5, width_px=500, height_px=300)
    for form in ("JPEG", "PNG", "WEBP"):
        photo = decode(encoded(upright, form, xmp=XMP_TURNED), LIMITS)
        assert (photo.width_px, photo.height_px) == (500, 300)
        assert _same(photo, decode(encoded(upright, form), LIMITS))


def test_exif_turns_a_photo_whatever_xmp_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for form in ("JPEG", "PNG", "WEBP"):
        body = encoded(pixels(seed=5, width_px=500, height_px=300), form, exif=exif.tobytes(), xmp=XMP_TURNED)
        assert _same(decode(body, LIMITS), decode(body.replace(b'"6"', b'"1"'), LIMITS))
        assert (decode(body, LIMITS).width_px, decode(body, LIMITS).height_px) == (300, 500)


def test_photos_of_108_and_200_megapixels_have_their_rows_by_default() -> None:
    for width_px, height_px in ((12_000, 9_000), (16_320, 12_240)):
        photo = decode(tall_jpeg(1, width_px, height_px), load_settings().limits)
        assert (photo.width_px, photo.height_px) == (width_px, height_px)


@pytest.mark.parametrize(
    ("body", "least"),
    [
        (WHOLE["reduced"], 400 * 300),
        (WHOLE["reduced, progressive"], 400 * 300 + (200 * 150 + 2 * 100 * 75) * 32),
        (WHOLE["all of the colours"], 320 * 240 + 3 * 40 * 30 * 32),
        (WHOLE["a scan each"], 320 * 240 + 3 * 40 * 30 * 32),
        (WHOLE["grey"], 320 * 240),
        (encoded(LARGE, "PNG"), 1600 * 1200),
    ],
    ids=["baseline", "progressive", "4:4:4", "a scan each", "grey", "PNG"],
)
def test_the_limit_counts_what_decoding_keeps(body: bytes, least: int) -> None:
    decode(body, Limits(10_000_000, least))
    found = rejected(body, Limits(10_000_000, least - 1))
    assert found.reason == Reason.TOO_MANY_PIXELS
    assert str(least - 1) in found.detail


# What the interpreter, the decoders and the file take beside what the limit counts.
BESIDE_MB = 60
# A process for each photo, all of them copies of one that has loaded the decoders.
_MEASURE = """
import json, os, resource, sys
from pathlib import Path
from features.image import decode
from features.rejects import Rejected
from store.settings import load_settings
limits = load_settings().limits
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for path in map(Path, sys.argv[1:]):
    if os.fork() == 0:
        body, before_mb = path.read_bytes(), peak_mb()
        try:
            outcome = decode(body, limits).format
        except Rejected as rejected:
            outcome = rejected.reason
        print(json.dumps([path.name, outcome, peak_mb() - before_mb]))
        sys.exit()
    os.wait()
"""


@pytest.mark.processes
def test_the_memory_of_a_worker_is_bounded_by_the_limit(tmp_path: Path) -> None:
    all_colours = encoded(SMALL, "JPEG", progressive=True, subsampling="4:4:4")
    progressive = WHOLE["tiny, progressive"]
    photos = {
        "200 MP": (tall_jpeg(1, 16_320, 12_240), "JPEG", 0),
        "4290 MP": (with_size(WHOLE["tiny"], 65_500, 65_500), "JPEG", 270),
        "130 MP progressive": (with_size(progressive, 11_400, 11_400), "JPEG", 400),
        "65 MP progressive 4:4:4": (with_size(all_colours, 8_100, 8_100), "JPEG", 400),
        "200 MP progressive": (with_size(progressive, 16_320, 12_240), "too_many_pixels", 0),
        "200 MP in scans": (with_size(in_a_scan_each(SMALL), 16_320, 12_240), "too_many_pixels", 0),
        "130 MP progressive without its end": (with_size(progressive, 11_400, 11_400)[:-2], "truncated", 400),
        "56 MP progressive without its end": (with_size(progressive, 7_500, 7_500)[:-2], "truncated", 400),
    }
    for name, (body, _, _) in photos.items():
        (tmp_path / name).write_bytes(body)
    command = [sys.executable, "-c", _MEASURE, *(str(tmp_path / name) for name in photos)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    measured = {name: (outcome, grown_mb) for name, outcome, grown_mb in map(json.loads, done.stdout.splitlines())}
    assert {name: outcome for name, (outcome, _) in measured.items()} == {
        name: outcome for name, (_, outcome, _) in photos.items()
    }
    for name, (_, _, decoder_mb) in photos.items():
        assert measured[name][1] < decoder_mb + BESIDE_MB, name


def test_scans_without_number_and_without_an_end_are_judged_in_time() -> None:
    bomb = scan_bomb()
    assert rejected(bomb[: len(bomb) // 5000]).reason == Reason.TRUNCATED


def _same(one: Photo, other: Photo) -> bool:
    sizes = [(photo.format, photo.width_px, photo.height_px) for photo in (one, other)]
    return sizes[0] == sizes[1] and np.array_equal(one.pixels, other.pixels)
