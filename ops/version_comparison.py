"""Two PCA versions side by side: what they were fitted on, and what they say of the same photos."""

from dataclasses import dataclass

import numpy as np

from features.pca import principal_angles_rad
from ops.query.query import connect, run_query
from ops.share import Share, share_of
from store.home import Home
from store.models.pca_models import PcaModel, load_model

# A projection belongs to one object of one batch.
_SAME_PHOTOS = """
SELECT
    here.batch > ? AS is_new,
    count(*) AS photos,
    count(*) FILTER (here.predicted = there.predicted) AS agreeing,
    count(*) FILTER (here.label = nfc_normalize(here.predicted)) AS first_correct,
    count(*) FILTER (here.label = nfc_normalize(there.predicted)) AS second_correct
FROM (
    SELECT
        projected.* EXCLUDE (label),
        CASE WHEN said.image_id IS NULL THEN nfc_normalize(projected.label) ELSE said.label END AS label
    FROM projections AS projected
    LEFT JOIN said_labels AS said ON projected.image_id = said.image_id
) AS here
INNER JOIN projections AS there
    ON here.batch = there.batch
    AND here.source = there.source
    AND here.image_id = there.image_id
    AND here.ingest_date = there.ingest_date
WHERE
    here.pca_version = ?
    AND there.pca_version = ?
    AND here.label IS NOT NULL
    AND here.predicted IS NOT NULL
    AND there.predicted IS NOT NULL
GROUP BY is_new
"""


@dataclass(frozen=True)
class Agreement:
    """What two versions say of the same labelled photos: how many each names by the label, and how many both alike."""

    first: Share
    second: Share
    agree: Share


@dataclass(frozen=True, eq=False)
class VersionComparison:
    """Two versions, the angles between their subspaces (ascending, radians; None of two featurizers), and their names.

    `new` are the photos that neither had in its fit, `all` the others, too: those of a fit are named as if they had
    been left out of it. Only photos count that have a projection, and a name, of both.
    """

    first: PcaModel
    second: PcaModel
    angles_rad: tuple[float, ...] | None
    new: Agreement
    all: Agreement


def compare_versions(home: Home, first: int, second: int) -> VersionComparison:
    """Compare two versions of a home; it is only read.

    Raises UnknownModel, NothingIngested before there are tables, StateDamaged, StorageUnavailable.
    """
    models = load_model(home, first), load_model(home, second)
    angles_rad = None
    if models[0].meta.featurizer == models[1].meta.featurizer:
        angles_rad = tuple(map(float, np.sort(principal_angles_rad(*(model.pca.components for model in models)))))
    last_batch = max(model.meta.last_batch or 0 for model in models)
    counts = run_query(connect(home), _SAME_PHOTOS, [last_batch, first, second]).to_pylist()
    return VersionComparison(
        *models,
        angles_rad,
        new=_agreement([row for row in counts if row["is_new"]]),
        all=_agreement(counts),
    )


def _agreement(counts: list[dict[str, int]]) -> Agreement:
    photos, *numbers = (
        sum(row[name] for row in counts) for name in ("photos", "first_correct", "second_correct", "agreeing")
    )
    return Agreement(*(share_of(number, photos) for number in numbers))
