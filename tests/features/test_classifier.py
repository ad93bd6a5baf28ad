"""Names of rows, against scikit-learn and against fits that really leave a row out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from features.calibration import HeldOut, calibrate, calibration_error, quantiles, with_known_rows
from features.classifier import (
    Classifier,
    LeftOut,
    TooFewLabels,
    Within,
    name_rows,
    nearest_labels,
    softmax,
    squared_distances,
    within_labels,
)
from features.label_sums import RowSummer, RowSums

COLUMNS, KINDS = 24, 6


def photos(rows: int, seed: int = 0, spread: float = 1.0) -> tuple[NDArray[np.float32], list[str]]:
    """Rows around six means, with differences that all kinds share."""
    means = np.random.default_rng(99).normal(size=(KINDS, COLUMNS)) * 2
    mixing = np.random.default_rng(98).normal(size=(COLUMNS, COLUMNS))
    random = np.random.default_rng(seed)
    kinds = random.integers(KINDS, size=rows)
    vectors = means[kinds] + spread * random.normal(size=(rows, COLUMNS)) @ mixing
    return vectors.astype(np.float32), [f"kind-{kind}" for kind in kinds]


def summed(vectors: NDArray[np.float32], labels: list[str | None], subjects: list[str | None] | None = None) -> RowSums:
    summer = RowSummer(vectors.shape[1])
    summer.add(vectors, labels, subjects or [None] * len(labels))
    return summer.result()


def test_decisions_are_scikit_learns_without_its_priors() -> None:
    vectors, labels = photos(700)
    others, _ = photos(400, seed=1)
    within = within_labels(summed(vectors, list(labels)), 10)
    ours = within.classifier(0.2)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(vectors.astype(np.float64), labels)
    centred = vectors - within.means[[ours.labels.index(label) for label in labels]]
    covariance = centred.T.astype(np.float64) @ centred / within.divisor
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / COLUMNS * np.eye(COLUMNS)
    precision = np.linalg.inv(shrunk)
    assert np.allclose(ours.precision, precision, rtol=1e-4, atol=1e-6)
    differences = others[:, None, :] - within.means[None]
    expected = np.einsum("ncd,de,nce->nc", differences, precision, differences)
    assert np.allclose(squared_distances(ours, others), expected, rtol=1e-4, atol=1e-3)
    scores = theirs.decision_function(others.astype(np.float64)) - np.log(theirs.priors_)
    assert (name_rows(ours, others).places[:, 0] == scores.argmax(axis=1)).all()


def test_rows_without_a_label_and_labels_that_are_too_rare_are_no_part_of_the_spread_between_labels() -> None:
    vectors, labels = photos(500)
    rare, strange = photos(5, seed=2)[0] + 50, photos(300, seed=3)[0] * 100
    all_labels = [*labels, *["rare"] * 5, *[None] * 300]
    within = within_labels(summed(np.concatenate([vectors, rare, strange]), all_labels), 10)
    assert within.labels == tuple(sorted(set(labels)))
    own = np.concatenate(
        [vectors[np.array(labels) == kind] - vectors[np.array(labels) == kind].mean(0) for kind in within.labels]
    )
    rare_own = rare - rare.mean(0)
    scatter = own.T.astype(np.float64) @ own + rare_own.T.astype(np.float64) @ rare_own
    found = within.spread * within.divisor
    assert within.divisor == 505 - 7
    assert np.allclose(found, scatter, rtol=1e-4, atol=1e-2)


def test_parts_in_any_cut_give_the_same_sums() -> None:
    vectors, labels = photos(300)
    some = [label if place % 3 else None for place, label in enumerate(labels)]
    whole, summer = summed(vectors, list(some)), RowSummer(COLUMNS)
    for part in np.array_split(np.arange(300), 7):
        summer.add(vectors[part], [some[place] for place in part], [None] * len(part))
    parts = summer.result()
    assert (whole.labelled.rows, whole.unlabelled.rows) == (200, 100) == (parts.labelled.rows, parts.unlabelled.rows)
    assert np.allclose(whole.moments.triangle, parts.moments.triangle, rtol=1e-12)
    assert whole.labels.labels == parts.labels.labels
    assert (whole.labels.counts == parts.labels.counts).all()
    assert np.allclose(whole.labels.sums, parts.labels.sums, rtol=1e-12)


@pytest.mark.parametrize("copies", [1, 3])
def test_a_row_that_is_left_out_is_as_far_as_from_a_fit_without_it(copies: int) -> None:
    vectors, labels = photos(200)
    for row in (0, 7, 50):
        # The copies of the row are in the fit, too.
        all_vectors = np.concatenate([vectors, np.repeat(vectors[row : row + 1], copies - 1, axis=0)])
        all_labels = [*labels, *[labels[row]] * (copies - 1)]
        within = within_labels(summed(all_vectors, list(all_labels)), 2)
        fitted = within.classifier()
        left_out = LeftOut(np.array([within.labels.index(labels[row])]), np.array([copies]))
        found = squared_distances(fitted, vectors[row : row + 1], left_out)
        rest = [place for place in range(200) if place != row]
        without = within_labels(summed(vectors[rest], [labels[place] for place in rest]), 2)
        # Exact while the divisor and the target of the shrinkage stay.
        spread = without.spread * without.divisor / within.divisor
        precision = np.linalg.inv(0.8 * spread + 0.2 * np.trace(within.spread) / COLUMNS * np.eye(COLUMNS))
        differences = vectors[row] - without.means
        assert np.allclose(found[0], np.einsum("cd,de,ce->c", differences, precision, differences), rtol=2e-3)


def test_a_label_of_one_photo_is_infinitely_far_from_it() -> None:
    vectors, labels = photos(60)
    within = within_labels(summed(np.concatenate([vectors, vectors[:1] + 9]), [*labels, "only"]), 1)
    place = within.labels.index("only")
    left_out = LeftOut(np.array([place, -1]), np.array([1, 0]))
    found = squared_distances(within.classifier(), np.repeat(vectors[:1] + 9, 2, axis=0), left_out)
    assert np.isinf(found[0, place]) and np.isfinite(np.delete(found[0], place)).all()
    assert found[1, place] == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 40, "No photo has a label."),
        (["kiwi"] * 40, "1 of 1 labels"),
        (["kiwi", "plum"], "0 of 2 labels"),
        ([f"photo-{row}" for row in range(1200)], "0 of 1,000 labels"),
    ],
)
def test_labels_that_do_not_suffice_are_one_sentence(labels: list[str | None], said: str) -> None:
    with pytest.raises(TooFewLabels, match=said):
        within_labels(summed(photos(len(labels))[0], labels), 10)


def test_photos_that_are_all_alike_say_nothing_of_how_they_differ() -> None:
    vectors = np.repeat(photos(2)[0], 20, axis=0)
    with pytest.raises(TooFewLabels, match="alike"):
        within_labels(summed(vectors, [*["kiwi"] * 20, *["plum"] * 20]), 10)


def test_a_folder_called_after_a_person_is_no_answer() -> None:
    vectors, labels = photos(120)
    people: list[str | None] = [f"person-{row % 5}" for row in range(120)]
    own = ["lisa" if person == "person-0" else label for person, label in zip(people, labels, strict=True)]
    assert "lisa" not in within_labels(summed(vectors, list(own), people), 10).labels
    assert "lisa" in within_labels(summed(vectors, list(own)), 10).labels


def test_of_more_than_a_thousand_labels_the_largest_are_named() -> None:
    labels = [f"label-{row % 1100:04d}" for row in range(3 * 1100)] + ["label-1099"] * 10
    vectors = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    within = within_labels(summed(vectors, list(labels)), 2)
    assert len(within.labels) == 1000 and "label-1099" in within.labels and within.has_others


def test_float32_changes_no_decision() -> None:
    vectors, labels = photos(600)
    within = within_labels(summed(vectors, list(labels)), 10)
    others = photos(2000, seed=5)[0]
    in_double = [np.einsum("nd,de,ne->n", others - mean, _precision(within), others - mean) for mean in within.means]
    assert (name_rows(within.classifier(), others).places[:, 0] == np.argmin(in_double, axis=0)).all()


def _precision(within: Within) -> NDArray[np.float64]:
    ball = np.trace(within.spread) / COLUMNS * np.eye(COLUMNS)
    return np.linalg.inv(0.8 * within.spread + 0.2 * ball)


def test_later_photos_make_confidences_true() -> None:
    vectors, labels = photos(400)
    within = within_labels(summed(vectors, list(labels)), 10)
    # What is photographed elsewhere differs more.
    later, their_labels = photos(2000, seed=7, spread=1.5)
    calibrated = calibrate(within, HeldOut(later[:1000], their_labels[:1000]))
    assert calibrated.calibrated and not within.classifier().calibrated

    def error(classifier: Classifier) -> float:
        names = name_rows(classifier, later[1000:])
        is_right = np.array(classifier.labels)[names.places[:, 0]] == their_labels[1000:]
        return calibration_error(names.confidences[:, 0], is_right)

    assert error(calibrated) < 0.05 < error(replace(calibrated, temperature=20.0))


def test_a_calibrated_classifier_was_tried_as_it_names() -> None:
    vectors, labels = photos(400)
    later, their_labels = photos(1000, seed=7)
    calibrated = calibrate(within_labels(summed(vectors, list(labels)), 10), HeldOut(later, their_labels))
    names = name_rows(calibrated, later)
    assert np.sort(names.distances) == pytest.approx(calibrated.strange_distances, rel=1e-3)
    assert (nearest_labels(calibrated, later) == names.places[:, 0]).all()


def test_few_later_photos_calibrate_nothing() -> None:
    vectors, labels = photos(400)
    within = within_labels(summed(vectors, list(labels)), 10)
    assert not calibrate(within, HeldOut(vectors[:200], labels[:200])).calibrated
    # Rows of labels that it does not know cannot tell how sure it may be.
    assert not calibrate(within, HeldOut(vectors, ["unknown"] * 400)).calibrated


def test_novelty_is_the_share_of_photos_that_were_less_strange() -> None:
    vectors, labels = photos(500)
    within = within_labels(summed(vectors, list(labels)), 10)
    assert np.isnan(name_rows(within.classifier(), vectors[:3]).novelties).all()
    places = np.array([within.labels.index(label) for label in labels])
    known = with_known_rows(within.classifier(), vectors, LeftOut(places, np.ones(500, np.int64)))
    ordinary = name_rows(known, photos(2000, seed=3)[0]).novelties
    assert np.quantile(ordinary, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.06)
    assert (name_rows(known, np.full((1, COLUMNS), 60, np.float32)).novelties == 1).all()


def test_a_thousand_distances_stand_for_all() -> None:
    all_of_them = np.random.default_rng(0).exponential(size=50_000).astype(np.float32)
    few = quantiles(all_of_them)
    assert len(few) == 1000
    assert np.quantile(few, [0.01, 0.5, 0.99]) == pytest.approx(np.quantile(all_of_them, [0.01, 0.5, 0.99]), rel=0.05)


def test_confidences_sum_to_one_however_far_labels_are() -> None:
    shares = softmax(np.array([[1e6, 1e6 + 1, np.inf], [0.0, 5.0, 1e30]]), 1.0)
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert shares[0] == pytest.approx([0.622, 0.378, 0], abs=1e-3)
