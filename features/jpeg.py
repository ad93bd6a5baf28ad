"""What a JPEG's headers tell without decoding it (ITU-T T.81, annex B), whether it lacks no more than its end, whether
it holds a picture and nothing else, and how one is written that does.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

SIGNATURE = b"\xff\xd8\xff"
_EOI, _SOS, _DHP = 0xD9, 0xDA, 0xDE
_PROGRESSIVE = (0xC2, 0xCA)
# TEM, the restart markers and SOI stand alone; every other marker begins a segment that tells its length.
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_LOSSLESS, _HIERARCHICAL, _JPEG_LS = "a lossless JPEG", "a hierarchical JPEG", "a JPEG-LS file"
# By the marker that begins the frame; that of JPEG-LS is from ISO/IEC 14495-1. All others are decoded: baseline,
# extended and progressive ones, in Huffman and in arithmetic coding.
_UNDECODED = {
    0xF7: _JPEG_LS,
    **dict.fromkeys((0xC3, 0xCB), _LOSSLESS),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, _DHP), _HIERARCHICAL),
}
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA, *_UNDECODED}
_JFIF = 0xE0
# Of JFIF 1.x without a thumbnail: version, density, and the thumbnail's sides, which are 0.
_PLAIN_JFIF = re.compile(rb"JFIF\0\x01.{6}\0\0", re.DOTALL)
# Tables of quantization and of Huffman codes, and the restart interval.
_OF_THE_PICTURE = {0xDB, 0xC4, 0xDD, *_FRAMES}
# Segments of applications, and comments. That of JFIF, and Adobe's (APP14), say how a picture's colours are stored.
_BESIDE_THE_PICTURE = {*range(0xE1, 0xEE), 0xEF, 0xFE}
# How blocks of metadata begin, wherever a program left them.
_METADATA = re.compile(rb"Exif|http://|ICC_PROFILE|Photoshop|MPF\0|<x:xmpmeta|<\?xpacket")
_COMPONENTS = (1, 3, 4)
# A compromise that hardly changes features: docs/photos.md has the measurement.
COPY_QUALITY = 85
# libjpeg's own limit.
_MOST_SIDE_PX = 65_500
_BLOCK_PX = 8
_COEFFICIENTS_IN_A_BLOCK = 64
_DIGESTED_LINES = 256
_END = b"\xff\xd9"
# What could have followed, nothing among it: where more data is due, one of them changes the picture, also behind a
# restart.
_TAILS = (
    b"",
    *(b"".join(data + bytes([0xFF, 0xD0 + n]) for n in range(8)) for data in (bytes(range(255)), b"\x96" * 64)),
)
# In the data of a scan FF 00 is a byte of it, and FF D0 to FF D7 are restarts.
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True)
class Header:
    """A JPEG up to the data of its first scan; `sampling` has each component's horizontal and vertical factor."""

    frame_marker: int
    precision_bits: int
    width_px: int
    height_px: int
    sampling: tuple[tuple[int, int], ...]
    components_of_first_scan: int
    data_at: int

    @property
    def undecoded_kind(self) -> str | None:
        """What kind of JPEG this is, if no browser shows it and none is decoded here."""
        if self.frame_marker in _UNDECODED:
            return _UNDECODED[self.frame_marker]
        if self.precision_bits != 8:
            return f"a {self.precision_bits}-bit JPEG"
        if len(self.sampling) not in _COMPONENTS:
            return f"a JPEG of {len(self.sampling)} components"
        return None

    @property
    def has_one_scan(self) -> bool:
        """Whether the first scan holds the whole picture, which is then decoded line by line."""
        return self.frame_marker not in _PROGRESSIVE and self.components_of_first_scan == len(self.sampling)

    @property
    def kept_coefficients(self) -> int:
        """How many coefficients, of 2 bytes each, a decoder keeps until it has seen the last scan."""
        if self.has_one_scan:
            return 0
        most_across = max(across for across, _ in self.sampling)
        most_down = max(down for _, down in self.sampling)
        blocks = sum(
            _blocks(self.width_px, across, most_across) * _blocks(self.height_px, down, most_down)
            for across, down in self.sampling
        )
        return blocks * _COEFFICIENTS_IN_A_BLOCK


def read_header(body: bytes) -> Header | None:
    """The header of a JPEG, or None if it does not lead to a scan; stray bytes between segments are passed over."""
    frame = frame_marker = None
    for marker, start, end in _segments(body, 2):
        if marker in _FRAMES and frame is None:
            frame, frame_marker = body[start:end], marker
        elif marker == _SOS:
            break
    else:
        return None
    if frame is None or frame_marker is None or len(frame) < 6 or end > len(body) or start >= end:
        return None
    sampling = tuple((factors >> 4, factors & 15) for factors in frame[7 : 7 + 3 * frame[5] : 3])
    if len(sampling) != frame[5] or not all(across and down for across, down in sampling):
        return None
    height_px, width_px = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return Header(frame_marker, frame[0], width_px, height_px, sampling, body[start], end)


def is_bare(body: bytes) -> bool:
    """Whether a JPEG holds a picture and nothing beside it: no metadata, comment, profile, thumbnail or stray byte."""
    return stripped(body) == body


