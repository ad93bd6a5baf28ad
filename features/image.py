"""Photos as phones make them, decoded into what the network sees."""

import io
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError
from pillow_heif import HeifImageFile, register_heif_opener

from features import jpeg, png
from features.colours import Colours, colours_of, in_srgb
from features.featurizer import DRAFT, Recipe
from features.isobmff import image_format, without_exif
from features.rejects import Reason, Rejected
from features.wholeness import ends_early

# Thumbnails inside a HEIC file are any picture its maker chose, so they never stand for the photo.
register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
# A core has a worker of its own; more threads would only wait for each other.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow's own guard counts differently and warns before it refuses; the limit here is checked before decoding.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF")

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
# Of 2 bytes each, beside pixels of 4.
_COEFFICIENTS_IN_A_PIXEL = 2
# How libheif says that a picture's data lies behind the file's end, and that the codec is none of its own.
_OUTSIDE = "outside of file bounds"
_UNBUILT = "support for this compression format has not been built in"
_TURNS_BY_A_QUARTER = (5, 6, 7, 8)
_open_heif: Callable[[BinaryIO], ImageFile.ImageFile] = HeifImageFile
_OUR_FORMATS: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "JPEG": (0, (jpeg.SIGNATURE,)),
    "PNG": (0, (png.SIGNATURE,)),
    "WEBP": (8, (b"WEBP",)),
}
_OTHER_FORMATS = {
    "GIF": (0, (b"GIF87a", b"GIF89a")),
    "BMP": (0, (b"BM",)),
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "JPEG 2000": (4, (b"jP  ",)),
    "JPEG XR": (0, (b"II\xbc",)),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "PSD": (0, (b"8BPS",)),
    "A video": (4, (b"ftyp",)),
}


@dataclass(frozen=True)
class Limits:
    """What a photo may cost before it is refused; a decoder that takes `max_decode_s` is taken for stuck.

    `max_pixels` counts the pixels that decoding keeps in memory, of 4 bytes each, and a JPEG's coefficients as such.
    """

    max_image_bytes: int
    max_pixels: int
    max_decode_s: float = 60.0


@dataclass(frozen=True)
class Photo:
    """A decoded photo: `pixels` is (input_px, input_px, 3) uint8, upright sRGB; width and height are the original's.

    `copy` is a JPEG of the upright picture without metadata, if the recipe has one: then `pixels` are made from it.
    """

    pixels: NDArray[np.uint8]
    format: str
    width_px: int
    height_px: int
    copy: bytes | None = None


def decode(body: bytes, limits: Limits, recipe: Recipe = DRAFT) -> Photo:
    """Decode one file into upright sRGB pixels of the network's size; everything else in it is dropped.

    The content decides what it is. JPEGs are decoded at a reduced DCT scale that leaves what the recipe needs.
    Colours go from an embedded profile to sRGB, transparency on white. Of several pictures the first is taken.
    A JPEG that lacks only its end marker is decoded, as browsers show it.
    By a recipe with copies the picture is first written as one, and the pixels are what that holds. So a copy gives the
    pixels that its photo gave, and stays as it is.
    Raises Rejected with the reason for anything that is not a usable photo. Memory is bounded by `max_pixels`.
    """
    if not body:
        raise Rejected(Reason.EMPTY, "The file has no bytes.")
    if len(body) > limits.max_image_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES, f"{len(body)} bytes; the limit is {limits.max_image_bytes}.")
    header = jpeg.read_header(body) if body.startswith(jpeg.SIGNATURE) else None
    if header is not None and header.undecoded_kind:
        detail = f"The file is {header.undecoded_kind}; save it as a baseline or progressive JPEG of 8 bits."
        raise Rejected(Reason.UNSUPPORTED_FORMAT, detail)
    try:
        return _decoded(body, header, limits, recipe)
    except Rejected as rejected:
        if rejected.reason != Reason.TRUNCATED or header is None:
            raise
        detail = rejected.detail
    # Only here is the memory of the first try free again, which the exception held.
    completed = _completed(body, header, limits, recipe)
    if completed is None:
        raise Rejected(Reason.TRUNCATED, detail)
    return _decoded(completed, header, limits, recipe)


