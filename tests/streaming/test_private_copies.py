"""Nothing that a file says beside its pixels is in a copy: all bytes of the copies are searched."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from bootstrap.weights.weights import CompiledNetwork
from features import jpeg as jpeg_files
from store.models.registry import publish_featurizer
from store.settings import Settings
from tests.support.pictures import encoded, jpeg, pixels
from tests.support.stream_run import Run, drop, rows

SECRET = b"no-7431-of-Ana"
# 48 degrees, 51 minutes, 29.3143 seconds.
GPS = [struct.pack(f"{order}II", 293_143, 10_000) for order in "<>"]
METADATA = [SECRET, *GPS, b"Exif", b"http://", b"<?xpacket", b"<x:xmpmeta", b"ICC_PROFILE", b"acsp", b"MPF\0", b"GPS"]
XMP = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><serial>' + SECRET + b"</serial></x:xmpmeta>"


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = SECRET.decode()
    exif[0x0112] = 6
    position = exif.get_ifd(0x8825)
    position[1], position[2] = "N", (48.0, 51.0, IFDRational(293_143, 10_000))
    return exif


def _profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert b"acsp" in profile
    return profile + SECRET


def _with_everything(form: str, picture: NDArray[np.uint8]) -> bytes:
    told: dict[str, object] = {"exif": _exif().tobytes(), "icc_profile": _profile(), "xmp": XMP}
    if form == "JPEG":
        told |= {"comment": SECRET, "quality": 92}
    if form == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Author", SECRET.decode())
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        told = {"exif": _exif().tobytes(), "icc_profile": _profile(), "pnginfo": texts}
    return encoded(picture, form, **told)


def _of_a_phone(picture: NDArray[np.uint8]) -> bytes:
    """A multi-picture file: a JPEG with a preview behind it; and a thumbnail in its EXIF."""
    buffer, preview = io.BytesIO(), Image.fromarray(pixels(seed=99))
    preview.info["comment"] = SECRET
    thumbnail = b"Exif\0\0" + b"MM\0*" + encoded(pixels(seed=98), "JPEG", comment=SECRET)
    Image.fromarray(picture).save(
        buffer, "MPO", save_all=True, append_images=[preview], exif=_exif().tobytes(), comment=SECRET
    )
    body = buffer.getvalue()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return body[:2] + body[2:].replace(b"\xff\xdb", segment + b"\xff\xdb", 1)


@pytest.mark.parametrize(
    "side_px",
    [pytest.param((320, 240), id="small"), pytest.param((1600, 1200), id="large", marks=pytest.mark.processes)],
)
def test_no_byte_beside_the_pixels_is_in_any_copy(
    local_settings: Callable[..., Settings],
    untrained: CompiledNetwork,
    drain: Callable[[Settings], Run],
    side_px: tuple[int, int],
) -> None:
    settings = local_settings(clean="reduce")
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint, copy_px=300)
    bodies = {
        f"kiwi/{n}.{form.lower()}": _with_everything(form, pixels(n, *side_px))
        for n, form in enumerate(("JPEG", "PNG", "WEBP", "HEIF", "AVIF"))
    }
    bodies["kiwi/phone.jpg"] = _of_a_phone(pixels(7, *side_px))
    assert all(SECRET in body and any(gps in body for gps in GPS) for body in bodies.values())
    bare = jpeg(seed=8)
    assert jpeg_files.is_bare(bare)
    hidden = {
        "comment": encoded(pixels(9), "JPEG", comment=SECRET),
        "behind": bare + SECRET,
        # In a segment of the application that decoders pass over.
        "segment": bare[:2] + b"\xff\xec" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET + bare[2:],
    }
    assert not any(map(jpeg_files.is_bare, hidden.values()))
    drop(settings, bodies | {f"kiwi/{name}.jpg": body for name, body in hidden.items()} | {"kiwi/bare.jpg": bare})
    drain(settings)

    found = {row["key"]: row["jpeg"] for row in rows(settings, f"SELECT {_KEY} AS key, jpeg FROM copies")}
    assert found.keys() == {*bodies, *(f"kiwi/{name}.jpg" for name in hidden), "kiwi/bare.jpg"}
    assert found["kiwi/bare.jpg"] == bare
    assert all(map(jpeg_files.is_bare, found.values()))
    in_copies = [(key, text) for key, body in found.items() for text in METADATA if text in body]
    assert in_copies == []
    files = [path.read_bytes() for path in settings.places().root.directory.rglob("*.parquet")]
    assert files and not any(text in body for body in files for text in (SECRET, *GPS, XMP))
    # The originals went, and nothing else of them is left.
    left = [path for path in settings.places().root.directory.rglob("*") if path.is_file()]
    assert not any(SECRET in path.read_bytes() for path in left)


_KEY = "split_part(source, '/landing/', 2)"
