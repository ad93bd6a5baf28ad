"""Reprojection gives every row the next version once, and serves it only then."""

import json
import shutil
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from batch.maintain.prune import prune
from batch.reproject import Reprojection, reproject
from features.errors import InvalidSetting
from features.pca import Pca, fit, moments_of
from ops.cli.main import app
from ops.query.query import connect, run_query
from ops.status.status import read_status
from store.errors import AnotherRefit, HomeInUse, NetworkIncomplete
from store.home import Home
from store.models.pca_models import (
    PcaMeta,
    PcaModel,
    begin_switch,
    current_models,
    describe_model,
    next_version,
    publish_model,
)
from store.models.registry import publish_featurizer
from store.settings import load_settings
from store.state.plans import Plan, write_plan
from store.state.refeaturized import note_lost_photos
from store.tables.files import data_files
from store.tables.handles import committed_batch, open_table
from store.tables.schemas import PROJECTION_ROWS
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.networks import add_rows, make_newest

DAYS = [date(2026, 10, 3), date(2026, 10, 4), date(2026, 10, 6)]


@pytest.fixture(scope="module")
def home_with_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three days of features, two batches on the first."""
    folder = tmp_path_factory.mktemp("made") / "home"
    home = load_settings(home=str(folder)).places()
    publish_featurizer(home, b"a network", "a test", "a test")
    for batch, day in enumerate([DAYS[0], *DAYS], start=1):
        commit_features(home, batch, day, feature_vectors(30, batch), _featurizer(home))
    return folder


@pytest.fixture
def home(home_with_rows: Path, tmp_path: Path) -> Home:
    """A copy of it."""
    return _copy(home_with_rows, tmp_path / "home")


@pytest.fixture(scope="module")
def home_with_one_version(spark: SparkSession, home_with_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it whose rows have version 1, which is served."""
    return _with_another_version(spark, home_with_rows, tmp_path_factory.mktemp("one") / "home")


