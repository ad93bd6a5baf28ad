"""Feature rows as one version of the PCA sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.classifier import LeftOut, Names, name_rows
from features.pca import project
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel
from store.state.plans import AddedFile
from store.tables.files import vectors_column, write_file
from store.tables.schemas import NAME_COLUMNS, PROJECTION_ROWS

# Who adds projections outside the stream. Each of its commits has a number, so that what was decided by an older look
# at the table is refused.
SWITCHING = "fruits-reproject"
# What a projection takes over from its feature row.
KEPT_COLUMNS = tuple(
    name for name in PROJECTION_ROWS.file_schema.names if name not in ("pca", "ingested_at", *NAME_COLUMNS)
)


@dataclass(frozen=True, eq=False)
class Projected:
    """What one version makes of n rows: coordinates (n, k) float32, and names, unless it has no classifier.

    `in_fit` (n,) says which rows were in the fit of its classifier; these are named as if they had been left out.
    """

    meta: PcaMeta
    coordinates: NDArray[np.float32]
    labels: tuple[str, ...] = ()
    names: Names | None = None
    in_fit: NDArray[np.bool_] | None = None


def project_rows(model: PcaModel, vectors: NDArray[np.float32], left_out: LeftOut | None = None) -> Projected:
    """What a version makes of rows (n, d) float32; those that are `left_out` were in its fit."""
    coordinates = project(model.pca.mean, model.pca.components, vectors)
    if model.classifier is None:
        return Projected(model.meta, coordinates)
    in_fit = np.zeros(len(vectors), bool) if left_out is None else left_out.places >= 0
    names = name_rows(model.classifier, vectors, left_out)
    return Projected(model.meta, coordinates, model.classifier.labels, names, in_fit)


def write_projections(
    home: Home, rows: Mapping[str, Sequence[Any] | pa.Array], projected: Projected, ingest_date: date
) -> AddedFile:
    """Write what one version made of rows as one file; nobody sees it until a commit adds it.

    rows: the kept columns and `ingested_at`, perhaps others.
    Raises StorageUnavailable; replay writes another file, and only one of the two is ever committed.
    """
    kept = {name: rows[name] for name in (*KEPT_COLUMNS, "ingested_at")}
    columns = kept | {"pca": vectors_column(projected.coordinates)} | name_columns(projected)
    partition = {"pca_version": str(projected.meta.version), "ingest_date": ingest_date.isoformat()}
    return write_file(home, PROJECTION_ROWS, columns, partition)


def answer_columns(projected: Projected) -> dict[str, pa.Array]:
    """What the app was answered: the columns of `features` for rows that the served version has named."""
    named, version = name_columns(projected), pa.scalar(projected.meta.version, pa.int32())
    if not named:
        return {}
    answer, confidence = named["predicted"], named["confidence"]
    return {
        "answer": answer,
        "answer_confidence": confidence,
        "answer_version": pa.repeat(version, len(answer)),
    }


def name_columns(projected: Projected) -> dict[str, pa.Array]:
    """The columns of `projections` for what a version says of rows; none when it has no classifier."""
    names = projected.names
    if names is None:
        return {}
    labels = pa.array(projected.labels, pa.string())
    rows, top = names.places.shape
    top3 = pa.StructArray.from_arrays(
        [labels.take(pa.array(names.places.ravel())), pa.array(names.confidences.ravel(), pa.float32())],
        ["label", "confidence"],
    )
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * top)
    return {
        "predicted": labels.take(pa.array(names.places[:, 0])),
        "confidence": pa.array(names.confidences[:, 0], pa.float32()),
        "top3": pa.ListArray.from_arrays(offsets, top3),
        "distance": pa.array(names.distances, pa.float32()),
        "novelty": pa.array(names.novelties, pa.float32(), from_pandas=True),
        "in_fit": pa.array(projected.in_fit),
    }
