"""`status --verify` finds every way in which a promise can be broken."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from bootstrap.weights import CompiledNetwork
from features.home import Home
from features.pca import fit, moments_of
from features.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from features.projections import KEPT_COLUMNS, write_projections
from features.registry import publish_featurizer
from features.settings import Settings, load_settings
from features.tables import FEATURE_ROWS, PROJECTION_ROWS, append_once, commit, write_file
from ops.status import Switch, look
from tests.pictures import jpeg, text_file
from tests.stream_run import run_here


@pytest.fixture(scope="module")
def finished(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of three photos and a reject, its landing beside it."""
    folder = tmp_path_factory.mktemp("finished")
    settings = load_settings(home=str(folder / "home"), landing=str(folder / "landing"), trigger="100ms")
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint)
    landing = settings.places().landing.directory
    landing.mkdir(parents=True)
    for number in range(3):
        (landing / f"{number}.jpg").write_bytes(jpeg(seed=number))
    (landing / "notes.jpg").write_bytes(text_file())
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings


@pytest.fixture
def drained(finished: Settings, tmp_path: Path) -> Settings:
    """A copy of it to break."""
    shutil.copytree(finished.home, tmp_path / "home")
    return finished.model_copy(update={"home": str(tmp_path / "home")})


def test_a_sound_home(drained: Settings) -> None:
    status = look(drained.places(), verify=True)
    assert status.broken == []
    assert status.last_batch is not None
    assert (status.last_batch.batch, status.last_batch.photos, status.last_batch.rejects) == (1, 3, 1)
    assert {table.name: table.rows for table in status.tables} == {"features": 3, "projections": 0, "rejects": 1}
    assert status.backlog.files == 0


def test_the_backlog_is_what_no_batch_holds(drained: Settings) -> None:
    late = drained.places().landing.directory / "late.jpg"
    late.write_bytes(jpeg(seed=9))
    backlog = look(drained.places(), verify=False).backlog
    late_bytes = late.stat().st_size
    late.unlink()
    assert (backlog.files, backlog.bytes) == (1, late_bytes)
    assert backlog.oldest_arrived_at is not None


def test_a_home_where_nothing_ran_is_not_touched(tmp_path: Path) -> None:
    status = look(load_settings(home=str(tmp_path / "typo")).places(), verify=True)
    assert (status.last_batch, status.broken, status.unfinished_batches) == (None, [], [])
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_not_all_tables_hold_is_unfinished(drained: Settings) -> None:
    shutil.rmtree(drained.places().root.directory / "rejects")
    status = look(drained.places(), verify=True)
    assert (status.unfinished_batches, status.broken) == ([1], [])


def test_doubled_rows_are_found(drained: Settings) -> None:
    home = drained.places()
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    again = {name: rows[name].combine_chunks() for name in FEATURE_ROWS.file_schema.names}
    added = write_file(home, FEATURE_ROWS, again, {"ingest_date": str(rows["ingest_date"][0])})
    commit(home, FEATURE_ROWS, 2, "a wrong hand", [added])
    broken = look(drained.places(), verify=True).broken
    assert broken == [
        "3 objects have more than one row for one arrival: doubled.",
        "1 batches hold other numbers of rows than their results counted.",
    ]


def test_a_version_with_feature_rows_of_two_batches_is_found(drained: Settings) -> None:
    home = drained.places()
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    again = {name: rows[name].combine_chunks() for name in FEATURE_ROWS.file_schema.names}
    again["batch"] = [2] * rows.num_rows
    added = write_file(home, FEATURE_ROWS, again, {"ingest_date": str(rows["ingest_date"][0])})
    commit(home, FEATURE_ROWS, 2, "a wrong hand", [added])
    broken = look(drained.places(), verify=True).broken
    assert broken == ["3 versions of photos have feature rows of more than one batch: doubled."]


def test_rows_missing_from_a_committed_batch_are_found(drained: Settings) -> None:
    DeltaTable(drained.places().features.uri).delete("width = 320")
    broken = look(drained.places(), verify=True).broken
    assert broken is not None
    assert any("3 planned objects have no row" in sentence for sentence in broken)


@pytest.fixture
def served(drained: Settings) -> Home:
    """A home whose three photos have a projection in the version that is served."""
    home = drained.places()
    _publish(home, 1)
    _project(home, 1)
    return home


def _publish(home: Home, version: int) -> None:
    pca = fit(moments_of([_vectors(home)], 1280), 2, None)
    featurizer = DeltaTable(home.features.uri).to_pyarrow_table()["featurizer"][0].as_py()
    meta = PcaMeta(version, featurizer, 3, 2, 1.0, datetime.now(UTC), None, None, "a test")
    publish_model(home, PcaModel(meta, pca))
    finish_switch(home, begin_switch(home, version))


def _vectors(home: Home) -> "np.typing.NDArray[np.float32]":
    return np.array(DeltaTable(home.features.uri).to_pyarrow_table()["features"].to_pylist(), np.float32)


def _project(home: Home, version: int, source: str | None = None, value: float = 0.0) -> None:
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    columns = {name: rows[name].combine_chunks() for name in (*KEPT_COLUMNS, "ingested_at")}
    if source is not None:
        columns["source"] = [source] * rows.num_rows
    meta = PcaMeta(version, "", 3, 2, 1.0, datetime.now(UTC), None, None, "a test")
    added = write_projections(
        home, meta, columns, np.full((rows.num_rows, 2), value, np.float32), rows["ingest_date"][0].as_py()
    )
    assert append_once(home, PROJECTION_ROWS, "a test", [added], {}, lambda _: False)


def _broken(home: Home) -> list[str]:
    broken = look(home, verify=True).broken
    assert broken is not None
    return broken


def test_a_home_whose_rows_have_their_projections_is_sound(served: Home) -> None:
    assert _broken(served) == []
    assert look(served, verify=False).pca == Switch(1, None, 0)


def test_a_served_version_that_rows_lack_is_found(served: Home) -> None:
    _publish(served, 2)
    assert _broken(served) == ["3 feature rows have no projection in the served PCA version."]


def test_a_missing_projection_is_found(served: Home) -> None:
    first = DeltaTable(served.features.uri).to_pyarrow_table()["image_id"][0]
    DeltaTable(served.projections.uri).delete(f"image_id = '{first}'")
    assert _broken(served) == [
        "1 feature rows have no projection in the served PCA version.",
        "1 times a batch and a PCA version have other numbers of projections than of photos.",
    ]


def test_doubled_projections_are_found(served: Home) -> None:
    _project(served, 1)
    assert "3 photos have more than one projection in one PCA version: doubled." in _broken(served)


def test_projections_of_no_feature_row_are_found_in_every_version(served: Home) -> None:
    _project(served, 7, source="s3://elsewhere/a.jpg")
    assert "3 projections belong to no feature row." in _broken(served)


def test_projections_that_are_no_numbers_are_found(served: Home) -> None:
    _project(served, 7, value=np.nan)
    assert _broken(served) == ["3 projections are not finite numbers."]


def test_a_switch_under_way_says_how_many_batches_lack_the_next_version(served: Home) -> None:
    _publish(served, 2)
    finish_switch(served, begin_switch(served, 1))
    begin_switch(served, 2)
    assert look(served, verify=False).pca == Switch(1, 2, 1)
