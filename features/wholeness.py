"""Whether a photo's file looks complete by its own format, told from its headers and its end."""

import io
import re
from typing import BinaryIO

from features.isobmff import boxes_between

_SOI, _EOI, _SOS = b"\xff\xd8\xff", 0xD9, 0xDA
# TEM and the restart markers stand alone; every other marker in a picture begins a segment that tells its length.
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_IN_NO_PICTURE = {0x00, 0xD8}
# In entropy-coded data FF 00 is a byte of it, FF D0 to FF D7 are restarts, and FF may be repeated.
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
# Segments behind one another. A file with more of them waits instead, so that none keeps the listing.
_MOST_PARTS = 1000
_MOST_PICTURES = 16
_MOST_FILL_BYTES = 64
_MOST_SCANNED_BYTES = 64 * 2**20
_SCANNED_AT_ONCE_BYTES = 256 * 2**10
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TAIL_BYTES = 64


def looks_whole(file: BinaryIO, size_bytes: int) -> bool:
    """Whether a file of this size has the beginning and the end of a JPEG, PNG, WebP, HEIF or AVIF file.

    Reads headers and the last bytes; of a JPEG with something behind it, the picture's data too. A JPEG is also whole
    with further JPEGs, a complete MP4 or Samsung's trailer behind it. Anything that is not known is not whole, and so
    is a file that was given its size before its content. What it cannot tell: a file cut exactly where one of the
    pictures in it ends. Raises OSError.
    """
    head = _at(file, 0, 12)
    if head.startswith(_SOI):
        return _is_whole_jpeg(file, size_bytes)
    if head.startswith(_PNG_SIGNATURE):
        return _at(file, max(0, size_bytes - len(_PNG_END)), len(_PNG_END)) == _PNG_END
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        return _is_whole_webp(file, size_bytes, head)
    return head[4:8] == b"ftyp" and _is_whole_heif(file, size_bytes)


def ends_early(body: bytes) -> bool:
    """Whether the container of a PNG, WebP, HEIF or AVIF file tells of bytes that the file does not have."""
    file = io.BytesIO(body)
    if body.startswith(_PNG_SIGNATURE):
        return _lacks_chunks(file, len(body))
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return len(body) < 8 + int.from_bytes(body[4:8], "little")
    return body[4:8] == b"ftyp" and _lacks_boxes(file, len(body))


def _is_whole_jpeg(file: BinaryIO, size_bytes: int) -> bool:
    """ITU-T T.81, annex B."""
    data = _first_scan(file, 0, size_bytes)
    # Until there, an end marker is that of the thumbnail in an EXIF segment.
    if data is None:
        return False
    if _at(file, size_bytes - 2, 2) == b"\xff\xd9":
        return True
    end = _end_of_scans(file, data, size_bytes)
    return end is not None and (_ends_with_samsungs_trailer(file, end, size_bytes) or _is_known(file, end, size_bytes))


def _is_known(file: BinaryIO, start: int, size_bytes: int) -> bool:
    """Whether further JPEGs (CIPA DC-007, ISO 21496-1) and then a video fill the file from here to its end."""
    for _ in range(_MOST_PICTURES):
        if _at(file, start, 3) != _SOI:
            break
        data = _first_scan(file, start, size_bytes)
        end = None if data is None else _end_of_scans(file, data, size_bytes)
        if end is None:
            return False
        start = end
    kinds, end = _boxes(file, start, size_bytes)
    is_video = kinds[:1] == [b"ftyp"] and {b"moov", b"mdat"} <= set(kinds) and end == size_bytes
    return is_video and not _ends_with_zeros(file, size_bytes)


def _first_scan(file: BinaryIO, start: int, size_bytes: int) -> int | None:
    """Where the data of the first scan of a JPEG begins, or None if its segments do not lead there."""
    at = start + 2
    for _ in range(_MOST_PARTS):
        found = _segment(file, at)
        if found is None or found[0] == _EOI or found[1] > size_bytes:
            return None
        marker, at = found
        if marker == _SOS:
            return at
    return None


def _end_of_scans(file: BinaryIO, data: int, size_bytes: int) -> int | None:
    """The position behind the end marker of a JPEG whose first scan's data begins at `data`, or None without one."""
    at = data
    is_in_scan = True
    for _ in range(_MOST_PARTS):
        # Between the scans of a progressive JPEG lie segments with their tables.
        begins = _next_marker(file, at) if is_in_scan else at
        found = None if begins is None else _segment(file, begins)
        if found is None or found[1] > size_bytes:
            return None
        marker, at = found
        if marker == _EOI:
            return at
        is_in_scan = marker == _SOS
    return None


