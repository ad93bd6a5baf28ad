"""Small real picture files."""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(seed: int, width_px: int = 320, height_px: int = 240) -> NDArray[np.uint8]:
    """A picture with colour, gradients and blobs that differ from seed to seed; (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, 320), np.linspace(0, 1, 240))
    picture = np.stack([x * random.uniform() + y * random.uniform() for _ in range(3)], axis=-1) * 120
    for _ in range(4):
        centre_x, centre_y, radius = random.uniform(0.2, 0.8, 3)
        blob = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (0.05 * radius))
        picture += blob[..., None] * random.uniform(0, 160, 3)
    drawn = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(drawn.resize((width_px, height_px), Image.Resampling.BILINEAR))


def grainy(seed: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """A picture with detail at every scale down to single pixels, as a camera's; (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    picture = pixels(seed, width_px, height_px).astype(np.float32)
    for scale, depth in ((1, 8), (3, 10), (12, 14), (60, 20)):
        coarse = random.normal(0, depth, (height_px // scale, width_px // scale)).astype(np.float32)
        resized = Image.fromarray(coarse).resize((width_px, height_px), Image.Resampling.BICUBIC)
        picture += np.asarray(resized)[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def encoded(picture: NDArray[np.uint8], form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(seed: int, width_px: int = 320, height_px: int = 240) -> bytes:
    return encoded(pixels(seed, width_px, height_px), "JPEG", quality=92)


def many_jpegs(count: int, width_px: int, height_px: int) -> list[bytes]:
    """Files that differ, of four pictures: to draw a large one takes as long as to work on it."""
    drawn = [jpeg(seed, width_px, height_px) for seed in range(4)]
    # Each has a comment of its own.
    return [drawn[n % 4][:2] + b"\xff\xfe\0\x04" + n.to_bytes(2) + drawn[n % 4][2:] for n in range(count)]


def truncated_jpeg() -> bytes:
    whole = jpeg(seed=99)
    return whole[: len(whole) // 2]


def text_file() -> bytes:
    return b"These are notes about a lime, not a photo of one.\n"


def tall_jpeg(seed: int, width_px: int, height_px: int) -> bytes:
    """A baseline JPEG of any height, each 16 lines of which repeat the first: a restart interval a row of units."""
    strip = encoded(grainy(seed, width_px, 16), "JPEG", quality=80, restart_marker_rows=1)
    data_at = strip.index(b"\xff\xda") + 14
    rows = -(-height_px // 16)
    restarts = (bytes([0xFF, 0xD0 + row % 8]) if row < rows - 1 else b"\xff\xd9" for row in range(rows))
    return with_size(strip[:data_at], width_px, height_px) + b"".join(strip[data_at:-2] + end for end in restarts)


def in_a_scan_each(picture: NDArray[np.uint8]) -> bytes:
    """A baseline JPEG with a scan for each component, as some cameras and scanners write it."""
    planes = [
        encoded(np.asarray(plane), "JPEG", quality=92) for plane in Image.fromarray(picture).convert("YCbCr").split()
    ]
    frame = planes[0].index(b"\xff\xc0")
    tables = planes[0].index(b"\xff\xc4")
    scan = planes[0].index(b"\xff\xda")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    head = planes[0][: frame + 2] + struct.pack(">H", 17) + planes[0][frame + 4 : frame + 9] + b"\x03" + components
    scans = (b"\xff\xda\0\x08\x01" + bytes([n, 0]) + b"\0\x3f\0" + planes[n - 1][scan + 10 : -2] for n in (1, 2, 3))
    return head + planes[0][tables:scan] + b"".join(scans) + b"\xff\xd9"


def with_size(jpeg_body: bytes, width_px: int, height_px: int) -> bytes:
    """The same JPEG with another size in its header; what its data lacks, a decoder makes up."""
    frame = max(jpeg_body.find(b"\xff\xc0"), jpeg_body.find(b"\xff\xc2")) + 5
    return jpeg_body[:frame] + struct.pack(">HH", height_px, width_px) + jpeg_body[frame + 4 :]


def scan_bomb() -> bytes:
    """A progressive JPEG of 3 MB with 100,000 scans of 16 megapixels each: most of an hour of decoding."""
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000), 128).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last_scan = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last_scan * 100_000 + whole[-2:]


def display_p3() -> bytes:
    """An ICC profile of Apple's Display P3 (ICC.1:2010): its colorants at D50 and sRGB's transfer curve."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    white = fixed(0.9642, 1.0, 0.8249)
    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"desc": b"mluc\0\0\0\0" + struct.pack(">IIHHII", 1, 12, 0x656E, 0x5553, 4, 28) + "P3".encode("utf-16-be"),
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(0.51512, 0.2412, -0.00105),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(0.29198, 0.69225, 0.04189),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(0.1571, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(tag))
        data += tag
    size = struct.pack(">I", 128 + len(table) + len(data))
    head = size + b"lcms" + bytes([4, 0x30, 0, 0]) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + data
