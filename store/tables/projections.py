"""Feature rows as one version of the PCA sees them."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.home import Home
from store.models.pca_models import PcaMeta
from store.state.plans import AddedFile
from store.tables.files import vectors_column, write_file
from store.tables.schemas import PROJECTION_ROWS

# Who adds projections outside the stream. Each of its commits has a number, so that what was decided by an older look
# at the table is refused.
SWITCHING = "fruits-reproject"
# What a projection takes over from its feature row.
KEPT_COLUMNS = tuple(name for name in PROJECTION_ROWS.file_schema.names if name not in ("pca", "ingested_at"))


def write_projections(
    home: Home,
    meta: PcaMeta,
    rows: Mapping[str, Sequence[Any] | pa.Array],
    projected: NDArray[np.float32],
    ingest_date: date,
) -> AddedFile:
    """Write what one version made of rows as one file; nobody sees it until a commit adds it.

    rows: the kept columns and `ingested_at`, perhaps others; projected: (n, k).
    Raises StorageUnavailable; replay writes another file, and only one of the two is ever committed.
    """
    kept = {name: rows[name] for name in (*KEPT_COLUMNS, "ingested_at")}
    partition = {"pca_version": str(meta.version), "ingest_date": ingest_date.isoformat()}
    return write_file(home, PROJECTION_ROWS, kept | {"pca": vectors_column(projected)}, partition)
