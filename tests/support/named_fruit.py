"""Versions that name fruit, fitted on drawn pictures as a network sees them."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bootstrap.weights.weights import CompiledNetwork
from features.calibration import with_known_rows
from features.classifier import Classifier, LeftOut, within_labels
from features.featurizer import Featurizer
from features.label_sums import RowSummer
from features.pca import Pca, fit
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, next_version, publish_model
from store.models.registry import current_featurizer
from tests.support.pictures import pixels

# Decomposed, as macOS writes names of folders.
LABELS = ("cafe\u0301", "kiwi", "lime", "pear")
_EACH = 8


def serve_names(home: Home, network: CompiledNetwork, *, calibrated: bool = False, names: bool = True) -> PcaModel:
    """Publish and serve a version for the home's network; without `names` it has no classifier."""
    pca, classifier = _fitted(network.network)
    version, featurizer = next_version(home), str(current_featurizer(home))
    meta = PcaMeta(version, featurizer, pca.rows, 4, 0.5, datetime(2026, 10, 3, tzinfo=UTC), None, None, "a test")
    if names:
        named = replace(meta, labels=len(LABELS), no_names="", calibrated=calibrated)
        model = PcaModel(named, pca, replace(classifier, calibrated=calibrated))
    else:
        model = PcaModel(replace(meta, no_names="No photo has a label."), pca)
    publish_model(home, model)
    finish_switch(home, begin_switch(home, version), model.meta.featurizer)
    return model


@cache
def _fitted(network: bytes) -> tuple[Pca, Classifier]:
    labels = [label for label in LABELS for _ in range(_EACH)]
    vectors = _features(network, len(labels))
    summer = RowSummer(vectors.shape[1])
    summer.add(vectors, labels, [None] * len(labels))
    sums = summer.result()
    classifier = within_labels(sums, 2).classifier()
    places = np.array([classifier.labels.index(label) for label in labels])
    known = with_known_rows(classifier, vectors, LeftOut(places, np.ones(len(places), np.int64)))
    return fit(sums.moments, 4, None), known


def _features(network: bytes, pictures: int) -> NDArray[np.float32]:
    seen = np.stack([pixels(seed, 224, 224) for seed in range(100, 100 + pictures)])
    return Featurizer(network).features(seen)
