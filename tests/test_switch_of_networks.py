"""A switch to another network and back is killed again and again, and each photo is shown once at every moment."""

import random
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ops.query.query import connect, run_query
from ops.status.status import read_status
from store.home import Home
from store.models.pca_models import (
    PcaMeta,
    PcaModel,
    begin_switch,
    current_models,
    describe_model,
    finish_switch,
    publish_model,
)
from store.models.registry import current_featurizer
from store.settings import load_settings
from tests.support.feature_rows import commit_features, feature_vectors, fitted
from tests.support.networks import add_rows, make_newest

DAYS, BATCHES_A_DAY, PHOTOS, KILLS = 6, 3, 4, 5
ROOT = Path(__file__).parents[1]
DRIVER = """
import sys
from batch.reproject import reproject
from store.models.pca_models import begin_switch, current_models
from store.settings import load_settings
from tests.support.spark_here import SparkHere
home = load_settings(home=sys.argv[1]).places()
print("began", flush=True)
begin_switch(home, int(sys.argv[2]))
reproject(SparkHere(), home, print, lambda _, __: None)
print("done", flush=True)
"""


def _run(home: Home, version: int, lives_s: float | None) -> bool:
    """Switch to a version, or be killed after so long; says whether it ended."""
    (home.state.directory / "lease.json").unlink(missing_ok=True)
    command = [sys.executable, "-c", DRIVER, str(home.root.directory), str(version)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        if lives_s is not None:
            time.sleep(lives_s)
            process.send_signal(signal.SIGKILL)
        return process.stdout.read().endswith("done\n")


def _check_is_whole(home: Home) -> None:
    current = current_models(home)
    assert current.serving is not None
    assert current.featurizer == describe_model(home, current.serving).featurizer
    photos = DAYS * BATCHES_A_DAY * PHOTOS
    for view in ("photos", "current_projections", "ingested_photos"):
        sql = f"SELECT count(*) AS n, count(DISTINCT source) AS k, any_value(featurizer) AS f FROM {view}"
        assert run_query(connect(home), sql).to_pylist() == [{"n": photos, "k": photos, "f": current.featurizer}]
    assert read_status(home, verify=True).broken == []


@pytest.mark.processes
def test_ten_kills_of_the_switch_and_the_way_back_lose_and_double_nothing(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    make_newest(home, "first", 1280)
    for batch in range(DAYS * BATCHES_A_DAY):
        day = date(2026, 10, 1 + batch // BATCHES_A_DAY)
        commit_features(home, batch + 1, day, feature_vectors(PHOTOS, batch), "first")
    now = datetime.now(UTC)
    for version, featurizer in ((1, "first"), (2, "second")):
        meta = PcaMeta(version, featurizer, 40, 4, 0.5, now, None, None, "a test", last_batch=0)
        publish_model(home, PcaModel(meta, fitted()))
    assert _run(home, 1, None)
    make_newest(home, "second", 1280)
    add_rows(home, "second", 1280)
    assert current_featurizer(home) == "second"
    _check_is_whole(home)

    chance = random.Random(23)
    for version, other in ((2, 1), (1, 2)):
        for _ in range(KILLS):
            if _run(home, version, chance.uniform(0, 0.3)):
                # It was faster: the next one begins anew.
                finish_switch(home, begin_switch(home, other), describe_model(home, other).featurizer)
            _check_is_whole(home)
        assert _run(home, version, None)
        _check_is_whole(home)
        assert current_models(home).versions == (version,)
