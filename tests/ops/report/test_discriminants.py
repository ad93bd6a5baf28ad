"""The directions that tell labels apart: those that scikit-learn finds in the same PCA space."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from features.classifier import within_labels
from features.label_sums import RowSummer
from features.pca import fit, moments_of, project
from ops.report.discriminants import discriminants
from store.models.pca_models import PcaMeta, PcaModel
from tests.support.feature_rows import kinds_of_fruit


def _model(rows: NDArray[np.float32], labels: list[str], components: int) -> PcaModel:
    width = rows.shape[1]
    summer = RowSummer(width)
    summer.add(rows, labels, [None] * len(labels))
    pca = fit(moments_of([rows], width), components, None)
    meta = PcaMeta(1, "abc", len(rows), components, 0.9, datetime(2026, 10, 3, tzinfo=UTC), None, None, "n")
    # Unshrunk, so that nothing but Fisher's criterion counts.
    return PcaModel(meta, pca, within_labels(summer.result(), 2).classifier(shrinkage=0.0))


def _points(model: PcaModel, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return project(model.pca.mean, model.pca.components, rows)


def test_they_are_fishers_directions_in_pca_space() -> None:
    rows, labels = kinds_of_fruit(600, 1, kinds=6, width=32)
    model = _model(rows, labels, 8)
    points = _points(model, rows)
    found = discriminants(model)
    assert found is not None
    fisher = LinearDiscriminantAnalysis(solver="svd").fit(points.astype(np.float64), labels)
    expected = fisher.transform(points)[:, :2]
    places = found.places(points)
    for axis in range(2):
        assert abs(np.corrcoef(places[:, axis], expected[:, axis])[0, 1]) == pytest.approx(1, abs=1e-4)
    assert found.shares == pytest.approx(fisher.explained_variance_ratio_[:2], abs=1e-3)


def test_the_labels_means_lie_around_zero_and_each_label_spreads_by_one() -> None:
    rows, labels = kinds_of_fruit(600, 2, kinds=5, width=32)
    # A label of few photos counts as much as one of many.
    kept = np.array([label != "kind-0" or n < 60 for n, label in enumerate(labels)])
    model = _model(rows[kept], list(np.array(labels)[kept]), 8)
    found = discriminants(model)
    assert found is not None
    places, names = found.places(_points(model, rows[kept])), np.array(labels)[kept]
    means = np.array([places[names == name].mean(axis=0) for name in sorted(set(labels))])
    assert means.mean(axis=0) == pytest.approx(np.zeros(2), abs=1e-3)
    within: NDArray[Any] = np.concatenate(
        [places[names == name] - means[n] for n, name in enumerate(sorted(set(labels)))]
    )
    assert np.cov(within.T) == pytest.approx(np.eye(2), abs=0.03)


@pytest.mark.parametrize(("kinds", "components"), [(2, 8), (5, 1)])
def test_there_are_none_for_two_labels_or_in_one_dimension(kinds: int, components: int) -> None:
    rows, labels = kinds_of_fruit(100, 3, kinds=kinds, width=32)
    assert discriminants(_model(rows, labels, components)) is None