def _decoded(body: bytes, header: jpeg.Header | None, limits: Limits, recipe: Recipe) -> Photo:
    try:
        source = png.read_png(body) if body.startswith(png.SIGNATURE) else png.Png(body, ())
        with _opened(source.body) as image:
            return _photo(image, source, header, limits, recipe)
    except (Rejected, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _unidentified(body) from None
    except Exception as error:
        # Decoders meet hostile bytes here and raise whatever their parsers trip over; each is the same fact.
        raise Rejected(_reason(error, body), f"{type(error).__name__}: {error}"[:300]) from error


def _completed(body: bytes, header: jpeg.Header, limits: Limits, recipe: Recipe) -> bytes | None:
    try:
        return jpeg.completed(body, header, recipe.least_px, limits.max_pixels)
    except MemoryError:
        raise
    except Exception:
        # As in `_decoded`: the bytes are hostile, and the file stays what it was found to be, truncated.
        return None


def _opened(body: bytes) -> ImageFile.ImageFile:
    form = image_format(body)
    if form is None:
        return Image.open(io.BytesIO(body), formats=FORMATS)
    try:
        # Pillow would go by the major brand alone, and an AVIF file may begin with one that it shares with HEIF.
        if form == "HEIF":
            return _open_heif(io.BytesIO(body))
        # The turn is what the container says, whereas damaged EXIF would keep the decoder from beginning.
        return AvifImagePlugin.AvifImageFile(io.BytesIO(without_exif(body)))
    except SyntaxError as error:
        raise UnidentifiedImageError(str(error)) from error


def _photo(
    image: ImageFile.ImageFile, source: png.Png, header: jpeg.Header | None, limits: Limits, recipe: Recipe
) -> Photo:
    width_px, height_px = image.size
    if header is None:
        kept_px = width_px * height_px
    else:
        image.draft(None, (recipe.least_px, recipe.least_px))
        kept_px = image.size[0] * image.size[1] + header.kept_coefficients // _COEFFICIENTS_IN_A_PIXEL
    if kept_px > limits.max_pixels:
        needs = f", which takes the memory of {kept_px} pixels," if kept_px > width_px * height_px else ""
        detail = f"{width_px} x {height_px}{needs} is over the limit of {limits.max_pixels} pixels."
        raise Rejected(Reason.TOO_MANY_PIXELS, detail)
    # A phone's multi-picture file is a JPEG with previews behind it.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    image.decodermaxblock = _WHOLE_BYTES
    image.load()
    picture, orientation = _plain(image, source.body), _orientation(image)
    told = source.colours or colours_of(image, source.body)
    copy_px = recipe.copy_px
    copy: bytes | None = None
    if (
        header is not None
        and min(width_px, height_px) < 2 * (copy_px or 0)
        and orientation not in _UPRIGHT
        and not told
    ):
        copy = jpeg.stripped(source.body)
    if copy_px is None:
        # What follows the resizing commutes with it but for rounding, and costs least on the small picture.
        seen = _shown(_of_side(recipe.input_px, picture), told, orientation)
    elif copy is not None:
        seen = in_srgb(_of_side(recipe.input_px, picture), ())
    else:
        # By a whole factor, as a JPEG's draft is: rows are read once, and never blurred by less than a pixel.
        factor = min(picture.size) // copy_px
        copy = jpeg.written(_shown(picture.reduce(factor) if factor > 1 else picture, told, orientation))
        with Image.open(io.BytesIO(copy), formats=("JPEG",)) as read_back:
            seen = _of_side(recipe.input_px, read_back)
    if orientation in _TURNS_BY_A_QUARTER:
        width_px, height_px = height_px, width_px
    return Photo(np.asarray(seen, dtype=np.uint8), kind, width_px, height_px, copy)


def _of_side(side_px: int, picture: Image.Image) -> Image.Image:
    return picture.resize((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _shown(picture: Image.Image, told: Iterable[Colours], orientation: int) -> Image.Image:
    """The picture as it is to be seen: upright, in sRGB, on white."""
    seen = _on_white(in_srgb(picture, told))
    return seen.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else seen


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
    # A HEIF file is decoded upright. What an AVIF file's container says Pillow makes an EXIF block of.
    if image.format == "HEIF" or "exif" not in image.info:
        return 1
    # The image's own reader of EXIF would also take what XMP says, by which no browser turns.
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        value = exif.get(_EXIF_ORIENTATION)
    except (SyntaxError, ValueError, OSError, struct.error):
        # As viewers do: a damaged EXIF block is no EXIF block.
        return 1
    return value if isinstance(value, int) else 1


def _unidentified(body: bytes) -> Rejected:
    if name := image_format(body) or _begins_like(body, _OUR_FORMATS):
        if _is_cut(body):
            return Rejected(Reason.TRUNCATED, f"The file begins like {name} and ends before its picture.")
        return Rejected(Reason.CORRUPT, f"The file begins like {name}, but its header cannot be read.")
    if name := _begins_like(body, _OTHER_FORMATS):
        return Rejected(Reason.UNSUPPORTED_FORMAT, f"{name} is not among {', '.join(FORMATS)}.")
    return Rejected(Reason.NOT_AN_IMAGE, "The content is not an image.")


def _reason(error: Exception, body: bytes) -> Reason:
    words = str(error).lower()
    if _UNBUILT in words:
        return Reason.UNSUPPORTED_FORMAT
    # AVIF's and HEVC's decoders say the same of damaged data.
    is_cut = (isinstance(error, OSError) and "truncated" in words) or _OUTSIDE in words or _is_cut(body)
    return Reason.TRUNCATED if is_cut else Reason.CORRUPT


def _is_cut(body: bytes) -> bool:
    return jpeg.ends_in_header(body) if body.startswith(jpeg.SIGNATURE) else ends_early(body)


def _begins_like(body: bytes, formats: dict[str, tuple[int, tuple[bytes, ...]]]) -> str | None:
    return next((name for name, (offset, magics) in formats.items() if body.startswith(magics, offset)), None)
