"""The report as one HTML page that needs nothing beside itself and can reach nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.report.data import Report
from ops.report.names import Gallery
from ops.report.photo_map import MOST_COLOURED_LABELS, MapPhoto, PcaMap
from ops.report.thumbnails import ShownPhoto

# In this order: the last one draws with what the others define.
_SCRIPTS = ("format.js", "chart.js", "zoom.js", "legend.js", "map.js", "names.js", "gallery.js", "report.js")
# The places of the discriminants have so many steps from edge to edge.
_STEPS = 2**16 - 1


def render(report: Report, thumbnails: Mapping[str, str]) -> bytes:
    """The page, UTF-8. `thumbnails` are data URIs by image id.

    Labels and keys are hostile. They are in the page as JSON without a character that HTML knows, the script puts them
    into text nodes only, and the page's policy lets nothing run but the one script and nothing be fetched at all.
    """
    style = _part("report.css")
    script = f'"use strict";\n(() => {{\n{chr(10).join(map(_part, _SCRIPTS))}}})();\n'
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'"
    # Each picture is in the page once, wherever it is shown.
    place_of = {image_id: place for place, image_id in enumerate(thumbnails)}
    shown = {
        **vars(report),
        "names": vars(report.names)
        | {
            "accuracy": asdict(report.names.accuracy),
            "reliability": asdict(report.names.reliability),
            "confusion": asdict(report.names.confusion) if report.names.confusion else None,
            "galleries": [_plain_gallery(gallery, place_of) for gallery in report.names.galleries],
        },
        "pca_map": _plain_map(report.pca_map, place_of) if report.pca_map else None,
        "pictures": list(thumbnails.values()),
        "coloured_labels": MOST_COLOURED_LABELS,
    }
    # In ASCII, and without what could end the element it stands in.
    data = json.dumps(shown, default=_scalar, separators=(",", ":"))
    page = _part("report.html")
    for name, text in (
        ("policy", f"{policy}; form-action 'none'"),
        ("style", style),
        ("data", data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")),
        ("script", script),
    ):
        page = page.replace(f"<!-- {name} -->", text)
    return page.encode()


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Source of the form: Content Security Policy Level 3, section 2.3.1."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form on the page")


def _plain_map(pca_map: PcaMap, picture_of: Mapping[str, int]) -> dict[str, Any]:
    neighbours = np.array(pca_map.neighbours)
    places = pca_map.on_discriminants
    return vars(pca_map) | {
        "on_components": _plain_places(np.array([(photo.x, photo.y) for photo in pca_map.photos]).reshape(-1, 2)),
        "photos": [_plain_photo(photo, picture_of) for photo in pca_map.photos],
        "neighbours": _packed(neighbours),
        "neighbours_each": neighbours.shape[1] if neighbours.size else 0,
        "on_discriminants": _plain_places(np.array(places or ()).reshape(-1, 2)),
    }


def _plain_places(places: NDArray[np.float64]) -> dict[str, Any] | None:
    """Places (n, 2) in steps from the least to the greatest of each column, and where 0 lies among the steps."""
    if not len(places):
        return None
    least = places.min(axis=0)
    step = np.maximum(places.max(axis=0) - least, np.finfo(np.float64).eps) / _STEPS
    return {"steps": _packed(np.rint((places - least) / step)), "zero": np.rint(-least / step).tolist()}


def _packed(numbers: NDArray[Any]) -> str:
    """Numbers below 65,536, 16 bits each, the low byte first: in JSON they would take twice the room."""
    return base64.b64encode(numbers.astype("<u2").tobytes()).decode()


def _plain_photo(photo: MapPhoto, picture_of: Mapping[str, int]) -> dict[str, Any]:
    plain = vars(photo) | {"image_id": photo.image_id[:12]} | _picture(photo, picture_of)
    for name in ("source", "x", "y"):
        del plain[name]
    return plain


def _plain_gallery(gallery: Gallery, picture_of: Mapping[str, int]) -> dict[str, Any]:
    photos = [vars(photo) | _picture(photo, picture_of) for photo in gallery.photos]
    for photo in photos:
        del photo["source"]
    return vars(gallery) | {"photos": photos}


def _picture(photo: ShownPhoto, picture_of: Mapping[str, int]) -> dict[str, int]:
    return {"picture": picture_of[photo.image_id]} if photo.image_id in picture_of else {}
