"""The chunks of a PNG file: what a picture needs goes to Pillow, what tells of colours is read within bounds."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from features.colours import SRGB, CodePoints, Colours, Gamma

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A printer's profile has 1 to 3 MB. What unpacks to more is a bomb, and counts as no profile.
MAX_PROFILE_BYTES = 4 * 2**20

_USED = frozenset((b"tRNS", b"eXIf", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cLLI", b"mDCV"))
_ANCILLARY = 0x20
_GREY, _RGB, _PALETTE = 0, 2, 3
# The header's data begin behind the signature and a chunk's length and name: width, height, depth, colour type.
_DEPTH_AT, _COLOUR_TYPE_AT, _HEADER_BYTES = 24, 25, 33
_MAX_NAME_BYTES = 79


@dataclass(frozen=True)
class Png:
    """A PNG file with nothing but its picture, transparency and EXIF, and what it told of its colours, best first."""

    body: bytes
    colours: tuple[Colours, ...]


def read_png(body: bytes) -> Png:
    """Leave out all that Pillow would read or refuse for nothing: texts, animation, chunks with a wrong checksum.

    PNG, third edition: an ancillary chunk is one whose name begins in lower case. Of these tRNS and eXIf stay, if
    they can be used. Raises nothing: what is no PNG is left to Pillow. Memory: at most one more copy of the file,
    and MAX_PROFILE_BYTES.
    """
    if body[12:16] != b"IHDR" or len(body) < _HEADER_BYTES:
        return Png(body, ())
    view, told, seen = memoryview(body), dict[bytes, bytes](), set[bytes]()
    kept, kept_until = bytearray(), 0
    for kind, start, end in _chunks(body):
        is_critical, is_cut = not kind[0] & _ANCILLARY, end > len(body)
        if is_critical or (is_cut and b"IDAT" not in seen):
            # A file that is cut before its picture is cut for Pillow, too.
            seen.add(kind)
            continue
        kept += view[kept_until:start]
        kept_until = end
        if is_cut or kind in seen or kind not in _USED:
            continue
        data = body[start + 8 : end - 4]
        if _checksum(kind, data) != body[end - 4 : end]:
            continue
        seen.add(kind)
        if kind == b"eXIf":
            kept += view[start:end]
        elif b"IDAT" in seen:
            continue
        elif kind == b"tRNS":
            kept += _transparency(data, body[_DEPTH_AT], body[_COLOUR_TYPE_AT])
        else:
            told[kind] = data
    return Png(b"".join((kept, view[kept_until:])) if kept_until else body, tuple(_colours(told)))


def in_8_bits(image: Image.Image, body: bytes) -> Image.Image | None:
    """What Pillow shortens wrongly of a loaded picture of 16 bits: L, LA or RGBA; None for every other picture.

    Pillow clips greys where it should scale them, and compares a PNG's transparent colour with samples of 8 bits.
    """
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        greys = np.asarray(image).astype(np.uint16, copy=False)
        shown = Image.fromarray((greys >> 8).astype(np.uint8))
        if isinstance(key, int):
            shown.putalpha(Image.fromarray((greys != key).astype(np.uint8) * np.uint8(255)))
        return shown
    if not isinstance(key, tuple) or body[_DEPTH_AT] != 16:
        return None
    low_is_key = _equals(_low_bytes(body), [value & 0xFF for value in key])
    is_key = ImageChops.darker(low_is_key, _equals(image, [value >> 8 for value in key]))
    del image.info["transparency"]
    image.putalpha(ImageChops.invert(is_key))
    return image


def _equals(image: Image.Image, colour: list[int]) -> Image.Image:
    """255 where the picture has this colour, else 0."""
    found = Image.new("L", image.size, 255)
    for channel, value in enumerate(colour):
        is_value = [255 if code == value else 0 for code in range(256)]
        found = ImageChops.darker(found, image.getchannel(channel).point(is_value))
    return found


def _low_bytes(body: bytes) -> Image.Image:
    """Of each 16-bit sample the lower byte, which Pillow takes for the upper one in a file of the other byte order."""
    with Image.open(io.BytesIO(body), formats=("PNG",)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
    return image


def _chunks(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, start and end up to IEND, as far as names are names; the last may end behind the file."""
    at = len(SIGNATURE)
    while at + 8 <= len(body):
        length_bytes, kind = struct.unpack_from(">I4s", body, at)
        if not kind.isalpha():
            return
        end = at + 12 + length_bytes
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _transparency(data: bytes, depth: int, colour_type: int) -> bytes:
    """A tRNS chunk as Pillow compares it, with samples of 8 bits where there are fewer; none if it cannot be used."""
    if colour_type == _PALETTE:
        return _chunk(b"tRNS", data) if len(data) <= 256 else b""
    if colour_type not in (_GREY, _RGB) or len(data) < (needed := 2 if colour_type == _GREY else 6):
        return b""
    samples = struct.unpack(f">{needed // 2}H", data[:needed])
    if depth < 16:
        most = (1 << depth) - 1
        samples = tuple((sample & most) * 255 // most for sample in samples)
    return _chunk(b"tRNS", struct.pack(f">{needed // 2}H", *samples))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + _checksum(kind, data)


def _checksum(kind: bytes, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")


def _colours(told: dict[bytes, bytes]) -> Iterator[Colours]:
    """In the precedence of PNG, third edition."""
    code_points = told.get(b"cICP", b"")
    # Only RGB in full range: other matrices are not allowed, and browsers ignore a narrow range.
    if len(code_points) == 4 and code_points[2:] == b"\0\1":
        yield CodePoints(code_points[0], code_points[1], _peak_nits(told))
    if profile := _profile(told.get(b"iCCP", b"")):
        yield profile
    if told.get(b"sRGB"):
        yield SRGB
    if len(told.get(b"gAMA", b"")) == 4:
        exponent = int.from_bytes(told[b"gAMA"], "big") / 100_000
        chromaticities = told.get(b"cHRM", b"")
        if len(chromaticities) == 32:
            white_x, white_y, *primaries = (value / 100_000 for value in struct.unpack(">8I", chromaticities))
            red_x, red_y, green_x, green_y, blue_x, blue_y = primaries
            yield Gamma(exponent, (white_x, white_y, red_x, red_y, green_x, green_y, blue_x, blue_y))
        else:
            yield Gamma(exponent)


def _peak_nits(told: dict[bytes, bytes]) -> float:
    """The brightest the picture gets, else the brightest its maker's display gets, in units of 0.0001 cd/m²."""
    content, display = told.get(b"cLLI", b""), told.get(b"mDCV", b"")
    peak = int.from_bytes(content[:4], "big") or int.from_bytes(display[16:20], "big")
    return peak / 10_000 or CodePoints.peak_nits


def _profile(data: bytes) -> bytes | None:
    """An iCCP chunk's profile; None unless it has a name of 1 to 79 bytes and unpacks whole within the limit."""
    name_bytes = data[: _MAX_NAME_BYTES + 1].find(b"\0")
    if name_bytes < 1 or data[name_bytes + 1 : name_bytes + 2] != b"\0":
        return None
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(data[name_bytes + 2 :], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if unpacker.eof else None
