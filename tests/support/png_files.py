"""PNG files chunk by chunk, for what Pillow does not write."""

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of each pass of an interlaced file: first row and column, distance of rows and columns (PNG, third edition, 8.1).
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_wrong_checksum(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 0xFF])


def png(
    samples: ArrayLike,
    colour_type: int,
    depth: int,
    *before: bytes,
    after: Iterable[bytes] = (),
    interlaced: bool = False,
    data_bytes: int = 2**31 - 1,
) -> bytes:
    """A file of (height, width) or (height, width, channels) samples of `depth` bits, with chunks around the picture.

    The picture's data lie in chunks of `data_bytes`.
    """
    array = np.asarray(samples)
    parts = [array[row::rows, column::columns] for row, column, rows, columns in _ADAM7] if interlaced else [array]
    packed = zlib.compress(b"".join(_lines(part, depth) for part in parts if part.size))
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colour_type, 0, 0, interlaced)
    data = [chunk(b"IDAT", packed[at : at + data_bytes]) for at in range(0, len(packed), data_bytes)]
    return SIGNATURE + b"".join([chunk(b"IHDR", header), *before, *data, *after, chunk(b"IEND", b"")])


def _lines(samples: NDArray[np.integer], depth: int) -> bytes:
    rows = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    stored = rows.astype(">u2" if depth == 16 else np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in stored)


def gamma(exponent: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(exponent * 100_000)))


def chromaticities(*white_red_green_blue: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in white_red_green_blue)))


def code_points(primaries: int, transfer: int, matrix: int = 0, full_range: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, matrix, full_range]))


def profile(icc: bytes, name: bytes = b"icc") -> bytes:
    return chunk(b"iCCP", name + b"\0\0" + zlib.compress(icc))


def transparent(*samples: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


def palette_alpha(*alphas: int) -> bytes:
    return chunk(b"tRNS", bytes(alphas))
