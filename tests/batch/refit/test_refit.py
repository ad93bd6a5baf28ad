"""A refit publishes one exact model, or nothing and a sentence."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from sklearn.decomposition import PCA

from batch.refit.refit import NothingToFit, Refit, RefitOptions, refit
from features.errors import InvalidSetting
from features.pca import NotFinite, TooFewRows
from store.errors import AnotherRefit
from store.home import Home
from store.models.pca_models import current_models, load_model, versions
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.operations import keys_below
from store.settings import load_settings
from tests.support.feature_rows import commit_features, feature_vectors

DAYS = [date(2026, 10, 3), date(2026, 10, 4)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with its featurizer and no rows."""
    home = load_settings(home=str(tmp_path / "home")).places()
    publish_featurizer(home, b"a network", "a test", "a test")
    return home


def _commit(home: Home, batch: int, rows: int = 40) -> None:
    commit_features(home, batch, DAYS[batch % 2], feature_vectors(rows, batch), str(current_featurizer(home)))


def _refit(spark: SparkSession, home: Home, wanted: RefitOptions | None = None, **how: Any) -> Refit:
    options = {"dry_run": False, "full": False, "on_progress": lambda _, __: None}
    return refit(spark.sparkContext, home, wanted or RefitOptions(6, None, 2), **(options | how))


def test_the_model_is_scikit_learns_and_its_meta_says_where_it_comes_from(spark: SparkSession, home: Home) -> None:
    _commit(home, 1)
    _commit(home, 2)
    vectors = np.concatenate([feature_vectors(40, 1), feature_vectors(40, 2)]).astype(np.float64)
    done = _refit(spark, home)
    model, oracle = load_model(home, 1), PCA(6, svd_solver="full").fit(vectors)

    np.testing.assert_allclose(model.pca.mean, oracle.mean_, rtol=1e-9)
    leading = model.pca.explained_variance[:6]
    np.testing.assert_allclose(leading, oracle.explained_variance_, atol=1e-6 * leading[0])
    np.testing.assert_allclose(np.abs(model.pca.components @ oracle.components_.T), np.eye(6), atol=1e-6)
    assert model.pca.explained_variance_ratio.shape == (1280,)
    assert model.meta == done.meta
    assert (model.meta.rows, model.meta.featurizer, model.meta.parent) == (80, current_featurizer(home), None)
    assert model.meta.explained == pytest.approx(oracle.explained_variance_ratio_.sum())
    assert (current_models(home).serving, current_models(home).next, done.next) == (None, 1, 1)
    assert "v000001/scree.png" in set(keys_below(home.pca_models))


def test_a_version_knows_its_parent_and_points_the_same_way(spark: SparkSession, home: Home) -> None:
    all_directions = RefitOptions(10, None, 2)
    _commit(home, 1)
    _refit(spark, home, all_directions)
    _commit(home, 2)
    done = _refit(spark, home, all_directions)
    older, newer = load_model(home, 1), load_model(home, 2)
    assert (newer.meta.parent, newer.meta.drift_rad) == (1, done.angles_rad[-1])
    assert len(done.angles_rad) == 10
    assert 0 < done.angles_rad[0] <= done.angles_rad[-1] < 0.5
    alike = newer.pca.components @ older.pca.components.T
    assert (alike[range(10), np.abs(alike).argmax(axis=1)] > 0).all()


def test_only_new_days_are_read_and_the_model_is_the_same(spark: SparkSession, home: Home) -> None:
    _commit(home, 1)
    _refit(spark, home)
    _commit(home, 2, rows=9)
    incremental = _refit(spark, home)
    full = _refit(spark, home, full=True)
    assert (incremental.rows_read, incremental.rows_stored) == (9, 40)
    assert (full.rows_read, full.rows_stored) == (49, 0)
    second, third = load_model(home, 2).pca, load_model(home, 3).pca
    np.testing.assert_allclose(second.components, third.components, rtol=0, atol=1e-9)
    np.testing.assert_allclose(second.explained_variance, third.explained_variance, rtol=0, atol=1e-9)


def test_a_share_of_the_variance_takes_as_few_components_as_reach_it(spark: SparkSession, home: Home) -> None:
    _commit(home, 1)
    done = _refit(spark, home, RefitOptions(None, 0.9, 2), dry_run=True)
    assert done.meta.explained >= 0.9
    assert done.meta.components == done.thresholds.at_90


def test_a_dry_run_stores_nothing(spark: SparkSession, home: Home) -> None:
    _commit(home, 1)
    done = _refit(spark, home, dry_run=True)
    assert (done.published, done.meta.rows) == (False, 40)
    assert list(keys_below(home.pca_models)) == []


def test_rows_that_do_not_do_are_refused_in_a_sentence_and_nothing_is_published(
    spark: SparkSession, home: Home
) -> None:
    with pytest.raises(NothingToFit, match="has no feature rows of featurizer"):
        _refit(spark, home)
    _commit(home, 1)
    with pytest.raises(TooFewRows, match="There are 40 rows and 1,000 are asked for"):
        _refit(spark, home, RefitOptions(6, None, 1000))
    with pytest.raises(TooFewRows, match="64 components need at least 65 rows"):
        _refit(spark, home, RefitOptions(64, None, 2))
    with pytest.raises(InvalidSetting):
        _refit(spark, home, RefitOptions(2000, None, 2))
    spoiled = feature_vectors(5, 9)
    spoiled[3, 7] = np.nan
    commit_features(home, 2, DAYS[0], spoiled, str(current_featurizer(home)))
    with pytest.raises(NotFinite, match="2026-10-03"):
        _refit(spark, home)
    assert versions(home) == []
    assert current_models(home).versions == ()


def test_a_home_without_a_featurizer_says_what_to_do(spark: SparkSession, tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "empty")).places()
    with pytest.raises(NothingToFit, match="has no featurizer, so nothing to fit on yet"):
        _refit(spark, home)
    assert list(tmp_path.iterdir()) == []


def test_of_two_refits_at_once_one_wins_and_the_other_says_so(spark: SparkSession, home: Home) -> None:
    _commit(home, 1)
    both_have_summed = threading.Barrier(2)

    def run(_: int) -> int | None:
        waited: list[int] = []

        def on_progress(done: int, total: int) -> None:
            if done == total and not waited:
                waited.append(both_have_summed.wait(60))

        try:
            return _refit(spark, home, on_progress=on_progress).meta.version
        except AnotherRefit as error:
            assert "Another refit published version 1" in str(error)
            return None

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, range(2)), key=str) == [1, None]
    assert (versions(home), current_models(home).next) == ([1], 1)


def test_a_refit_goes_on_from_the_newest_version_that_is_whole(spark: SparkSession, home: Home) -> None:
    _commit(home, 1)
    _refit(spark, home)
    _refit(spark, home)
    (home.pca_models.directory / "v000002/model.npz").write_bytes(b"damaged")
    (home.pca_models.directory / "v000002/meta.json").unlink()
    assert _refit(spark, home).meta.parent == 1
    assert versions(home) == [1, 2, 3]
