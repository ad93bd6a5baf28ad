"""Feature rows made by hand and committed as the stream commits them."""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

from features.featurizer import FEATURES
from store.errors import StateDamaged
from store.home import Home
from store.models.registry import current_featurizer
from store.tables.handles import committed_batch, open_table
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import commit_features

FIRST_DAY = date(2025, 6, 1)
LABELS = 100
BATCHES_A_DAY = 2
FILES_A_BATCH = 2
# Directions in which rows vary more than by noise, each less than the one before.
_DIRECTIONS = 200


def add_days(home: Home, rows_by_day: Sequence[int], labels: int = LABELS) -> None:
    """Commit that many rows to each of the days that follow the last one, in two batches of two files a day.

    Rows have one of so many labels and lie around its mean; with 0 they are the same rows, without labels.

    The days are past, so their moments can be stored. The same calls give the same rows, whatever else was called in
    between. Raises StateDamaged when the home has no featurizer, StorageUnavailable.
    """
    featurizer = current_featurizer(home)
    if featurizer is None:
        raise StateDamaged(f"{home.root.uri} has no featurizer; publish one first.")
    batch = committed_batch(open_table(home, FEATURE_ROWS))
    for rows in rows_by_day:
        day = FIRST_DAY + timedelta(days=batch // BATCHES_A_DAY)
        for part in range(BATCHES_A_DAY):
            batch += 1
            vectors, kinds = _vectors(rows // BATCHES_A_DAY + (part < rows % BATCHES_A_DAY), batch)
            names = [f"kind {kind % labels:03d}" if labels else None for kind in kinds.tolist()]
            commit_features(home, batch, day, vectors, featurizer, FILES_A_BATCH, {"label": names})


def _vectors(rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(rows, 1280) float32, correlated and at least 0 as after a ReLU, about a sixth is 0; and their kinds (rows,)."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, LABELS, rows)
    vectors: NDArray[np.float32] = generator.standard_normal((rows, _DIRECTIONS), np.float32) @ _directions()
    vectors += _means()[kinds]
    vectors += generator.standard_normal((rows, FEATURES), np.float32) / 4
    vectors += 1
    np.maximum(vectors, 0, out=vectors)
    return vectors, kinds


@cache
def _means() -> NDArray[np.float32]:
    means: NDArray[np.float32] = np.random.default_rng(1).standard_normal((LABELS, FEATURES), np.float32)
    return means * np.float32(0.1)


@cache
def _directions() -> NDArray[np.float32]:
    strengths = np.float32(0.6) * np.arange(1, _DIRECTIONS + 1, dtype=np.float32) ** -0.7
    directions: NDArray[np.float32] = np.random.default_rng(0).standard_normal((_DIRECTIONS, FEATURES), np.float32)
    directions *= strengths[:, None]
    return directions