def _next_marker(file: BinaryIO, at: int) -> int | None:
    """The position of the first marker in entropy-coded data that ends it; None when the file ends before."""
    carried = b""
    file.seek(at)
    while at < _MOST_SCANNED_BYTES and (read := file.read(_SCANNED_AT_ONCE_BYTES)):
        piece = carried + read
        if found := _MARKER.search(piece):
            return at - len(carried) + found.end() - 2
        at += len(read)
        carried = b"\xff" if piece.endswith(b"\xff") else b""
    return None


def _segment(file: BinaryIO, at: int) -> tuple[int, int] | None:
    """The marker at a position, fill bytes before it left aside, and the position behind its segment."""
    head = _at(file, at, _MOST_FILL_BYTES + 3)
    fill_bytes = len(head) - len(head.lstrip(b"\xff"))
    rest = head[fill_bytes : fill_bytes + 3]
    if not fill_bytes or not rest or rest[0] in _IN_NO_PICTURE:
        return None
    behind = at + fill_bytes + 1
    if rest[0] == _EOI or rest[0] in _STANDALONE:
        return rest[0], behind
    length_bytes = int.from_bytes(rest[1:], "big")
    return (rest[0], behind + length_bytes) if len(rest) == 3 and length_bytes >= 2 else None


def _ends_with_samsungs_trailer(file: BinaryIO, start: int, size_bytes: int) -> bool:
    """The trailer's directory begins with SEFH; its length and SEFT end the file."""
    tail = _at(file, max(start, size_bytes - 8), 8)
    directory = size_bytes - 8 - int.from_bytes(tail[:4], "little")
    return len(tail) == 8 and tail.endswith(b"SEFT") and directory >= start and _at(file, directory, 4) == b"SEFH"


def _lacks_chunks(file: BinaryIO, size_bytes: int) -> bool:
    """PNG, section 5.3: a length, a type, as many bytes as the length says and a checksum; the last type is IEND."""
    at = len(_PNG_SIGNATURE)
    while len(head := _at(file, at, 8)) == 8:
        at += 12 + int.from_bytes(head[:4], "big")
        if at > size_bytes or head.endswith(b"IEND"):
            break
    return at > size_bytes or not head.endswith(b"IEND")


def _is_whole_webp(file: BinaryIO, size_bytes: int, head: bytes) -> bool:
    """WebP container specification: the length in the RIFF header counts what follows it, without a padding byte."""
    behind_bytes = size_bytes - 8 - int.from_bytes(head[4:8], "little")
    return behind_bytes in (0, 1) and not _ends_with_zeros(file, size_bytes)


def _is_whole_heif(file: BinaryIO, size_bytes: int) -> bool:
    """ISO/IEC 14496-12 and 23008-12: a box of what is in the file, and one with the pictures' data."""
    kinds, end = _boxes(file, 0, size_bytes)
    return end == size_bytes and _has_picture(file, kinds, size_bytes) and not _ends_with_zeros(file, size_bytes)


def _lacks_boxes(file: BinaryIO, size_bytes: int) -> bool:
    kinds, end = _boxes(file, 0, size_bytes)
    if end != size_bytes:
        return end > size_bytes or size_bytes - end < 8
    return not _has_picture(file, kinds, size_bytes)


def _has_picture(file: BinaryIO, kinds: list[bytes], size_bytes: int) -> bool:
    if b"meta" not in kinds or b"mdat" in kinds:
        return b"meta" in kinds
    start, end = next((start, end) for kind, start, end in boxes_between(file, 0, size_bytes) if kind == b"meta")
    # Its own header and 4 bytes of version and flags come before the boxes in it.
    return any(kind == b"idat" for kind, _, _ in boxes_between(file, start + 12, end))


def _boxes(file: BinaryIO, start: int, end: int) -> tuple[list[bytes], int]:
    """The kinds of the boxes between two positions, and where the last of them ends."""
    boxes = list(boxes_between(file, start, end))
    return [kind for kind, _, _ in boxes], boxes[-1][2] if boxes else start


def _ends_with_zeros(file: BinaryIO, size_bytes: int) -> bool:
    return not any(_at(file, max(0, size_bytes - _TAIL_BYTES), _TAIL_BYTES))


def _at(file: BinaryIO, position: int, count_bytes: int) -> bytes:
    file.seek(position)
    return file.read(count_bytes)
