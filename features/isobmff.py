"""The container of HEIF and AVIF (ISO/IEC 14496-12): its brands and its boxes."""

import io
from collections.abc import Iterator
from typing import BinaryIO

# Boxes behind one another. A file with more of them is not looked at further, so that none keeps the listing.
_MOST_BOXES = 1000
_MOST_BRANDS_BYTES = 4096
# HEVC in an image or in a sequence of images (ISO/IEC 23008-12, annex B), and AV1 (AV1 Image File Format).
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
# Brands of the container alone: what is in it, only its items tell.
_OPEN_BRANDS = {b"mif1", b"msf1"}


def image_format(body: bytes) -> str | None:
    """AVIF, HEIF or None by the brands of a file, as browsers decide: a compatible brand counts as the major one."""
    if body[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(body[:4], "big"), len(body), _MOST_BRANDS_BYTES)
    brands = {body[8:12], *(body[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & (_HEIF_BRANDS | _OPEN_BRANDS) else None


def without_exif(body: bytes) -> bytes:
    """The same file with its EXIF items given a type that nobody reads; nothing else moves."""
    for kind, start, end in boxes_between(io.BytesIO(body), 0, len(body)):
        if kind == b"meta":
            return body[:start] + body[start:end].replace(b"Exif", b"skip") + body[end:]
    return body


def boxes_between(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Each box with its kind, its start and its end, as far as their lengths go on to make sense. Raises OSError."""
    at = start
    for _ in range(_MOST_BOXES):
        if at >= end:
            return
        file.seek(at)
        head = file.read(16)
        length_bytes, header_bytes = int.from_bytes(head[:4], "big"), 8
        if length_bytes == 1:
            length_bytes, header_bytes = int.from_bytes(head[8:16], "big"), 16
        # A length of 0 means "to the end of the file", wherever that is by now.
        if length_bytes < header_bytes or len(head) < header_bytes:
            return
        yield head[4:8], at, at + length_bytes
        at += length_bytes
