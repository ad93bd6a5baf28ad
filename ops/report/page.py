"""The report as one HTML page that needs nothing beside itself and can reach nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime
from importlib.resources import files
from typing import Any

import numpy as np

from ops.report.data import Report
from ops.report.photo_map import MOST_COLOURED_LABELS, MapPhoto, PcaMap

# In this order: the last one draws with what the others define.
_SCRIPTS = ("format.js", "chart.js", "zoom.js", "legend.js", "map.js", "report.js")


def render(report: Report, thumbnails: Mapping[str, str]) -> bytes:
    """The page, UTF-8. `thumbnails` are data URIs by image id.

    Labels and keys are hostile. They are in the page as JSON without a character that HTML knows, the script puts them
    into text nodes only, and the page's policy lets nothing run but the one script and nothing be fetched at all.
    """
    style = _part("report.css")
    script = f'"use strict";\n(() => {{\n{chr(10).join(map(_part, _SCRIPTS))}}})();\n'
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'"
    shown = {
        **vars(report),
        "pca_map": _plain_map(report.pca_map, thumbnails) if report.pca_map else None,
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


def _plain_map(pca_map: PcaMap, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    places = np.array(pca_map.neighbours, "<u2")
    return vars(pca_map) | {
        "photos": [_plain_photo(photo, thumbnails) for photo in pca_map.photos],
        # As numbers in JSON they would take twice the room.
        "neighbours": base64.b64encode(places.tobytes()).decode(),
        "neighbours_each": places.shape[1] if places.size else 0,
    }


def _plain_photo(photo: MapPhoto, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    plain = vars(photo) | {"image_id": photo.image_id[:12]}
    plain |= {axis: float(f"{plain[axis]:.4g}") for axis in ("x", "y")}
    del plain["source"]
    return plain | ({"thumbnail": thumbnails[photo.image_id]} if photo.image_id in thumbnails else {})
