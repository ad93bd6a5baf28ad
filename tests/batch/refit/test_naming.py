"""What a new version says of fruit: fitted on all rows, calibrated and compared on those that came last."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from batch.days import list_days, sum_rows
from batch.refit.naming import Naming, fit_names
from features import calibration
from features.calibration import HeldOut, calibrate
from features.classifier import SHRINKAGE, TEMPERATURE, Classifier, within_labels
from features.featurizer import FEATURES
from features.label_sums import RowSums, merge_sums
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from store.settings import load_settings
from tests.support.feature_rows import commit_features, fitted, kinds_of_fruit

OURS = "ours"
DAYS = [date(2026, 10, 3) + timedelta(days=number) for number in range(4)]
# Of four kinds some 94 in 100 are then named right.
SPREAD = 3.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return load_settings(home=str(tmp_path / "home")).places()


@pytest.fixture(autouse=True)
def few_shrinkages(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each costs an inverse of 1280 x 1280 numbers.
    monkeypatch.setattr(calibration, "SHRINKAGES", (0.1, 0.3))


def _commit(
    home: Home, batch: int, day: date, rows: int, labels: Sequence[str | None] | None = None, spread: float = SPREAD
) -> tuple[NDArray[np.float32], list[str]]:
    """Commit a batch of four kinds of fruit, with these labels or the right ones; returns the rows and the kinds."""
    vectors, kinds = kinds_of_fruit(rows, batch, spread=spread)
    commit_features(home, batch, day, vectors, OURS, columns={"label": labels or kinds})
    return vectors, kinds


def _sums(home: Home) -> RowSums:
    return merge_sums((sum_rows(home, OURS, FEATURES, day)[0] for day in list_days(home)), FEATURES)


def _names(spark: SparkSession, home: Home, min_label_rows: int = 10) -> Naming:
    return fit_names(spark.sparkContext, home, OURS, list_days(home), _sums(home), min_label_rows)


def _serve(
    home: Home, version: int, classifier: Classifier | None, last_batch: int, held_back: str | None = None
) -> None:
    labels = len(classifier.labels) if classifier else 0
    now = datetime.now(UTC)
    meta = PcaMeta(*(version, OURS, 40, 4, 0.5, now, None, None, "a test", last_batch, labels), held_back=held_back)
    publish_model(home, PcaModel(meta, fitted(), classifier))
    finish_switch(home, begin_switch(home, version), OURS)


def _classifier(naming: Naming) -> Classifier:
    assert naming.classifier is not None, naming.no_names
    return naming.classifier


def test_a_label_whose_accents_are_written_in_two_ways_is_one_name(spark: SparkSession, home: Home) -> None:
    vectors, kinds = kinds_of_fruit(80, 1, spread=SPREAD)
    forms = ("p\u00eache", "pe\u0302che")
    labels = [forms[place % 2] if kind == kinds[0] else kind for place, kind in enumerate(kinds)]
    commit_features(home, 1, DAYS[0], vectors, OURS, columns={"label": labels})
    named = _names(spark, home)
    assert _classifier(named).labels == tuple(sorted({*kinds} - {kinds[0]} | {forms[0]}))
    assert _classifier(named).counts.sum() == 80


def test_300_photos_since_the_served_version_calibrate_the_next_one_which_is_fitted_on_all(
    spark: SparkSession, home: Home
) -> None:
    _commit(home, 1, DAYS[0], 200)
    first, sums_of_first = _classifier(_names(spark, home)), _sums(home)
    assert (first.calibrated, first.shrinkage, first.temperature) == (False, SHRINKAGE, TEMPERATURE)
    _serve(home, 1, first, last_batch=1)
    # The rest of the day of the fit, and another one.
    _commit(home, 2, DAYS[0], 100)
    _commit(home, 3, DAYS[1], 199)
    few = _names(spark, home)
    assert not _classifier(few).calibrated and few.comparison is None
    assert few.notes[0].startswith(
        "No 300 photos of known labels came on days after those of other photos, so nothing says"
    )

    _commit(home, 4, DAYS[2], 1)
    enough = _names(spark, home)

    classifier = _classifier(enough)
    assert (classifier.calibrated, classifier.counts.sum(), enough.notes) == (True, 500, ())
    everything = within_labels(_sums(home), 10).classifier(classifier.shrinkage, classifier.temperature)
    np.testing.assert_array_equal(classifier.precision, everything.precision)
    # Chosen on the photos that came since, by a fit without them.
    parts = [kinds_of_fruit(rows, batch, spread=SPREAD) for rows, batch in [(1, 4), (199, 3), (100, 2)]]
    later = HeldOut(np.concatenate([vectors for vectors, _ in parts]), [kind for _, kinds in parts for kind in kinds])
    twin = calibrate(within_labels(sums_of_first, 10), later)
    assert (classifier.shrinkage, classifier.temperature) == (twin.shrinkage, twin.temperature)
    np.testing.assert_allclose(classifier.strange_distances, twin.strange_distances, rtol=1e-3)
    assert enough.comparison is not None
    assert (enough.comparison.rows, enough.comparison.rival, enough.comparison.is_worse) == (300, 1, False)


def test_where_few_came_since_the_last_whole_days_calibrate_and_only_who_did_not_know_them_is_a_rival(
    spark: SparkSession, home: Home
) -> None:
    for batch in (1, 2, 3):
        _commit(home, batch, DAYS[batch - 1], 160)
    fit = _classifier(_names(spark, home))
    _serve(home, 1, fit, last_batch=2)
    _serve(home, 2, fit, last_batch=3)
    # As in every night of a small home: nothing, or a few photos.
    same = _names(spark, home)
    assert _classifier(same).calibrated and same.comparison is None
    assert same.notes == ("Too few labelled photos came since version 2 to compare the two.",)
    _commit(home, 4, DAYS[3], 150)
    few = _names(spark, home)
    assert _classifier(few).calibrated and few.comparison is not None
    assert (few.comparison.rows, few.comparison.rival) == (310, 1)


def test_nothing_is_read_but_what_came_since(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, DAYS[0], 200)
    _serve(home, 1, _classifier(_names(spark, home)), last_batch=1)
    [old] = list_days(home)
    _commit(home, 2, DAYS[0], 100)
    _commit(home, 3, DAYS[1], 200)
    sums = _sums(home)
    (home.features.directory / old.paths[0]).unlink()
    naming = fit_names(spark.sparkContext, home, OURS, list_days(home), sums, 10)
    assert _classifier(naming).calibrated


def test_a_first_version_holds_out_its_last_days_unless_nothing_would_be_left(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, DAYS[0], 320)
    one_day = _names(spark, home)
    assert not _classifier(one_day).calibrated
    # Its own rows, as if each had been left out.
    assert len(_classifier(one_day).strange_distances) == 320
    _commit(home, 2, DAYS[1], 300)
    two_days = _names(spark, home)
    assert _classifier(two_days).calibrated and two_days.comparison is None


def test_a_version_that_names_worse_is_told_from_one_that_does_not(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, DAYS[0], 200)
    good = _classifier(_names(spark, home))
    _serve(home, 1, good, last_batch=1)
    _, kinds = kinds_of_fruit(600, 2)
    # One kind was labelled as another for a day.
    _commit(home, 2, DAYS[1], 600, ["kind-1" if kind == "kind-0" else kind for kind in kinds])
    _commit(home, 3, DAYS[2], 300)
    worse = _names(spark, home).comparison
    assert worse is not None and worse.is_worse
    assert (worse.rows, worse.rival) == (300, 1)
    assert worse.accuracy < worse.rival_accuracy - 0.02
    assert str(worse).startswith("of the 300 labelled photos that came last it names ")


def test_the_best_that_was_served_is_the_rival_and_what_was_held_back_or_is_damaged_is_none(
    spark: SparkSession, home: Home
) -> None:
    _commit(home, 1, DAYS[0], 200)
    good = _classifier(_names(spark, home))
    # It knows each kind by another's name.
    bad = replace(good, labels=(*good.labels[1:], good.labels[0]))
    for version, held_back in [(1, None), (2, "It names worse."), (3, None), (4, None)]:
        _serve(home, version, good if version < 4 else bad, 1, held_back)
    _serve(home, 5, bad, 1)
    (home.pca_models.directory / "v000003/model.npz").write_bytes(b"damaged")
    _commit(home, 2, DAYS[1], 300)
    comparison = _names(spark, home).comparison
    assert comparison is not None and comparison.rival == 1
    begin_switch(home, 2)
    finish_switch(home, begin_switch(home, 2), OURS)
    (home.pca_models.directory / "v000001/model.npz").write_bytes(b"damaged")
    # Somebody serves by hand what was held back.
    comparison = _names(spark, home).comparison
    assert comparison is not None and comparison.rival == 2
    # A served version that nobody can read stops no other.
    (home.pca_models.directory / "v000002/model.npz").write_bytes(b"damaged")
    assert _names(spark, home).comparison is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 40, "No photo has a label."),
        (["kiwi"] * 40, "1 of 1 labels has 10 photos; two are needed."),
        (["kiwi", "plum"], "0 of 2 labels has 10 photos; two are needed."),
        ([f"photo-{number}" for number in range(40)], "0 of 40 labels has 10 photos; two are needed."),
    ],
    ids=["no labels", "one label", "one photo each", "a label per photo"],
)
def test_labels_that_do_not_suffice_give_no_names_and_a_sentence(
    spark: SparkSession, home: Home, labels: list[str | None], said: str
) -> None:
    _commit(home, 1, DAYS[0], len(labels), labels)
    naming = _names(spark, home)
    assert (naming.classifier, naming.no_names) == (None, said)


def test_two_labels_with_one_photo_each_are_named_where_somebody_asks_for_it_and_say_that_they_cannot_be(
    spark: SparkSession, home: Home
) -> None:
    _commit(home, 1, DAYS[0], 2, ["kiwi", "plum"])
    naming = _names(spark, home, min_label_rows=1)
    assert naming.no_names.startswith("All photos of a label are alike")


def test_labels_that_begin_or_vanish_in_the_held_out_days_are_named_and_stop_nothing(
    spark: SparkSession, home: Home
) -> None:
    _, kinds = kinds_of_fruit(400, 1)
    _commit(home, 1, DAYS[0], 400, ["vanishes" if kind == "kind-0" else kind for kind in kinds])
    _serve(home, 1, _classifier(_names(spark, home)), last_batch=1)
    _commit(home, 2, DAYS[1], 420, ["begins" if kind == "kind-1" else "kind-2" for kind in kinds_of_fruit(420, 2)[1]])
    # Only 315 photos have a label that the twin knows.
    naming = _names(spark, home)
    assert _classifier(naming).calibrated
    assert _classifier(naming).labels == ("begins", "kind-1", "kind-2", "kind-3", "vanishes")
    assert naming.comparison is not None and naming.comparison.rows == 420
    # Where all are new, nothing calibrates.
    _commit(home, 3, DAYS[2], 420, ["new", "newer"] * 210)
    served = replace(_classifier(naming), labels=_classifier(naming).labels)
    _serve(home, 2, served, last_batch=2)
    strange = _names(spark, home)
    assert not _classifier(strange).calibrated and strange.comparison is None
    assert strange.notes[0].startswith("No 300 photos of known labels came on days after")


def test_labels_that_differ_in_case_or_spaces_are_told_and_not_merged(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, DAYS[0], 120, ["Blood Orange", "blood orange", "bloodorange ", "kiwi"] * 30)
    naming = _names(spark, home)
    assert len(_classifier(naming).labels) == 4
    assert naming.notes[0] == (
        "Labels that differ only in case or spaces are different fruit to the version: "
        '"Blood Orange" and "blood orange" and "bloodorange ".'
    )


def test_of_1001_labels_a_thousand_are_named_and_the_version_says_so(spark: SparkSession, home: Home) -> None:
    labels = [f"label-{number % 1001:04d}" for number in range(3 * 1001 - 1)]
    _commit(home, 1, DAYS[0], len(labels), labels)
    naming = _names(spark, home, min_label_rows=2)
    assert len(_classifier(naming).labels) == 1000 and "label-1000" not in _classifier(naming).labels
    assert "There are more than 1,000 labels; only the largest ones can be named." in naming.notes
