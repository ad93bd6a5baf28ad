"""The stream follows a refit without a stop, and a query sees one PCA version, complete, at every moment."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from batch.refit.refit import RefitOptions, refit
from batch.reproject import Reprojection, reproject
from ops.query.query import connect_to, run_query, take_snapshot
from ops.status.status import read_status
from store.home import Home
from store.models.pca_models import current_models, load_model
from store.models.registry import current_featurizer
from store.settings import Settings
from store.tables.handles import committed_batch, open_table
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, rows, stream_process

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

OLD_DAYS = [date(2026, 10, 3), date(2026, 10, 4), date(2026, 10, 6)]
ROWS_A_DAY = 20
_COMPLETE = """
    SELECT count(*) AS projected, count(DISTINCT pca_version) AS versions, count(DISTINCT (batch, source)) AS photos,
           (SELECT count(*) FROM features WHERE batch <= {committed}) AS expected
    FROM current_projections
"""


@contextmanager
def _again_and_again(step: Callable[[], None], pause_s: float) -> Iterator[None]:
    """Repeat a step in a thread of its own for as long as the block lasts."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(pause_s):
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Arrivals:
    """Photos that land one after the other."""

    def __init__(self, landing: Path) -> None:
        self.count = 0
        self._landing = landing

    def land(self) -> None:
        unfinished = self._landing / f".{self.count}.jpg"
        unfinished.write_bytes(jpeg(seed=self.count))
        unfinished.rename(self._landing / f"{self.count}.jpg")
        self.count += 1


class Looks:
    """What a query and `status --verify` saw again and again."""

    def __init__(self, home: Home) -> None:
        self.served: list[int | None] = []
        self.wrong: list[Any] = []
        self._home = home

    def wait_for(self, version: int | None) -> None:
        _wait_until(lambda: version in self.served)

    def look(self) -> None:
        try:
            self._look_once()
        except Exception as error:
            self.wrong.append(error)

    def _look_once(self) -> None:
        snapshot = take_snapshot(self._home)
        committed = committed_batch(snapshot.tables["projections"])
        [seen] = run_query(connect_to(snapshot), _COMPLETE.format(committed=committed)).to_pylist()
        self.served.append(snapshot.models.serving)
        complete = seen["versions"] == 1 and seen["projected"] == seen["photos"] == seen["expected"]
        if snapshot.models.serving is not None and not complete:
            self.wrong.append((snapshot.models, seen))
        self.wrong += read_status(self._home, verify=True).broken or []


def _refit(spark: SparkSession, home: Home, components: int) -> int:
    done = refit(spark.sparkContext, home, RefitOptions(components, None, 2), False, False, lambda _, __: None)
    return done.meta.version


@pytest.mark.processes
def test_a_query_sees_one_complete_version_while_photos_arrive_and_processes_are_killed(
    spark: SparkSession, drain: Drain, local_settings: MakeSettings
) -> None:
    settings = local_settings()
    home = settings.places()
    home.landing.create()
    featurizer = str(current_featurizer(home))
    for batch, day in enumerate(OLD_DAYS, start=1):
        commit_features(home, batch, day, feature_vectors(ROWS_A_DAY, batch), featurizer)

    arrivals, looks = Arrivals(home.landing.directory), Looks(home)
    with _again_and_again(arrivals.land, 0.4), _again_and_again(looks.look, 1.5):
        looks.wait_for(None)
        with stream_process(settings) as stream:
            assert _refit(spark, home, 3) == 1
            reproject(spark.sparkContext, home, print, lambda _, __: None)
            assert current_models(home).versions == (1,)
            _wait_for_photos(settings, more=1)

            assert _refit(spark, home, 4) == 2
            _kill_a_reprojection_after_its_first_day(settings)
            _wait_for_photos(settings, more=2)
            os.killpg(stream.pid, signal.SIGKILL)
        assert current_models(home).versions == (1, 2)
        _let_the_lease_end(home)
        drain(settings)
        done = reproject(spark.sparkContext, home, print, lambda _, __: None)
        assert done is not None
        assert 0 < done.days <= len(OLD_DAYS)
        assert current_models(home).versions == (2,)
        looks.wait_for(2)

    drain(settings)
    assert looks.wrong == []
    assert looks.served == sorted(looks.served, key=lambda version: version or 0)
    assert set(looks.served) == {None, 1, 2}
    photos = len(OLD_DAYS) * ROWS_A_DAY + arrivals.count
    counted = rows(
        settings, "SELECT count(*) AS n, any_value(pca_version) AS v, min(len(pca)) AS k FROM current_projections"
    )
    assert counted == [{"n": photos, "v": 2, "k": 4}]
    assert read_status(home, verify=True).broken == []


def _wait_for_photos(settings: Settings, more: int) -> None:
    """Until that many more batches are committed: the stream is up, and goes on."""
    home = settings.places()
    until = committed_batch(open_table(home, FEATURE_ROWS)) + more
    _wait_until(lambda: committed_batch(open_table(home, FEATURE_ROWS)) >= until)


def _wait_until(so: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 120
    while not so():
        assert time.monotonic() < give_up_s
        time.sleep(0.2)


def _kill_a_reprojection_after_its_first_day(settings: Settings) -> None:
    command = [sys.executable, "-m", "ops", "reproject", "--home", settings.home, "--master", "local[1,4]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        log = settings.places().projections.directory / "_delta_log"
        while not any('"fruits.pca_version":"2"' in entry.read_text() for entry in log.glob("*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def _let_the_lease_end(home: Home) -> None:
    lease = home.state.directory / "lease.json"
    left = json.loads(lease.read_text())
    assert datetime.fromisoformat(left["until"]) > datetime.now(UTC) - timedelta(minutes=5)
    lease.write_text(json.dumps(left | {"until": "2026-01-01T00:00:00Z"}))


def test_a_batch_planned_before_a_switch_began_is_projected_with_the_next_version_too(
    spark: SparkSession, drain: Drain, local_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = local_settings()
    home = settings.places()
    commit_features(home, 1, OLD_DAYS[0], feature_vectors(ROWS_A_DAY, 1), str(current_featurizer(home)))
    landing = home.landing.directory
    (landing / "pear").mkdir(parents=True)
    (landing / "pear/1.jpg").write_bytes(jpeg(seed=1))
    # The planner looks at the pointer, sleeps while a refit and a reprojection run to their end, and then plans.
    monkeypatch.setattr("streaming.planner.versions_to_project", lambda *_: ())
    _refit(spark, home, 3)
    assert reproject(spark.sparkContext, home, print, lambda _, __: None) == Reprojection(1, ROWS_A_DAY, 1)

    [report] = drain(settings).reports

    assert (report.photos, report.pca_versions) == (1, (1,))
    assert rows(settings, "SELECT count(*) AS n FROM current_projections") == [{"n": ROWS_A_DAY + 1}]
    one = "SELECT features, pca FROM features f JOIN current_projections USING (source) WHERE f.label = 'pear'"
    [photo] = rows(settings, one)
    model = load_model(home, 1).pca
    expected = (np.array(photo["features"]) - model.mean) @ model.components.T
    np.testing.assert_allclose(photo["pca"], expected, rtol=1e-5)
    assert read_status(home, verify=True).broken == []
