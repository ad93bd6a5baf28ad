"""A home whose versions name photos, made without Spark and without a network."""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from features.classifier import Classifier, LeftOut, within_labels
from features.label_sums import RowSummer
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.projections import answer_columns, project_rows, write_projections
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, TABLES
from tests.support.feature_rows import fitted, made_columns

KINDS = ("kiwi", "lime", "plum")
FEATURIZER = "abc"


def photos_of(kinds: Sequence[str], seed: int) -> NDArray[np.float32]:
    """(n, 1280) float32, one for each kind; those of a kind resemble each other, and any other word is a kind, too."""
    centres = [np.random.default_rng(list(kind.encode())).normal(size=1280) for kind in kinds]
    noise = np.random.default_rng(seed).normal(size=(len(kinds), 1280))
    return (np.array(centres) + noise).astype(np.float32)


def classifier_of(vectors: NDArray[np.float32], labels: Sequence[str]) -> Classifier:
    """A classifier fitted on rows (n, 1280) with these labels."""
    summer = RowSummer(1280)
    summer.add(vectors, labels, [None] * len(labels))
    return within_labels(summer.result(), 2).classifier()


def publish(
    home: Home, version: int, classifier: Classifier | None, last_batch: int = 0, served: bool = True
) -> PcaModel:
    """Publish a version with this classifier, and serve it."""
    create_tables(home)
    labels = len(classifier.labels) if classifier else 0
    at = datetime(2026, 10, 3, tzinfo=UTC)
    meta = PcaMeta(
        version, FEATURIZER, 40, 4, 0.5, at, None, None, f"a test, {version}", last_batch=last_batch, labels=labels
    )
    model = PcaModel(meta, fitted(), classifier)
    publish_model(home, model)
    finish_switch(home, begin_switch(home, version), model.meta.featurizer)
    return model


def commit_named(
    home: Home,
    batch: int,
    day: date,
    vectors: NDArray[np.float32],
    labels: Sequence[str | None],
    models: Sequence[PcaModel],
    served: PcaModel | None = None,
) -> None:
    """Commit a batch that was answered by the served version, and projected with some models, as reproject would."""
    create_tables(home)
    columns = made_columns(home, batch, day, range(len(labels)), FEATURIZER) | {"label": list(labels)}
    answers = answer_columns(project_rows(served, vectors)) if served else {}
    rows = columns | {"features": vectors_column(vectors)} | answers
    features = [write_file(home, FEATURE_ROWS, rows, {"ingest_date": day.isoformat()})]
    projections = [
        write_projections(home, columns, project_rows(model, vectors, _left_out(model, batch, labels)), day)
        for model in models
    ]
    adds = {FEATURE_ROWS: features, PROJECTION_ROWS: projections}
    for table in TABLES:
        commit(home, table, batch, "a test", adds.get(table, []))


def _left_out(model: PcaModel, batch: int, labels: Sequence[str | None]) -> LeftOut | None:
    if model.classifier is None or batch > (model.meta.last_batch or 0):
        return None
    known = model.classifier.labels
    places = [known.index(label) if label in known else -1 for label in labels]
    return LeftOut(np.array(places, np.int64), np.ones(len(labels), np.int64))
