"""Small real picture files."""

import io

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


def encoded(picture: NDArray[np.uint8], form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(seed: int, width_px: int = 320, height_px: int = 240) -> bytes:
    return encoded(pixels(seed, width_px, height_px), "JPEG", quality=92)


def truncated_jpeg() -> bytes:
    whole = jpeg(seed=99)
    return whole[: len(whole) // 2]


def text_file() -> bytes:
    return b"These are notes about a lime, not a photo of one.\n"
