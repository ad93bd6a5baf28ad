"""A complete photo is known by its own format, and no beginning of one is taken for it."""

import io
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from features.wholeness import looks_whole
from tests.support.pictures import encoded, pixels, text_file

SMALL = pixels(seed=1, width_px=48, height_px=32)
OTHER = pixels(seed=2, width_px=24, height_px=16)
JPEG = encoded(SMALL, "JPEG")
SECOND_JPEG = encoded(OTHER, "JPEG")


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


MP4 = (
    _box(b"ftyp", b"mp42\0\0\0\0isommp42")
    + _box(b"mdat", bytes(range(200)))
    + _box(b"moov", _box(b"mvhd", bytes(range(100))))
)
LARGE_MP4 = (
    _box(b"ftyp", b"mp42\0\0\0\0") + _box(b"moov", b"x") + b"\0\0\0\1mdat" + struct.pack(">Q", 16 + 9) + b"123456789"
)


def _samsung(video: bytes) -> bytes:
    block = b"\0\0\x30\x0a" + struct.pack("<I", 16) + b"MotionPhoto_Data" + video
    directory = b"SEFH" + struct.pack("<II", 106, 1) + b"\0\0\x30\x0a" + struct.pack("<II", len(block), len(block))
    return block + directory + struct.pack("<I", len(directory)) + b"SEFT"


def _with_exif_thumbnail() -> bytes:
    # Two thumbnails, so that an end marker comes twice before the picture.
    return JPEG[:2] + _segment(0xE1, b"Exif\0\0" + SECOND_JPEG) + _segment(0xE2, SECOND_JPEG) + JPEG[2:]


def _mpo() -> bytes:
    buffer = io.BytesIO()
    second = Image.fromarray(OTHER)
    Image.fromarray(SMALL).save(buffer, "MPO", save_all=True, append_images=[second, second])
    return buffer.getvalue()


WHOLE = {
    "jpeg": JPEG,
    "progressive": encoded(SMALL, "JPEG", progressive=True),
    "restarts": encoded(SMALL, "JPEG", restart_marker_rows=1),
    "fill bytes": JPEG[:2] + b"\xff" * 7 + JPEG[2:],
    "thumbnails": _with_exif_thumbnail(),
    "png": encoded(SMALL, "PNG"),
    "webp": encoded(SMALL, "WEBP"),
    "lossless webp": encoded(SMALL, "WEBP", lossless=True),
    "heic": encoded(SMALL, "HEIF"),
    "avif": encoded(SMALL, "AVIF"),
}
# A photo with more behind it, and where in it an earlier picture ends, which is all that is not told apart.
COMPOSED = {
    "several pictures": (_mpo(), {i + 2 for i in range(len(_mpo())) if _mpo()[i:].startswith(b"\xff\xd9\xff\xd8")}),
    "motion photo": (JPEG + MP4, {len(JPEG)}),
    "motion photo of 64-bit lengths": (JPEG + LARGE_MP4, {len(JPEG)}),
    "progressive motion photo": (WHOLE["progressive"] + MP4, {len(WHOLE["progressive"])}),
    "gain map and video": (JPEG + SECOND_JPEG + MP4, {len(JPEG), len(JPEG + SECOND_JPEG)}),
    "Samsung's motion photo": (JPEG + _samsung(MP4), {len(JPEG)}),
    "heic with video": (WHOLE["heic"] + _box(b"mpvd", MP4), {len(WHOLE["heic"])}),
}


def _looks_whole(body: bytes) -> bool:
    return looks_whole(io.BytesIO(body), len(body))


@pytest.mark.parametrize("name", WHOLE)
def test_a_photo_looks_whole_and_no_beginning_of_it_does(name: str) -> None:
    body = WHOLE[name]
    assert _looks_whole(body)
    assert [cut for cut in range(len(body)) if _looks_whole(body[:cut])] == []


@pytest.mark.parametrize("name", COMPOSED)
def test_a_photo_with_more_behind_it_is_whole_with_all_of_it(name: str) -> None:
    body, inner_ends = COMPOSED[name]
    assert _looks_whole(body)
    assert {cut for cut in range(len(body)) if _looks_whole(body[:cut])} == inner_ends


@pytest.mark.parametrize("name", [*WHOLE, *COMPOSED])
def test_a_file_that_was_given_its_size_before_its_content_is_not_whole(name: str) -> None:
    body = WHOLE[name] if name in WHOLE else COMPOSED[name][0]
    for written in range(0, len(body) - 100, 7):
        assert not _looks_whole(body[:written] + bytes(len(body) - written))
    assert not _looks_whole(body + bytes(5000))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", text_file(), bytes(4096), b"GIF89a" + bytes(100), b"\xff\xd8\xff", MP4),
        *(JPEG + b"notes", JPEG + MP4 + b"\0", JPEG + MP4[:-108], JPEG + SECOND_JPEG[:-5], JPEG + b"SEFT"),
        *(WHOLE["png"] + b"notes", WHOLE["webp"] + b"notes", _box(b"ftyp", b"heic")),
    ],
    ids=lambda body: f"{len(body)} bytes",
)
def test_what_is_unknown_or_lacks_its_end_is_not_whole(body: bytes) -> None:
    assert not _looks_whole(body)


@given(st.sampled_from(list(WHOLE.values())), st.floats(0, 1), st.binary(max_size=80))
def test_damaged_bytes_are_judged_without_an_error(body: bytes, share: float, put_in: bytes) -> None:
    at = round(len(body) * share)
    assert _looks_whole(body[:at] + put_in + body[at:]) in (True, False)


def test_of_a_whole_photo_only_headers_and_the_end_are_read() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.read_bytes += len(found)
            return found

    scan = JPEG[:-2] + bytes(5_000_000) + JPEG[-2:]
    for body in (scan, WHOLE["heic"] + _box(b"mpvd", bytes(5_000_000) + b"x" * 64)):
        file = Counting(body)
        assert looks_whole(file, len(body))
        assert file.read_bytes < 2000


HOSTILE = {
    "fill bytes": b"\xff\xd8" + b"\xff" * 5_000_000,
    "segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000,
    "scans": JPEG[:-2] + WHOLE["progressive"][WHOLE["progressive"].rfind(b"\xff\xda") : -2] * 20_000 + b"x",
    "pictures": JPEG + SECOND_JPEG * 5_000 + b"x",
    "boxes": WHOLE["heic"] + _box(b"free", b"") * 200_000 + b"x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_does_not_keep_the_listing(name: str) -> None:
    began_s = time.process_time()
    assert not _looks_whole(HOSTILE[name])
    assert time.process_time() - began_s < 2
