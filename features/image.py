"""Photos as phones make them, decoded into what the network sees."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from features.featurizer import INPUT_PX
from features.rejects import Reason, Rejected

FORMATS = ("JPEG", "PNG", "WEBP")

# Pillow's own guard counts differently and warns before it refuses; the limit here is checked before decoding.
Image.MAX_IMAGE_PIXELS = None

_EXIF_ORIENTATION = 0x0112
_OTHER_IMAGES = {
    "GIF": (0, (b"GIF87a", b"GIF89a")),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "HEIC or AVIF": (4, (b"ftyp",)),
    "JPEG 2000": (4, (b"jP  ",)),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "PSD": (0, (b"8BPS",)),
}


@dataclass(frozen=True)
class Limits:
    """What a photo may cost before it is refused."""

    max_image_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Photo:
    """A decoded photo: `pixels` is (224, 224, 3) uint8, upright sRGB; width and height are the upright original's."""

    pixels: NDArray[np.uint8]
    format: str
    width_px: int
    height_px: int


def decode(body: bytes, limits: Limits) -> Photo:
    """Decode one file into upright pixels of the network's size; everything else in it is dropped.

    JPEGs are decoded at a reduced DCT scale that still leaves twice the network's input.
    Raises Rejected with the reason for anything that is not a usable photo.
    """
    if not body:
        raise Rejected(Reason.EMPTY, "The file has no bytes.")
    if len(body) > limits.max_image_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES, f"{len(body)} bytes; the limit is {limits.max_image_bytes}.")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            return _upright(image, limits)
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise _unidentified(body) from None
    except OSError as error:
        reason = Reason.TRUNCATED if "truncated" in str(error).lower() else Reason.CORRUPT
        raise Rejected(reason, _sentence(error)) from error
    except MemoryError:
        raise
    except Exception as error:
        # Decoders meet hostile bytes here and raise whatever their parsers trip over; each is the same fact.
        raise Rejected(Reason.CORRUPT, _sentence(error)) from error


def _upright(image: Image.Image, limits: Limits) -> Photo:
    width_px, height_px = image.size
    if width_px * height_px > limits.max_pixels:
        detail = f"{width_px} x {height_px} is over the limit of {limits.max_pixels} pixels."
        raise Rejected(Reason.TOO_MANY_PIXELS, detail)
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    image.draft("RGB", (2 * INPUT_PX, 2 * INPUT_PX))
    small = _on_white(image).resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
    # The target is square, so turning the small picture gives what turning the large one first would.
    small.getexif()[_EXIF_ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(small)
    if orientation in (5, 6, 7, 8):
        width_px, height_px = height_px, width_px
    # A phone's multi-picture file is a JPEG with previews behind it.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return Photo(np.asarray(upright, dtype=np.uint8), kind, width_px, height_px)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque.convert("RGB")


def _unidentified(body: bytes) -> Rejected:
    for name, (offset, magics) in _OTHER_IMAGES.items():
        if body[offset:].startswith(magics):
            return Rejected(Reason.UNSUPPORTED_FORMAT, f"{name} is not among {', '.join(FORMATS)}.")
    if body.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (body[:4] == b"RIFF" and body[8:12] == b"WEBP"):
        return Rejected(Reason.CORRUPT, "The file begins like a photo, but its header cannot be read.")
    return Rejected(Reason.NOT_AN_IMAGE, "The content is not an image.")


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
