"""Feature rows made by hand, committed as the stream commits them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.pca import Pca, fit, moments_of
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, next_version, publish_model
from store.models.registry import current_featurizer
from store.objects.operations import write_once
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.schemas import FEATURE_ROWS, TABLES


def feature_vectors(rows: int, seed: int) -> NDArray[np.float32]:
    """(rows, 1280) float32 that vary along ten directions, and a little along the others."""
    directions = np.random.default_rng(0).normal(size=(10, 1280)) * np.linspace(3, 1, 10)[:, None]
    generator = np.random.default_rng(seed)
    varied = generator.normal(size=(rows, 10)) @ directions + generator.normal(size=(rows, 1280)) / 10
    return (varied + 5).astype(np.float32)


@cache
def fitted() -> Pca:
    """A PCA of four components, fitted on such vectors."""
    return fit(moments_of([feature_vectors(40, 1)], 1280), 4, None)


def serve_a_model(home: Home) -> None:
    """Publish a version for the home's featurizer and serve it, as after the first refit."""
    version, featurizer = next_version(home), str(current_featurizer(home))
    meta = PcaMeta(version, featurizer, 40, 4, 0.5, datetime(2026, 10, 3, tzinfo=UTC), None, None, "a test")
    publish_model(home, PcaModel(meta, fitted()))
    finish_switch(home, begin_switch(home, version), meta.featurizer)


def kinds_of_fruit(
    rows: int, seed: int, kinds: int = 4, spread: float = 1.0, width: int = 1280
) -> tuple[NDArray[np.float32], list[str]]:
    """(rows, width) float32 around one mean for each kind, in the same few directions, with the names of the kinds."""
    means = np.random.default_rng(7).normal(size=(kinds, width)) / 4
    directions = np.random.default_rng(8).normal(size=(12, width)) / 2
    generator = np.random.default_rng(seed)
    numbers = np.arange(rows) % kinds
    varied = generator.normal(size=(rows, 12)) @ directions + generator.normal(size=(rows, width)) / 2
    return (means[numbers] + spread * varied).astype(np.float32), [f"kind-{number}" for number in numbers]


def commit_features(
    home: Home,
    batch: int,
    day: date,
    vectors: NDArray[np.float32],
    featurizer: str | None = None,
    files: int = 1,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Commit a batch to all tables, its rows spread over some files; `columns` replace those that are made.

    The rows are of the home's newest featurizer, if none is named.
    """
    create_tables(home)
    featurizer = featurizer or current_featurizer(home) or "abc"
    describe(home, featurizer, vectors.shape[1])
    parts = np.array_split(np.arange(len(vectors)), files)
    adds = [
        write_file(
            home,
            FEATURE_ROWS,
            made_columns(home, batch, day, part.tolist(), featurizer)
            | {"features": vectors_column(vectors[part])}
            | {name: [values[place] for place in part] for name, values in (columns or {}).items()},
            {"ingest_date": day.isoformat()},
        )
        for part in parts
        if len(part)
    ]
    for table in TABLES:
        commit(home, table, batch, "a test", adds if table is FEATURE_ROWS else [])


def describe(home: Home, featurizer: str, length: int = 1280) -> None:
    """Make a featurizer known that was never published, which gives that many numbers."""
    meta = {"id": featurizer, "length": length, "network_sha256": "", "network_bytes": 0, "source": "a test"}
    meta |= {"compiled_at": "2026-10-03T00:00:00Z", "fingerprint": "a test"}
    write_once(home.featurizers, f"{featurizer}/meta.json", json.dumps(meta).encode())


def made_columns(home: Home, batch: int, day: date, numbers: Sequence[int], featurizer: str) -> dict[str, Any]:
    """All columns of a batch's feature rows but the features."""
    rows = len(numbers)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return {
        "image_id": [hashlib.sha256(f"{batch}/{number}".encode()).hexdigest() for number in numbers],
        "source": [f"{home.landing.uri}/kiwi/{batch}-{number}.jpg" for number in numbers],
        "etag": ["e"] * rows,
        "bytes": [1000] * rows,
        "arrived_at": [noon] * rows,
        "label": ["kiwi"] * rows,
        "subject": [None] * rows,
        "format": ["JPEG"] * rows,
        "width": [640] * rows,
        "height": [480] * rows,
        "featurizer": [featurizer] * rows,
        "batch": [batch] * rows,
        "ingested_at": [noon] * rows,
    }
