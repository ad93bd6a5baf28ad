"""Colours as a file tells them, by profile, code points or gamma, converted to sRGB."""

import io
import math
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pillow_heif import open_heif

Floats = NDArray[np.float64]
# CIE 1931 x and y of white, red, green and blue.
Chromaticities = tuple[float, float, float, float, float, float, float, float]


@dataclass(frozen=True)
class CodePoints:
    """Colour primaries and transfer characteristics by the numbers of ITU-T H.273, in full range.

    `peak_nits` is the luminance of the brightest picture element; only HDR (PQ, HLG) is shown by it.
    """

    primaries: int
    transfer: int
    peak_nits: float = 1000.0


@dataclass(frozen=True)
class Gamma:
    """A PNG file's gAMA, the exponent of encoding, and its cHRM; without one the primaries are sRGB's."""

    exponent: float
    chromaticities: Chromaticities | None = None


# What a file tells; bytes are an ICC profile.
Colours = bytes | CodePoints | Gamma

SRGB = CodePoints(1, 13)

_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
_BT709_PRIMARIES: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_BT601_PRIMARIES: Chromaticities = (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
_BT2020_PRIMARIES: Chromaticities = (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
# ITU-T H.273, table 2.
_PRIMARIES: dict[int, Chromaticities] = {
    1: _BT709_PRIMARIES,
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: _BT601_PRIMARIES,
    7: _BT601_PRIMARIES,
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: _BT2020_PRIMARIES,
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_PQ, _HLG = 16, 18
# The code points of a `colr` box, wherever it stands (ISO/IEC 14496-12).
_NCLX = re.compile(rb"colrnclx(.{4})", re.DOTALL)
# Transfers of cameras and television. Browsers take them in HEIF and AVIF files for sRGB's, as most such files mean.
_TELEVISION = (1, 6, 14, 15)
# A gAMA alone that is about this stands for sRGB (PNG, third edition, sRGB); libpng and Chromium allow as much.
_SRGB_EXPONENT = 1 / 2.2
_EXPONENT_TOLERANCE = 0.05
# ITU-R BT.2408: the luminance of a white sheet in an HDR picture.
_WHITE_NITS = 203.0
_HLG_PEAK_NITS = 1000.0
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_MAX_REMEMBERED_PROFILE_BYTES = 64 * 2**10
# By the colours of a profile, the mode it takes.
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def in_srgb(image: Image.Image, told: Iterable[Colours]) -> Image.Image:
    """The picture in sRGB: RGBA for RGBA and LA, else RGB.

    The first of `told` that can be used counts; without one the colours are sRGB already. HDR is brought to the
    brightness of a screen as Chromium does it: white at 203 cd/m² is shown at half the light, the peak at all of it.
    """
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    opaque = image if alpha is None else image.convert("L" if image.mode == "LA" else "RGB")
    tries = (_by_profile(opaque, each) if isinstance(each, bytes) else _by_formula(opaque, each) for each in told)
    seen = next((converted for converted in tries if converted is not None), None) or opaque.convert("RGB")
    if alpha is not None:
        seen.putalpha(alpha)
    return seen


def colours_of(image: Image.Image, body: bytes) -> tuple[Colours, ...]:
    """What an opened JPEG, WebP, HEIF or AVIF file tells of its colours: a profile before code points."""
    profile = image.info.get("icc_profile")
    if profile:
        return (profile,)
    info = image.info if image.format == "HEIF" else _avif_info(body) if image.format == "AVIF" else {}
    nclx = info.get("nclx_profile")
    if not isinstance(nclx, dict):
        return ()
    light, display = info.get("content_light_level"), info.get("mastering_display_colour_volume")
    peak_nits = light["max_content_light_level"] if isinstance(light, dict) else 0
    if not peak_nits and isinstance(display, dict):
        peak_nits = display["max_display_mastering_luminance"] / 10_000
    shown = _as_shown(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    return (replace(shown, peak_nits=float(peak_nits) or shown.peak_nits),)


def _as_shown(primaries: int, transfer: int) -> CodePoints:
    return CodePoints(
        primaries if primaries in _PRIMARIES else SRGB.primaries,
        transfer if transfer in _TRANSFERS and transfer not in _TELEVISION else SRGB.transfer,
    )


def _avif_info(body: bytes) -> dict[str, object]:
    """Pillow does not tell code points; libheif reads them from the boxes without decoding anything."""
    told = (_as_shown(*struct.unpack(">HH", each)) for each in _NCLX.findall(body))
    if all(each == SRGB for each in told):
        # Whichever of the file's pictures it is about: libheif's look would be a tenth of the work on a small photo.
        return {}
    try:
        info: dict[str, object] = open_heif(io.BytesIO(body)).info
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, IndexError):
        # The decoder of AVIF has the say whether the file is whole.
        return {}
    return info


def _by_profile(image: Image.Image, icc_profile: bytes) -> Image.Image | None:
    is_small = len(icc_profile) <= _MAX_REMEMBERED_PROFILE_BYTES
    transform = (_remembered_to_srgb if is_small else _to_srgb)(icc_profile)
    if transform is None or (taken := _in_mode(image, transform.input_mode)) is None:
        return None
    return ImageCms.applyTransform(taken, transform)


def _in_mode(image: Image.Image, mode: str) -> Image.Image | None:
    """The picture as a profile takes it, or None if it has other colours than the profile tells of."""
    if image.mode == mode:
        return image
    if (image.mode, mode) == ("L", "RGB"):
        return image.convert("RGB")
    if (image.mode, mode) == ("RGB", "L"):
        # Decoders make colours of grey when there is transparency beside it.
        grey, *others = image.split()
        return grey if all(other.tobytes() == grey.tobytes() for other in others) else None
    return None


def _to_srgb(icc_profile: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        mode = _MODES.get(profile.profile.xcolor_space)
        if mode is None:
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
    except (ImageCms.PyCMSError, OSError):
        # As viewers do: a damaged profile is no profile, and the colours are taken for sRGB.
        return None


# A worker remembers the few profiles of phones, which are small.
_remembered_to_srgb = lru_cache(maxsize=16)(_to_srgb)


@dataclass(frozen=True)
class _Formula:
    """Light of each 8-bit code, (256,), where 1.0 is white, and the way of that light to linear sRGB."""

    light: Floats
    to_linear_srgb: Callable[[Floats], Floats]


def _by_formula(image: Image.Image, colours: CodePoints | Gamma) -> Image.Image | None:
    rgb = image.convert("RGB")
    if _is_srgb(colours):
        return rgb
    formula = _formula(colours)
    if formula is None:
        return None
    linear = np.clip(formula.to_linear_srgb(formula.light[np.asarray(rgb)]), 0, 1)
    return Image.fromarray(np.rint(255 * _srgb_encoded(linear)).astype(np.uint8))


def _is_srgb(colours: CodePoints | Gamma) -> bool:
    if isinstance(colours, CodePoints):
        return (colours.primaries, colours.transfer) == (SRGB.primaries, SRGB.transfer)
    return colours.chromaticities is None and abs(colours.exponent / _SRGB_EXPONENT - 1) <= _EXPONENT_TOLERANCE


@lru_cache(maxsize=16)
def _formula(colours: CodePoints | Gamma) -> _Formula | None:
    """None for code points that mean nothing here, and for a gamma or chromaticities that span no colours."""
    codes = np.arange(256) / 255
    if isinstance(colours, Gamma):
        chromaticities = colours.chromaticities or _BT709_PRIMARIES
        is_sane = (
            colours.exponent > 0 and min(chromaticities) >= 0 and max(chromaticities) <= 1 and chromaticities[1] > 0
        )
        return _matrix_formula(codes ** (1 / colours.exponent), chromaticities) if is_sane else None
    if colours.primaries not in _PRIMARIES or colours.transfer not in _TRANSFERS:
        return None
    chromaticities, transfer = _PRIMARIES[colours.primaries], _TRANSFERS[colours.transfer]
    if colours.transfer not in (_PQ, _HLG):
        return _matrix_formula(transfer(codes), chromaticities)
    to_bt2020 = _matrix(chromaticities, _BT2020_PRIMARIES)
    to_srgb = _matrix(_BT2020_PRIMARIES, _BT709_PRIMARIES)
    is_hlg = colours.transfer == _HLG

    def to_linear_srgb(light: Floats) -> Floats:
        displayed = light @ to_bt2020.T
        if is_hlg:
            displayed = _hlg_displayed(displayed)
        return (displayed * _gain(displayed, colours.peak_nits / _WHITE_NITS)) @ to_srgb.T

    return _Formula(transfer(codes), to_linear_srgb)


def _matrix_formula(light: Floats, chromaticities: Chromaticities) -> _Formula | None:
    try:
        matrix = _matrix(chromaticities, _BT709_PRIMARIES)
    except np.linalg.LinAlgError:
        return None
    return _Formula(light, lambda light: light @ matrix.T) if np.isfinite(matrix).all() else None


def _matrix(source: Chromaticities, target: Chromaticities) -> Floats:
    """(3, 3), linear light of one set of primaries to that of another; white stays white (Bradford)."""
    cones = _BRADFORD @ _white_xyz(target) / (_BRADFORD @ _white_xyz(source))
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD
    return np.asarray(np.linalg.inv(_to_xyz(target)) @ adapted @ _to_xyz(source))


def _to_xyz(chromaticities: Chromaticities) -> Floats:
    """SMPTE RP 177: columns are the primaries, scaled so that their sum is white."""
    xyz = np.array([[x, y, 1 - x - y] for x, y in zip(chromaticities[2::2], chromaticities[3::2], strict=True)]).T
    return np.asarray(xyz * np.linalg.solve(xyz, _white_xyz(chromaticities)))


def _white_xyz(chromaticities: Chromaticities) -> Floats:
    x, y = chromaticities[:2]
    return np.array([x / y, 1, (1 - x - y) / y])


def _gain(light: Floats, peak: float) -> Floats:
    """What brings HDR light to a screen's, of each pixel: (..., 3) to (..., 1).

    The curve of reference-white tone mapping (SMPTE ST 2094-50), of the brightest channel so that hues
    stay: in proportion up to white, then bent to reach 1.0 at the peak.
    """
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-9)
    if peak <= 1:
        return np.ones_like(brightest)
    at_white = 1 - 0.5 * min(math.log(peak) / math.log(1000 / _WHITE_NITS), 1)
    bend = (0.35 + 0.65 / at_white, 0.35 * at_white + 0.65)
    # A quadratic Bézier curve from white to the peak, solved for the place t where it has this light.
    a, b = 1 - 2 * bend[0] + peak, bend[0] - 1
    above = np.clip(brightest, 1, peak) - 1
    t = above / (b + np.sqrt(b * b + a * above))
    shown = at_white * (1 - t) ** 2 + 2 * bend[1] * t * (1 - t) + t**2
    return np.where(brightest <= 1, at_white, shown / brightest)


def _hlg_displayed(scene: Floats) -> Floats:
    """ITU-R BT.2100, table 5: the OOTF of a display of 1000 cd/m²."""
    luminance = np.maximum(scene @ np.array([0.2627, 0.6780, 0.0593]), 1e-9)
    return np.asarray(_HLG_PEAK_NITS / _WHITE_NITS * luminance[..., None] ** 0.2 * scene)


def _srgb_encoded(linear: Floats) -> Floats:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def _srgb_light(code: Floats) -> Floats:
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _smpte240_light(code: Floats) -> Floats:
    return np.where(code < 0.0912863, code / 4.0, ((code + 0.1115722) / 1.1115722) ** (1 / 0.45))


def _pq_light(code: Floats) -> Floats:
    """ITU-R BT.2100, table 4."""
    root = code ** (32 / 2523)
    base = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
    return np.asarray(10_000 / _WHITE_NITS * base ** (16384 / 2610))


def _hlg_light(code: Floats) -> Floats:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)


def _television_light(code: Floats) -> Floats:
    """ITU-R BT.1886: how a display shows what BT.709, BT.601 and BT.2020 encode."""
    return np.asarray(code**2.4)


# ITU-T H.273, table 3.
_TRANSFERS: dict[int, Callable[[Floats], Floats]] = {
    1: _television_light,
    4: lambda code: code**2.2,
    5: lambda code: code**2.8,
    6: _television_light,
    7: _smpte240_light,
    8: lambda code: code,
    11: _television_light,
    13: _srgb_light,
    14: _television_light,
    15: _television_light,
    _PQ: _pq_light,
    17: lambda code: 52.37 / 48 * code**2.6,
    _HLG: _hlg_light,
}
