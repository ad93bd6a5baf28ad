"""A refit publishes names with its PCA: incrementally, by the same gate for all, and whole wherever it is killed."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession
from typer.testing import CliRunner

import batch.refit.refit as refit_module
import batch.refit.sums as sums_module
import ops.cli.refit as command
from batch.refit.refit import Refit, RefitOptions, refit
from batch.refit.stored_sums import store_of
from features import calibration
from features.classifier import Classifier
from features.pca import NotFinite
from ops.cli.main import app
from store.errors import VersionHeldBack
from store.home import Home
from store.models.pca_models import (
    begin_switch,
    current_models,
    describe_model,
    finish_switch,
    load_model,
    versions,
)
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.operations import keys_below
from store.settings import load_settings
from store.tables.labels import said_labels
from tests.support.feature_rows import commit_features, kinds_of_fruit
from tests.support.said import image_of, say

DAYS = [date(2026, 10, 3), date(2026, 10, 4), date(2026, 10, 5)]


@pytest.fixture(autouse=True)
def few_shrinkages(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each costs an inverse of 1280 x 1280 numbers.
    monkeypatch.setattr(calibration, "SHRINKAGES", (0.2,))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = load_settings(home=str(tmp_path / "home")).places()
    publish_featurizer(home, b"a network", "a test", "a test")
    return home


def _commit(home: Home, batch: int, rows: int, labels: Sequence[str | None] | None = None, spread: float = 3.0) -> None:
    vectors, kinds = kinds_of_fruit(rows, batch, spread=spread)
    columns = {"label": labels or kinds}
    commit_features(home, batch, DAYS[batch - 1], vectors, str(current_featurizer(home)), columns=columns)


def _refit(spark: SparkSession, home: Home, **how: Any) -> Refit:
    options = {"dry_run": False, "full": False, "on_progress": lambda _, __: None}
    return refit(spark.sparkContext, home, RefitOptions(2, None, 2), **(options | how))


def _serve(home: Home, version: int) -> None:
    finish_switch(home, begin_switch(home, version), describe_model(home, version).featurizer)


def _classifier(home: Home, version: int) -> Classifier:
    classifier = load_model(home, version).classifier
    assert classifier is not None
    return classifier


def _assert_equal(one: Classifier, other: Classifier) -> None:
    assert (one.labels, one.divisor, one.calibrated) == (other.labels, other.divisor, other.calibrated)
    assert (one.counts == other.counts).all()
    for name in ("mean", "precision", "weights", "gram", "strange_distances"):
        ours, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(), err_msg=name)


@pytest.mark.processes
def test_sums_of_days_and_months_give_the_names_of_a_full_refit(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, 200)
    first = _refit(spark, home).meta
    assert (first.labels, first.last_batch, first.calibrated, first.no_names) == (4, 1, False, "")
    assert describe_model(home, 1) == load_model(home, 1).meta == first
    _serve(home, 1)
    _commit(home, 2, 320)

    nightly = _refit(spark, home)
    again = _refit(spark, home)
    full = _refit(spark, home, full=True)

    assert (nightly.rows_read, nightly.rows_stored) == (320, 200)
    assert (again.rows_read, again.rows_stored, full.rows_stored) == (0, 520, 0)
    assert (nightly.meta.calibrated, nightly.meta.last_batch, nightly.next) == (True, 2, 2)
    for version in (3, 4):
        _assert_equal(_classifier(home, 2), _classifier(home, version))


@pytest.mark.processes
def test_a_home_that_is_put_right_gets_the_version_of_one_whose_folders_were_right(
    spark: SparkSession, home: Home, tmp_path: Path
) -> None:
    other = load_settings(home=str(tmp_path / "right")).places()
    publish_featurizer(other, b"a network", "a test", "a test")
    # Of each batch every tenth photo lies in a wrong folder, and every tenth in none.
    right: dict[int, list[str]] = {}
    for batch, rows in ((1, 200), (2, 320)):
        right[batch] = kinds_of_fruit(rows, batch)[1]
        wrong = {0: "kind-3", 1: None}
        _commit(home, batch, rows, [wrong.get(place % 10, label) for place, label in enumerate(right[batch])])
        _commit(other, batch, rows)
        if batch == 1:
            for one in (home, other):
                _refit(spark, one)
                _serve(one, 1)
    for batch, labels in right.items():
        for kind in sorted(set(labels)):
            images = [image_of(batch, place) for place, label in enumerate(labels) if label == kind and place % 10 < 2]
            say(home, images, kind, DAYS[batch - 1])

    done, expected = _refit(spark, home), _refit(spark, other)

    # Some of the photos in a wrong folder are of that kind after all. One day has a stored sum, the other has none.
    corrected = [sum(label != "kind-3" for label in labels[::10]) + len(labels) // 10 for labels in right.values()]
    assert (done.rows_read, done.rows_stored) == (320, 200)
    assert (done.rows_followed, done.rows_corrected) == (corrected[0], sum(corrected))
    assert done.meta.labels_until == said_labels(home).said_until == describe_model(home, 2).labels_until
    assert expected.meta.labels_until is None
    ours, theirs = load_model(home, 2), load_model(other, 2)
    np.testing.assert_allclose(ours.pca.components, theirs.pca.components, atol=1e-9)
    np.testing.assert_allclose(ours.pca.explained_variance, theirs.pca.explained_variance, rtol=1e-9, atol=1e-9)
    _assert_equal(_classifier(home, 2), _classifier(other, 2))
    assert (done.meta.calibrated, expected.meta.calibrated) == (True, True)


def test_sums_of_the_last_release_are_added_up_anew_from_all_rows(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, 200)
    _refit(spark, home)
    index = store_of(home, str(current_featurizer(home))).directory / "index/2026-10.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 1}))
    _commit(home, 2, 40)
    after = _refit(spark, home)
    assert (after.rows_read, after.rows_stored, after.meta.labels) == (240, 0, 4)
    assert _refit(spark, home, dry_run=True).rows_stored == 240


def test_unlabelled_homes_and_photos_with_a_nan_are_told_and_the_pca_goes_on(spark: SparkSession, home: Home) -> None:
    _commit(home, 1, 40, [None] * 40)
    done = _refit(spark, home)
    assert (done.meta.labels, done.meta.no_names, done.next) == (0, "No photo has a label.", 1)
    assert load_model(home, 1).classifier is None
    vectors, kinds = kinds_of_fruit(40, 2)
    vectors[3, 7] = np.nan
    commit_features(home, 2, DAYS[1], vectors, str(current_featurizer(home)), columns={"label": kinds})
    with pytest.raises(NotFinite, match="2026-10-04"):
        _refit(spark, home)
    assert versions(home) == [1]


@pytest.mark.processes
def test_a_version_that_names_worse_is_published_and_not_the_next_one_without_force(
    spark: SparkSession, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The session of all tests instead of one of its own.
    @contextmanager
    def spark_job(*_: object) -> Iterator[SparkContext]:
        yield spark.sparkContext

    monkeypatch.setattr(command, "spark_job", spark_job)
    arguments = ["refit", "--home", str(home.root.directory), "--components", "2", "--min-rows", "2"]
    _commit(home, 1, 200)
    first = CliRunner().invoke(app, arguments)
    assert "It names 4 labels; its confidences are uncalibrated." in " ".join(first.output.split())
    _serve(home, 1)
    _commit(home, 2, 600, ["kind-1" if kind == "kind-0" else kind for kind in kinds_of_fruit(600, 2)[1]])
    _commit(home, 3, 300)

    held_back = CliRunner().invoke(app, [*arguments, "--reproject"])

    assert isinstance(held_back.exception, VersionHeldBack)
    assert (held_back.exception.exit_code, held_back.exception.retryable) == (4, False)
    sentence = str(held_back.exception)
    assert sentence.startswith(
        "Version 2 is published but is not the next one: of the 300 labelled photos that came last"
    )
    assert "fruits models use 2" in sentence
    assert describe_model(home, 2).held_back and load_model(home, 2).classifier is not None
    assert current_models(home).versions == (1,)
    forced = CliRunner().invoke(app, [*arguments, "--force"])
    assert forced.exit_code == 0, forced.output
    assert (current_models(home).serving, current_models(home).next) == (1, 3)
    assert describe_model(home, 3).held_back is None


def _cut_off(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.processes
def test_cut_off_before_any_step_nothing_is_half_there_and_the_next_refit_is_right(
    spark: SparkSession, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _commit(home, 1, 200)
    _refit(spark, home)
    _serve(home, 1)
    _commit(home, 2, 320)
    steps = [
        (sums_module, "write_sum"),
        (sums_module, "write_month"),
        (refit_module, "fit_names"),
        (refit_module, "publish_model"),
        (refit_module, "write_copies"),
        (refit_module, "begin_switch"),
    ]
    for module, step in steps:
        with monkeypatch.context() as cut:
            cut.setattr(module, step, _cut_off)
            with pytest.raises(KeyboardInterrupt):
                _refit(spark, home)
        assert current_models(home).versions == (1,), step
        assert all(describe_model(home, version) == load_model(home, version).meta for version in versions(home))
    # Two of them were published before they were killed; they are whole, and nobody serves them.
    assert versions(home) == [1, 2, 3]
    last = _refit(spark, home)
    assert (last.meta.version, last.next, last.rows_stored) == (4, 4, 520)
    for version in (2, 3):
        _assert_equal(_classifier(home, version), _classifier(home, 4))
    assert len([key for key in keys_below(home.pca_models) if key.endswith("scree.png")]) == 3