def stripped(body: bytes) -> bytes | None:
    """A JPEG without what stands beside its picture, of which every decoder makes the same pixels as before.

    What is taken out: metadata, comments, profiles, thumbnails, and whatever follows the picture. None where one of
    these says how the picture is to be decoded, or where other bytes stand between its parts or metadata within them.
    """
    kept, at = [body[:2]], 2
    while body[at : at + 1] == b"\xff":
        marker = body[at + 1] if at + 1 < len(body) else 0
        if marker == _EOI:
            bare = b"".join([*kept, _END])
            return bare if _METADATA.search(bare) is None else None
        start, end = at + 4, at + 2 + int.from_bytes(body[at + 2 : at + 4], "big")
        if marker == _SOS:
            data_end = _MARKER.search(body, end)
            end = data_end.start() if data_end else len(body)
        is_plain = marker == _JFIF and _PLAIN_JFIF.fullmatch(body, start, end)
        if start <= end and (marker in (_SOS, *_OF_THE_PICTURE) or is_plain):
            kept.append(body[at:end])
        elif start > end or marker not in _BESIDE_THE_PICTURE:
            return None
        at = end
    return None


def written(image: Image.Image) -> bytes:
    """A picture in RGB as a bare JPEG of quality 85, colours at half the resolution; a side too long is squeezed."""
    if max(image.size) > _MOST_SIDE_PX:
        image = image.resize((min(image.width, _MOST_SIDE_PX), min(image.height, _MOST_SIDE_PX)))
    # Pillow would write the comment and the XMP of the file that a picture was opened from.
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=COPY_QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def ends_in_header(body: bytes) -> bool:
    """Whether a JPEG ends before the data of its first scan, in a segment or right behind one."""
    at = 2
    for marker, _, end in _segments(body, 2):
        at = end
        if marker in (_SOS, _EOI):
            return at > len(body)
    return at >= len(body) or (body[at] == 0xFF and len(body[at:].lstrip(b"\xff")) < 3)


def completed(body: bytes, header: Header, draft_px: int, most_pixels: int) -> bytes | None:
    """A JPEG that its decoder found too short, with an end marker, if nothing else is missing.

    Nothing is if no scan is, and if the picture stays the same whatever data follows; one of a single scan is compared
    as it is decoded to sides of at least `draft_px`. None if more is missing, or if comparing needs the memory of more
    than `most_pixels`. Raises what Pillow raises.
    """
    cut = body.rstrip(b"\xff")
    side_px = draft_px if header.has_one_scan else None
    # The picture in full and the coefficients.
    needed_px = 0 if header.has_one_scan else header.width_px * header.height_px + header.kept_coefficients // 2
    if needed_px > most_pixels or not _has_every_scan(cut, header):
        return None
    pictures = {_digest(cut + tail + _END, side_px) for tail in _TAILS}
    return cut + _END if len(pictures) == 1 else None


def _has_every_scan(body: bytes, header: Header) -> bool:
    """Whether the scans that have begun leave no coefficient out and none imprecise (annex G.1.1)."""
    precise = {
        (component, index)
        for start, end in _scans(body)
        if body[end - 1] & 15 == 0
        for component in body[start + 1 : end - 3 : 2]
        for index in range(body[end - 3], body[end - 2] + 1)
    }
    return len(precise) == len(header.sampling) * _COEFFICIENTS_IN_A_BLOCK


def _scans(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the header of each scan begins and ends."""
    at: int | None = 2
    while at is not None:
        scan = next(((start, end) for marker, start, end in _segments(body, at) if marker == _SOS), None)
        if scan is None or scan[1] > len(body) or scan[1] - scan[0] < 6:
            return
        yield scan
        data_end = _MARKER.search(body, scan[1])
        at = data_end.start() if data_end else None


def _segments(body: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Each marker with where its segment's content begins and ends; the end may lie behind that of the file."""
    while (at := body.find(b"\xff", at)) >= 0:
        while body[at : at + 1] == b"\xff":
            at += 1
        marker = body[at] if at < len(body) else 0
        at += 1
        if marker == _EOI:
            yield marker, at, at
            return
        if marker == 0 or marker in _STANDALONE:
            continue
        length_bytes = int.from_bytes(body[at : at + 2], "big")
        if at + 2 > len(body) or length_bytes < 2:
            return
        yield marker, at + 2, at + length_bytes
        at += length_bytes


def _digest(body: bytes, draft_px: int | None) -> bytes:
    with Image.open(io.BytesIO(body), formats=("JPEG",)) as image:
        if draft_px is not None:
            image.draft(None, (draft_px, draft_px))
        digest = hashlib.sha256()
        for top in range(0, image.height, _DIGESTED_LINES):
            strip = (0, top, image.width, min(top + _DIGESTED_LINES, image.height))
            digest.update(image.crop(strip).tobytes())
        return digest.digest()


def _blocks(side_px: int, factor: int, most: int) -> int:
    """Blocks of a component along a side, as many as its last unit of all components needs (annex A.2)."""
    blocks = -(-side_px * factor // (most * _BLOCK_PX))
    return -(-blocks // factor) * factor