@pytest.fixture(scope="module")
def home_with_two_versions(
    spark: SparkSession, home_with_one_version: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of that whose rows have version 2, too, which is served."""
    return _with_another_version(spark, home_with_one_version, tmp_path_factory.mktemp("two") / "home")


def _with_another_version(spark: SparkSession, before: Path, folder: Path) -> Path:
    home = _copy(before, folder)
    _publish(home)
    _reproject(spark, home)
    return folder


@pytest.fixture
def projected(home_with_one_version: Path, tmp_path: Path) -> Home:
    return _copy(home_with_one_version, tmp_path / "projected")


@pytest.fixture
def projected_twice(home_with_two_versions: Path, tmp_path: Path) -> Home:
    return _copy(home_with_two_versions, tmp_path / "projected twice")


def _copy(made: Path, folder: Path) -> Home:
    shutil.copytree(made, folder)
    return load_settings(home=str(folder)).places()


def _featurizer(home: Home) -> str:
    return str(json.loads((home.featurizers.directory / "CURRENT.json").read_text())["serving"])


@cache
def _pca() -> Pca:
    vectors = [feature_vectors(30, batch) for batch in range(1, 5)]
    return fit(moments_of(vectors, 1280), 4, None)


def _publish(home: Home) -> None:
    """Publish another version, as a refit does."""
    meta = PcaMeta(next_version(home), _featurizer(home), 120, 4, 0.9, datetime.now(UTC), None, None, "a test")
    publish_model(home, PcaModel(meta, _pca()))
    begin_switch(home, meta.version)


def _reproject(spark: SparkSession, home: Home, **options: Any) -> Reprojection | None:
    return reproject(spark.sparkContext, home, print, lambda _, __: None, **options)


def _rows(home: Home, sql: str) -> list[dict[str, Any]]:
    return list(run_query(connect(home), sql).to_pylist())


def _counts(home: Home) -> dict[int, int]:
    rows = _rows(home, "SELECT pca_version, count(*) AS n FROM projections GROUP BY pca_version")
    return {row["pca_version"]: row["n"] for row in rows}


def _plan(home: Home, batch: int, featurizer: str, versions: tuple[int, ...]) -> None:
    now = datetime.now(UTC)
    plan = Plan(batch, "a test", now, now.date(), home.landing.uri, "", featurizer, (), versions)
    write_plan(home, plan)


def test_every_row_is_projected_as_scikit_learn_does_and_the_version_served(spark: SparkSession, home: Home) -> None:
    _publish(home)
    assert _rows(home, "SELECT * FROM current_projections") == []
    assert _reproject(spark, home) == Reprojection(version=1, rows=120, days=3)

    features = _rows(home, "SELECT * FROM features ORDER BY image_id")
    projections = _rows(home, "SELECT * FROM projections WHERE pca_version = 1 ORDER BY image_id")
    assert [row["image_id"] for row in _rows(home, "SELECT image_id FROM current_projections ORDER BY image_id")] == [
        row["image_id"] for row in projections
    ]
    kept = ("image_id", "source", "label", "subject", "arrived_at", "featurizer", "batch", "ingest_date")
    assert [{name: row[name] for name in kept} for row in projections] == [
        {name: row[name] for name in kept} for row in features
    ]
    vectors = np.array([row["features"] for row in features], np.float64)
    expected = PCA(4, svd_solver="full").fit_transform(vectors)
    ours = np.array([row["pca"] for row in projections])
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours, expected * signs, atol=1e-4 * np.abs(expected).max())
    assert read_status(home, verify=True).broken == []


def test_a_replay_has_nothing_to_do(spark: SparkSession, projected: Home) -> None:
    for _ in range(2):
        assert _reproject(spark, projected) == Reprojection(version=1, rows=0, days=0)
        begin_switch(projected, 1)
    assert _counts(projected) == {1: 120}


def test_without_any_version_there_is_nothing_to_do(spark: SparkSession, home: Home) -> None:
    assert _reproject(spark, home) is None


def test_what_the_served_version_lacks_is_given_to_it(spark: SparkSession, projected: Home) -> None:
    DeltaTable(str(projected.projections.directory)).delete("batch = 2")
    assert read_status(projected, verify=True).broken != []
    assert _reproject(spark, projected) == Reprojection(version=1, rows=30, days=1)
    assert read_status(projected, verify=True).broken == []


def test_only_what_lacks_the_version_is_projected_also_after_compaction(spark: SparkSession, projected: Home) -> None:
    _publish(projected)
    commit_features(projected, 5, DAYS[0], feature_vectors(7, 5), _featurizer(projected))
    DeltaTable(str(projected.features.directory)).optimize.compact()
    DeltaTable(str(projected.projections.directory)).optimize.compact()
    # A batch has come without either version: each switch completes its own.
    begin_switch(projected, 2)
    assert _reproject(spark, projected) == Reprojection(version=2, rows=127, days=3)
    begin_switch(projected, 1)
    assert _reproject(spark, projected) == Reprojection(version=1, rows=7, days=1)
    assert _counts(projected) == {1: 127, 2: 127}
    assert read_status(projected, verify=True).broken == []


def test_rows_of_another_featurizer_stay_without_it(spark: SparkSession, home: Home) -> None:
    commit_features(home, 5, DAYS[1], feature_vectors(9, 5), "another")
    _publish(home)
    assert _reproject(spark, home) == Reprojection(version=1, rows=120, days=3)
    assert read_status(home, verify=True).broken == []


def test_a_version_is_not_served_while_a_plan_lacks_it(spark: SparkSession, home: Home) -> None:
    _plan(home, 5, _featurizer(home), ())
    _publish(home)
    with pytest.raises(HomeInUse, match="Batch 5 was planned before version 1 and is not committed yet"):
        _reproject(spark, home, patience_s=0)
    assert current_models(home).versions == (1,)
    assert current_models(home).serving is None
    commit_features(home, 5, DAYS[1], feature_vectors(9, 5), _featurizer(home))
    assert _reproject(spark, home) == Reprojection(version=1, rows=9, days=1)


@pytest.mark.parametrize("pins_it", [True, False], ids=["pins the version", "another featurizer"])
def test_a_plan_that_has_the_version_or_another_featurizer_is_not_waited_for(
    spark: SparkSession, home: Home, pins_it: bool
) -> None:
    _publish(home)
    _plan(home, 5, _featurizer(home) if pins_it else "another", (1,) if pins_it else ())
    _reproject(spark, home, patience_s=0)
    assert current_models(home).versions == (1,)


def test_a_version_that_is_overtaken_is_not_served(spark: SparkSession, home: Home) -> None:
    _publish(home)
    _publish(home)
    begin_switch(home, 1)

    def overtake(_: int, __: int) -> None:
        begin_switch(home, 2)

    with pytest.raises(AnotherRefit, match="The switch to version 1 gave way to a later one, to version 2"):
        reproject(spark.sparkContext, home, print, overtake)
    assert current_models(home).next == 2
    assert _reproject(spark, home) == Reprojection(version=2, rows=120, days=3)
    assert read_status(home, verify=True).broken == []


def test_what_a_rival_did_meanwhile_is_not_done_again(spark: SparkSession, home: Home) -> None:
    _publish(home)
    rivals: list[Reprojection | None] = []

    def overtake(_: int, __: int) -> None:
        # As if this process had slept past its lease just after it had looked what is lacking.
        if not rivals:
            rivals.append(None)
            (home.state.directory / "lease.json").unlink()
            rivals[0] = _reproject(spark, home)

    with suppress(HomeInUse):
        reproject(spark.sparkContext, home, print, overtake)
    assert rivals == [Reprojection(version=1, rows=120, days=3)]
    assert _counts(home) == {1: 120}


def test_prune_drops_old_versions_and_they_can_be_projected_again(spark: SparkSession, projected_twice: Home) -> None:
    home = projected_twice
    _publish(home)
    _reproject(spark, home)
    begin_switch(home, 1)
    assert prune(home, 1, print).versions == (2,)
    begin_switch(home, 3)
    pruned = prune(home, 1, print)
    assert (pruned.versions, pruned.rows) == ((1,), 120)
    assert prune(home, 1, print).versions == ()
    assert _counts(home) == {3: 120}
    begin_switch(home, 1)
    assert _reproject(spark, home) == Reprojection(version=1, rows=120, days=3)
    assert read_status(home, verify=True).broken == []


def test_a_prune_that_slept_while_a_version_came_into_use_again_drops_nothing(
    spark: SparkSession, projected_twice: Home, monkeypatch: pytest.MonkeyPatch
) -> None:

    def sleep(*_: object) -> None:
        # Past the end of the lease, which another process takes.
        (projected_twice.state.directory / "lease.json").unlink()
        begin_switch(projected_twice, 1)
        _reproject(spark, projected_twice)

    monkeypatch.setattr("batch.maintain.prune._check_not_planned", sleep)
    with pytest.raises(HomeInUse, match="was changed meanwhile; nothing was deleted"):
        prune(projected_twice, 1, print)
    assert _counts(projected_twice) == {1: 120, 2: 120}
    assert read_status(projected_twice, verify=True).broken == []


def test_prune_refuses_a_version_that_a_plan_pins(projected_twice: Home) -> None:
    _plan(projected_twice, 5, _featurizer(projected_twice), (1,))
    with pytest.raises(HomeInUse, match="Batch 5 is planned with version 1"):
        prune(projected_twice, 1, print)
    assert _counts(projected_twice) == {1: 120, 2: 120}


def test_each_day_is_one_transaction_of_few_files(spark: SparkSession, home: Home) -> None:
    _publish(home)
    handle = open_table(home, PROJECTION_ROWS)
    assert handle is not None
    before = handle.version()
    _reproject(spark, home)
    handle.update_incremental()
    # The first one only says that a reprojection has begun.
    assert handle.version() == before + 1 + 3
    assert sorted(file.partition["ingest_date"] for file in data_files(handle)) == DAYS
    assert committed_batch(handle) == 4


def test_the_commands_say_what_they_did(projected: Home) -> None:
    _publish(projected)
    root = str(projected.root.directory)
    listed = _fruits("models", "--home", root)
    assert "served" in listed
    assert "next" in listed
    assert "no other is on its way" in _fruits("models", "use", "1", "--home", root)
    assert "Version 2 is the next one" in _fruits("models", "use", "2", "--home", root)
    assert not (projected.pca_models.directory / "v000002/scree.png").exists()
    assert "v000002/scree.png" in _fruits("models", "show", "2", "--home", root)
    assert (projected.pca_models.directory / "v000002/scree.png").exists()
    assert "4 batches lack version 2" in _fruits("status", "--home", root)
    assert "Nothing to drop." in _fruits("models", "prune", "--home", root)


def _fruits(*arguments: str) -> str:
    answer = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout


def test_a_version_whose_network_photos_lack_is_not_served(spark: SparkSession, projected: Home) -> None:
    make_newest(projected, "other", 1280)
    add_rows(projected, "other", 1280, without=["/1-0.jpg"])
    meta = PcaMeta(2, "other", 120, 4, 0.9, datetime.now(UTC), None, None, "a test")
    publish_model(projected, PcaModel(meta, _pca()))
    home = ("--home", str(projected.root.directory))

    told = " ".join(_fruits("models", "use", "2", *home).split())
    assert "rows of 119 of 120 photos. Run `fruits refeaturize` before `fruits reproject`" in told
    with pytest.raises(NetworkIncomplete, match=r"Version 2 cannot be served yet: .* rows of 119 of 120 photos; run"):
        _reproject(spark, projected)
    assert current_models(projected).versions == (1, 2)

    assert add_rows(projected, "other", 1280) == 1
    assert _reproject(spark, projected) == Reprojection(2, 120, 3)
    served = current_models(projected)
    assert (served.versions, served.featurizer) == ((2,), "other")
    # And back at once, as all rows of the former network are there.
    told = " ".join(_fruits("models", "use", "1", *home).split())
    assert "refeaturize" not in told
    assert _reproject(spark, projected) == Reprojection(1, 0, 0)
    assert current_models(projected).featurizer == describe_model(projected, 1).featurizer
    assert read_status(projected, verify=True).broken == []


def test_a_plan_without_the_network_is_waited_for_and_its_photos_get_their_rows(
    spark: SparkSession, projected: Home
) -> None:
    first = _featurizer(projected)
    make_newest(projected, "other", 1280)
    add_rows(projected, "other", 1280)
    meta = PcaMeta(2, "other", 120, 4, 0.9, datetime.now(UTC), None, None, "a test")
    publish_model(projected, PcaModel(meta, _pca()))
    # Of a stream of a former release, or of one that looked before there was another network.
    _plan(projected, 5, first, (1,))
    begin_switch(projected, 2)
    with pytest.raises(HomeInUse, match="Batch 5 was planned before version 2 and is not committed yet"):
        _reproject(spark, projected, patience_s=0)
    commit_features(projected, 5, DAYS[1], feature_vectors(9, 5), first)
    with pytest.raises(NetworkIncomplete, match="rows of 120 of 129 photos"):
        _reproject(spark, projected)
    assert add_rows(projected, "other", 1280) == 9
    assert _reproject(spark, projected) == Reprojection(2, 9, 1)
    assert _rows(projected, "SELECT count(*) AS n FROM current_projections") == [{"n": 129}]


def test_rows_that_came_later_than_the_rest_of_their_batch_are_projected(spark: SparkSession, projected: Home) -> None:
    make_newest(projected, "other", 1280)
    add_rows(projected, "other", 1280, without=["/1-0.jpg", "/2-3.jpg"])
    meta = PcaMeta(2, "other", 120, 4, 0.9, datetime.now(UTC), None, None, "a test")
    publish_model(projected, PcaModel(meta, _pca()))
    begin_switch(projected, 2)
    # Their pixels could not be had when somebody looked.
    note_lost_photos(projected, "other", DAYS[0], {1: {"gone": 1}, 2: {"gone": 1}})
    assert _reproject(spark, projected) == Reprojection(2, 118, 3)
    assert add_rows(projected, "other", 1280) == 2
    assert _reproject(spark, projected) == Reprojection(2, 2, 1)
    assert _reproject(spark, projected) == Reprojection(2, 0, 0)
    assert read_status(projected, verify=True).broken == []


def test_a_home_that_the_command_would_not_act_on_is_refused(home: Home) -> None:
    with pytest.raises(InvalidSetting, match="after `prune`: fruits models prune"):
        _fruits("models", "--home", str(home.root.directory), "prune")


def test_a_flag_beats_the_alternative_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_COMPONENTS", "32")
    settings = load_settings(variance=0.9)
    assert (settings.components, settings.variance) == (None, 0.9)


def test_a_dry_run_cannot_be_reprojected_with() -> None:
    with pytest.raises(InvalidSetting, match="leave out --dry-run or --reproject"):
        _fruits("refit", "--dry-run", "--reproject")


def test_the_settings_of_the_refit_exclude_each_other() -> None:
    with pytest.raises(InvalidSetting, match="components and variance exclude each other; set one"):
        _fruits("refit", "--components", "3", "--variance", "0.9")
