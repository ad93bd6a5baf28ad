"""Photos as phones make them, decoded into what the network sees."""

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError
from pillow_heif import register_heif_opener

from features import png
from features.colours import colours_of, in_srgb
from features.featurizer import INPUT_PX
from features.rejects import Reason, Rejected

# Thumbnails inside a HEIC file are any picture its maker chose, so they never stand for the photo.
register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
# A core has a worker of its own; more threads would only wait for each other.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow's own guard counts differently and warns before it refuses; the limit here is checked before decoding.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF")
# The least side a JPEG is decoded to. Cosine of its features and those of full decoding, the smallest of 14 to 56
# photos: 0.997 at 306 pixels, 0.995 at 283, 0.976 at the network's own 224.
DRAFT_PX = 300

# Pillow copies each piece of a file that it hands to its decoder three times, unless the piece is the whole file.
_WHOLE_BYTES = 2**31 - 1
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BY_A_QUARTER = (5, 6, 7, 8)
_OUR_FORMATS = {
    "JPEG": (0, (b"\xff\xd8\xff",)),
    "PNG": (0, (png.SIGNATURE,)),
    "WEBP": (8, (b"WEBP",)),
    "HEIF or AVIF": (4, (b"ftyphei", b"ftyphev", b"ftypavi", b"ftypmif1", b"ftypmsf1")),
}
_OTHER_FORMATS = {
    "GIF": (0, (b"GIF87a", b"GIF89a")),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "JPEG 2000": (4, (b"jP  ",)),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "PSD": (0, (b"8BPS",)),
    "A video": (4, (b"ftyp",)),
}


@dataclass(frozen=True)
class Limits:
    """What a photo may cost before it is refused; a decoder that takes `max_decode_s` is taken for stuck."""

    max_image_bytes: int
    max_pixels: int
    max_decode_s: float = 60.0


@dataclass(frozen=True)
class Photo:
    """A decoded photo: `pixels` is (224, 224, 3) uint8, upright sRGB; width and height are the upright original's."""

    pixels: NDArray[np.uint8]
    format: str
    width_px: int
    height_px: int


def decode(body: bytes, limits: Limits) -> Photo:
    """Decode one file into upright sRGB pixels of the network's size; everything else in it is dropped.

    The content decides what it is. JPEGs are decoded at a reduced DCT scale that leaves at least 300 pixels a side.
    Colours go from an embedded profile to sRGB, transparency on white. Of several pictures the first is taken.
    Raises Rejected with the reason for anything that is not a usable photo. Memory is bounded by `max_pixels`.
    """
    if not body:
        raise Rejected(Reason.EMPTY, "The file has no bytes.")
    if len(body) > limits.max_image_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES, f"{len(body)} bytes; the limit is {limits.max_image_bytes}.")
    try:
        source = png.read_png(body) if body.startswith(png.SIGNATURE) else png.Png(body, ())
        with Image.open(io.BytesIO(source.body), formats=FORMATS) as image:
            return _photo(image, source, limits)
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


def _photo(image: ImageFile.ImageFile, source: png.Png, limits: Limits) -> Photo:
    width_px, height_px = image.size
    if width_px * height_px > limits.max_pixels:
        detail = f"{width_px} x {height_px} is over the limit of {limits.max_pixels} pixels."
        raise Rejected(Reason.TOO_MANY_PIXELS, detail)
    # A phone's multi-picture file is a JPEG with previews behind it.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    image.draft(None, (DRAFT_PX, DRAFT_PX))
    image.decodermaxblock = _WHOLE_BYTES
    image.load()
    # What follows the resizing commutes with it but for rounding, and costs least on the small picture.
    small = _plain(image, source.body).resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC, reducing_gap=3.0)
    seen = _on_white(in_srgb(small, source.colours or colours_of(image, source.body)))
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        seen = seen.transpose(_UPRIGHT[orientation])
    if orientation in _TURNS_BY_A_QUARTER:
        width_px, height_px = height_px, width_px
    return Photo(np.asarray(seen, dtype=np.uint8), kind, width_px, height_px)


def _plain(image: Image.Image, body: bytes) -> Image.Image:
    """The picture in 8 bits a channel, with its own colours and transparency: RGB, RGBA, L, LA or CMYK."""
    if (shortened := png.in_8_bits(image, body)) is not None:
        return shortened
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("L" if image.mode == "1" else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image)
    return opaque.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except (SyntaxError, ValueError, OSError, struct.error):
        # As viewers do: a damaged EXIF block is no EXIF block.
        return 1
    return value if isinstance(value, int) else 1


def _unidentified(body: bytes) -> Rejected:
    if name := _begins_like(body, _OUR_FORMATS):
        return Rejected(Reason.CORRUPT, f"The file begins like {name}, but its header cannot be read.")
    if name := _begins_like(body, _OTHER_FORMATS):
        return Rejected(Reason.UNSUPPORTED_FORMAT, f"{name} is not among {', '.join(FORMATS)}.")
    return Rejected(Reason.NOT_AN_IMAGE, "The content is not an image.")


def _begins_like(body: bytes, formats: dict[str, tuple[int, tuple[bytes, ...]]]) -> str | None:
    return next((name for name, (offset, magics) in formats.items() if body.startswith(magics, offset)), None)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
