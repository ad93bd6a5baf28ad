"""What the served version says of files: their names, and the known photos nearest to them."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from features.errors import FruitsError
from features.rejects import Rejected
from ops.identify.featurized_files import FeaturizedFile, FileFeaturizer
from ops.identify.neighbours import Neighbour, nearest
from store.errors import UnknownModel
from store.home import Home
from store.models.pca_models import PcaModel, current_models, load_model
from store.models.registry import describe_featurizer, load_network
from store.objects.location import printable, to_nfc
from store.tables.projections import Projected, name_columns, project_rows
from store.tables.schemas import PROJECTION_ROWS

# For few rows at a time the threads of NumPy cost several times what they do: 2.7 ms a photo by 32, 0.4 ms by 256.
NAMED_FILES = 256
# Whoever reads the answers waits no longer for the next ones.
NAMED_WITHIN_S = 1.0
# The tables are read once for each so many files.
COMPARED_FILES = 1024

_NEIGHBOUR = [
    ("neighbour", pa.int64()),
    ("label", pa.string()),
    ("distance", pa.float64()),
    ("copies", pa.int64()),
    ("source", pa.string()),
    ("image_id", pa.string()),
]
_SAID = ("predicted", "confidence", "novelty", "distance", "top3")
_FILE = [("image_id", pa.string()), ("file", pa.string())]
_REFUSED = [("reason", pa.string()), ("detail", pa.string())]
IDENTIFIED = pa.schema(
    [
        *_FILE,
        *(PROJECTION_ROWS.schema.field(name) for name in _SAID),
        ("calibrated", pa.bool_()),
        ("version", pa.int32()),
        *_REFUSED,
    ]
)
WITH_NEIGHBOURS = IDENTIFIED.append(pa.field("neighbours", pa.list_(pa.struct(_NEIGHBOUR))))
SIMILAR = pa.schema([("file", pa.string()), *_NEIGHBOUR, *_REFUSED])


class FilesRefused(FruitsError):
    """Some files could not be identified; all others were."""


def served_model(home: Home, *, names: bool) -> PcaModel:
    """The served version, which has a classifier if it must name fruit. Raises UnknownModel when there is none."""
    serving = current_models(home).serving
    if serving is None:
        raise UnknownModel(
            f"{home.root.uri} serves no version yet: run `fruits refit --reproject` once photos have come."
        )
    model = load_model(home, serving)
    if names and model.classifier is None:
        raise UnknownModel(
            f"Version {serving}, which is served, names no fruit: {model.meta.no_names} A photo's label is the folder "
            "that it landed in; with enough of them, `fruits refit --reproject` makes a version that names fruit."
        )
    return model


def identified(
    home: Home, model: PcaModel, featurizer: FileFeaturizer, neighbours: int | None = None
) -> Iterator[pa.Table]:
    """What a version says of each file, in the order of the files, some at a time; what cannot be used has a reason.

    Columns as IDENTIFIED; with `neighbours`, how many known photos to find for each, as WITH_NEIGHBOURS. A row of the
    stream with the same bytes has the same numbers, up to the rounding of float32. Raises DecoderUnavailable, and as
    `nearest` and `load_network`.
    """
    common = {"calibrated": model.classifier is not None and model.classifier.calibrated, "version": model.meta.version}
    most, within_s = (COMPARED_FILES, math.inf) if neighbours else (NAMED_FILES, NAMED_WITHIN_S)
    for files, projected in _projected(home, model, featurizer, most, within_s):
        names = pa.table(name_columns(projected)).select(_SAID).to_pylist()
        near = _nearest(home, files, projected, neighbours) if neighbours else [[]] * len(names)
        said = iter([name | {"neighbours": some} for name, some in zip(names, near, strict=True)])
        rows = [_of_file(file) | (common | _in_nfc(next(said)) if _is_seen(file) else {}) for file in files]
        yield pa.Table.from_pylist(rows, schema=WITH_NEIGHBOURS if neighbours else IDENTIFIED)


def similar(home: Home, model: PcaModel, featurizer: FileFeaturizer, neighbours: int) -> Iterator[pa.Table]:
    """The known photos nearest to each file, as SIMILAR: a row each; a file that cannot be used has one with a reason.

    Raises as `identified`.
    """
    for files, projected in _projected(home, model, featurizer, COMPARED_FILES):
        near = iter(_nearest(home, files, projected, neighbours))
        rows: list[dict[str, Any]] = []
        for file in files:
            of_file = _of_file(file)
            found = next(near) if _is_seen(file) else [of_file]
            rows += [{**one, "file": of_file["file"]} for one in found]
        yield pa.Table.from_pylist(rows, schema=SIMILAR)


def _projected(
    home: Home, model: PcaModel, featurizer: FileFeaturizer, most: int, within_s: float = math.inf
) -> Iterator[tuple[list[FeaturizedFile], Projected]]:
    """Some files at a time, and what the version makes of those that have features."""

    @cache
    def network() -> bytes:
        return load_network(home, model.meta.featurizer)

    # Before the threads ask for it.
    network()
    featurized = featurizer.featurized(network, describe_featurizer(home, model.meta.featurizer).recipe)
    while files := list(_some(featurized, most, within_s)):
        vectors = [file.features for file in files if not isinstance(file.features, Rejected)]
        yield files, project_rows(model, np.array(vectors, np.float32).reshape(len(vectors), len(model.pca.mean)))


def _some(featurized: Iterator[FeaturizedFile], most: int, within_s: float) -> Iterator[FeaturizedFile]:
    until_s = time.monotonic() + within_s
    for file in islice(featurized, most):
        yield file
        if time.monotonic() >= until_s:
            return


def _nearest(
    home: Home, files: list[FeaturizedFile], projected: Projected, neighbours: int
) -> list[list[dict[str, Any]]]:
    image_ids = [str(file.image_id) for file in files if _is_seen(file)]
    found = nearest(home, projected.meta.version, projected.coordinates, image_ids, neighbours)
    return [_numbered(own, some) for own, some in zip(image_ids, found, strict=True)]


def _numbered(image_id: str, found: list[Neighbour]) -> list[dict[str, Any]]:
    # As the query `nearest` counts them: 0 is the photo itself.
    is_known = any(one.image_id == image_id for one in found)
    return [{"neighbour": place, **asdict(one)} for place, one in enumerate(found, 0 if is_known else 1)]


def _is_seen(file: FeaturizedFile) -> bool:
    return not isinstance(file.features, Rejected)


def _of_file(file: FeaturizedFile) -> dict[str, Any]:
    shown = {"image_id": file.image_id, "file": printable(file.file)}
    if isinstance(file.features, Rejected):
        shown |= {"reason": str(file.features.reason), "detail": printable(file.features.detail)}
    return shown


def _in_nfc(said: dict[str, Any]) -> dict[str, Any]:
    """As the views show labels."""
    top3 = [{**one, "label": to_nfc(one["label"])} for one in said["top3"]]
    return said | {"predicted": to_nfc(said["predicted"]), "top3": top3}
