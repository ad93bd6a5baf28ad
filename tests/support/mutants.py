"""Photo files damaged on purpose: every format, every kind of damage, the same for the same number."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageCms

import features.image  # noqa: F401 - registers HEIC with Pillow
from tests.support.pictures import in_a_scan_each

Rng = np.random.Generator


def mutant(number: int) -> bytes:
    """The file of this number, for numbers from 0 on. Same number, same bytes, with the same Pillow."""
    rng = np.random.default_rng(number)
    body = bytearray(_photos()[number % len(_photos())])
    for _ in range(rng.integers(1, 4)):
        body = _DAMAGES[rng.integers(len(_DAMAGES))](body, rng)
    return bytes(body)


@cache
def _photos() -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 4), np.uint8)
    coarse[..., 3] |= 0x40
    picture = Image.fromarray(coarse).resize((480, 360), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A phone"
    marks = {"exif": exif.tobytes(), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    rgb = picture.convert("RGB")
    return (
        _saved(rgb, "JPEG", **marks),
        _saved(rgb, "JPEG", progressive=True, **marks),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(rgb.convert("L"), "JPEG", restart_marker_blocks=8),
        _saved(rgb, "JPEG", progressive=True, subsampling="4:4:4", restart_marker_rows=1)[:-2],
        _saved(rgb, "JPEG", restart_marker_rows=1, **marks)[:-2],
        in_a_scan_each(np.asarray(rgb)),
        _saved(rgb, "MPO", save_all=True, append_images=[rgb.resize((120, 90))]),
        _saved(picture, "PNG", **marks),
        _saved(rgb.quantize(64), "PNG", transparency=3),
        _saved(Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257), "PNG"),
        _with_chunks(_saved(picture, "PNG", **marks), *_WORDS_ON_COLOURS),
        _with_chunks(_png_of_16_bits(rgb), (b"tRNS", bytes(range(6))), *_WORDS_ON_COLOURS[2:]),
        _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        _saved(rgb, "WEBP", **marks),
        _saved(picture, "WEBP", lossless=True),
        _saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)]),
        _saved(rgb, "HEIF", **marks),
        _saved(picture, "HEIF"),
        _saved(
            rgb, "HEIF", color_primaries=9, transfer_characteristics=16, matrix_coefficients=9, save_nclx_profile=True
        ),
        _saved(rgb, "AVIF", speed=9, **marks),
        _saved(picture, "AVIF", speed=9),
        _saved(rgb, "AVIF", speed=9).replace(b"ftypavif", b"ftypmif1"),
        _saved(rgb, "AVIF", speed=9, save_all=True, append_images=[rgb.rotate(180)]),
    )


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


# cICP with the light of HDR, gAMA with cHRM, and texts that Pillow would refuse.
_WORDS_ON_COLOURS = (
    (b"cICP", bytes([9, 16, 0, 1])),
    (b"cLLI", struct.pack(">II", 4000 * 10_000, 400 * 10_000)),
    (b"gAMA", struct.pack(">I", 100_000)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
    (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000))),
    (b"iCCP", b"icc\0\0" + zlib.compress(bytes(8_000_000))),
)


def _with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """The same file with chunks behind its header, which has 33 bytes with the signature."""
    return png[:33] + b"".join(_chunk(kind, data) for kind, data in chunks) + png[33:]


def _png_of_16_bits(picture: Image.Image) -> bytes:
    lines = np.asarray(picture).astype(">u2").reshape(picture.height, -1) * 257
    header = struct.pack(">IIBBBBB", *picture.size, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line.astype(">u2").tobytes() for line in lines))
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _flipped_bits(body: bytearray, rng: Rng) -> bytearray:
    # Half of the time near the start, where the structure is.
    reach = len(body) if rng.integers(2) else min(len(body), 600)
    for at in rng.integers(0, reach, rng.integers(1, 40)) if reach else ():
        body[at] ^= 1 << int(rng.integers(8))
    return body


def _truncated(body: bytearray, rng: Rng) -> bytearray:
    return body[: rng.integers(0, len(body) + 1)]


def _spliced_header(body: bytearray, rng: Rng) -> bytearray:
    other = _photos()[rng.integers(len(_photos()))]
    return bytearray(other[: rng.integers(1, 400)]) + body[rng.integers(0, 400) :]


def _repeated_part(body: bytearray, rng: Rng) -> bytearray:
    start, end = np.sort(rng.integers(0, len(body) + 1, 2))
    return body[:end] + body[start:end] * int(rng.integers(1, 4)) + body[end:]


def _overwritten_part(body: bytearray, rng: Rng) -> bytearray:
    if body:
        start = int(rng.integers(len(body)))
        length = min(int(rng.integers(1, 64)), len(body) - start)
        filler = (b"\0", b"\xff", rng.bytes(1))[rng.integers(3)]
        body[start : start + length] = filler * length
    return body


def _lying_size(body: bytearray, rng: Rng) -> bytearray:
    """Another width or height where the file keeps its own, with a checksum that fits."""
    side = int(rng.choice([0, 1, 7, 481, 5000, 9000, 30_000, 65_535, 2**31 - 1, 2**32 - 1]))
    if body.startswith(b"\x89PNG") and len(body) > 33:
        struct.pack_into(">I", body, int(rng.choice([16, 20])), side)
        struct.pack_into(">I", body, 29, zlib.crc32(body[12:29]))
    elif (frame := max(body.find(b"\xff\xc0"), body.find(b"\xff\xc2"))) >= 0 and frame + 9 <= len(body):
        struct.pack_into(">H", body, frame + int(rng.choice([5, 7])), side & 0xFFFF)
    elif (extent := body.find(b"ispe")) >= 0 and extent + 16 <= len(body):
        struct.pack_into(">I", body, extent + int(rng.choice([8, 12])), side)
    elif (canvas := body.find(b"VP8X")) >= 0 and canvas + 18 <= len(body):
        at = canvas + int(rng.choice([12, 15]))
        body[at : at + 3] = (side & 0xFFFFFF).to_bytes(3, "little")
    return body


def _damaged_chunk(body: bytearray, rng: Rng) -> bytearray:
    """Other bytes in a chunk of a PNG, with a checksum that fits, so that they are read."""
    chunks, at = [], 8
    while body.startswith(b"\x89PNG") and at + 12 < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        if 0 < length <= len(body) - at - 12:
            chunks.append((at, length))
        at += 12 + length
    if not chunks:
        return _flipped_bits(body, rng)
    at, length = chunks[rng.integers(len(chunks))]
    for place in rng.integers(0, min(length, 64), rng.integers(1, 8)):
        body[at + 8 + place] = (0, 1, 0x7F, 0xFF, int(rng.integers(256)))[rng.integers(5)]
    struct.pack_into(">I", body, at + 8 + length, zlib.crc32(body[at + 4 : at + 8 + length]))
    return body


_DAMAGES: tuple[Callable[[bytearray, Rng], bytearray], ...] = (
    _flipped_bits,
    _truncated,
    _spliced_header,
    _repeated_part,
    _overwritten_part,
    _lying_size,
    _damaged_chunk,
)
