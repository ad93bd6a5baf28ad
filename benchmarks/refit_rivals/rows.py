"""Feature rows made by hand and committed as the stream commits them, fast enough for gigabytes."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.job import CORES
from features.featurizer import FEATURES
from store.errors import StateDamaged
from store.home import Home
from store.models.registry import current_featurizer
from store.state.plans import AddedFile
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import committed_batch, create_tables, open_table
from store.tables.schemas import FEATURE_ROWS, TABLES

FIRST_DAY = date(2025, 6, 1)
BATCHES_A_DAY = 2
FILES_A_BATCH = 2
# Directions in which rows vary more than by noise, each less than the one before.
_DIRECTIONS = 200


def add_days(home: Home, rows_by_day: Sequence[int]) -> None:
    """Commit that many rows to each of the days that follow the last one, in two batches of two files a day.

    The days are past, so their moments can be stored. The same calls give the same rows, whatever else was called in
    between. Raises StateDamaged when the home has no featurizer, StorageUnavailable.
    """
    create_tables(home)
    featurizer = current_featurizer(home)
    if featurizer is None:
        raise StateDamaged(f"{home.root.uri} has no featurizer; publish one first.")
    first = committed_batch(open_table(home, FEATURE_ROWS)) + 1
    sizes = [size for rows in rows_by_day for size in _sizes(rows, BATCHES_A_DAY)]
    with ThreadPoolExecutor(CORES) as pool:
        numbers = range(first, first + len(sizes))
        for batch, adds in zip(
            numbers, pool.map(lambda number, size: _batch(home, number, size, featurizer), numbers, sizes), strict=True
        ):
            for table in TABLES:
                commit(home, table, batch, "a benchmark", adds if table is FEATURE_ROWS else [])


def _sizes(rows: int, parts: int) -> list[int]:
    return [rows // parts + (part < rows % parts) for part in range(parts)]


def _batch(home: Home, batch: int, rows: int, featurizer: str) -> list[AddedFile]:
    return [_file(home, batch, file, size, featurizer) for file, size in enumerate(_sizes(rows, FILES_A_BATCH)) if size]


def _file(home: Home, batch: int, file: int, rows: int, featurizer: str) -> AddedFile:
    day = FIRST_DAY + timedelta(days=(batch - 1) // BATCHES_A_DAY)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    names = [f"{batch}-{file}-{number}" for number in range(rows)]
    columns = {
        "image_id": [hashlib.sha256(name.encode()).hexdigest() for name in names],
        "source": [f"{home.landing.uri}/kiwi/{name}.jpg" for name in names],
        "etag": [hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in names],
        "bytes": [1000] * rows,
        "arrived_at": [noon] * rows,
        "label": ["kiwi"] * rows,
        "subject": [None] * rows,
        "format": ["JPEG"] * rows,
        "width": [640] * rows,
        "height": [480] * rows,
        "features": vectors_column(_vectors(rows, (batch, file))),
        "featurizer": [featurizer] * rows,
        "batch": [batch] * rows,
        "ingested_at": [noon] * rows,
    }
    return write_file(home, FEATURE_ROWS, columns, {"ingest_date": day.isoformat()})


def _vectors(rows: int, seed: tuple[int, int]) -> NDArray[np.float32]:
    """(rows, 1280) float32, correlated and at least 0 as after a ReLU; about a sixth is 0."""
    generator = np.random.default_rng(seed)
    vectors: NDArray[np.float32] = generator.standard_normal((rows, _DIRECTIONS), np.float32) @ _directions()
    vectors += generator.standard_normal((rows, FEATURES), np.float32) / 4
    vectors += 1
    np.maximum(vectors, 0, out=vectors)
    return vectors


@cache
def _directions() -> NDArray[np.float32]:
    strengths = np.float32(0.6) * np.arange(1, _DIRECTIONS + 1, dtype=np.float32) ** -0.7
    directions: NDArray[np.float32] = np.random.default_rng(0).standard_normal((_DIRECTIONS, FEATURES), np.float32)
    directions *= strengths[:, None]
    return directions
