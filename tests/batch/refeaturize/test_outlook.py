"""The command tells what there is to do before it does it, and what it did."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from batch.maintain.compaction import compact, groups_to_compact
from batch.refeaturize.outlook import Outlook, outlooks
from bootstrap.weights.weights import CompiledNetwork, compile_weights
from features.featurizer import Featurizer, Recipe
from features.image import decode
from ops.cli.photos import refeaturize as command
from ops.status.status import read_status
from store.models.pca_models import name_served_featurizer
from store.models.registry import current_featurizer, publish_featurizer
from store.settings import Settings
from tests.support.command_run import run_fruits
from tests.support.ingested import ingest
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, drop, rows, with_featurizer

MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.xdist_group("tensorflow")

PX, LENGTH = 48, 576


@pytest.fixture(scope="module")
def other() -> CompiledNetwork:
    return compile_weights(f"untrained:7:mobilenet_v3_small@{PX}", print)


@pytest.mark.processes
def test_photos_of_a_home_that_switches_to_a_network_of_another_kind(
    spark: SparkSession,
    drain: Callable[[Settings], Run],
    local_settings: MakeSettings,
    other: CompiledNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = local_settings(clean="archive")
    home, first = settings.places(), str(current_featurizer(settings.places()))
    here = ("--home", settings.home)
    nothing = run_fruits("refeaturize", *here)
    assert (nothing.returncode, "Nothing was ingested" in nothing.stdout + nothing.stderr) == (0, True)
    bodies = {f"kiwi/{n}.jpg": jpeg(seed=n, width_px=300, height_px=200) for n in range(4)}
    drop(settings, bodies)
    drain(settings)
    assert run_fruits("refeaturize", *here).stdout == f"Featurizer {first}: no photo lacks it.\n"

    name_served_featurizer(home)
    second = str(current_featurizer(with_featurizer(settings, other).places()))
    drop(settings, {"kiwi/late.jpg": jpeg(seed=9)})
    drain(settings)
    for name in ("0", "1"):
        [found] = (home.archive.directory / "kiwi").glob(f"{name}.*.jpg")
        found.unlink()
    assert outlooks(home) == [
        Outlook(second, 4, 1, 0, {"archive": 2, "gone": 2}),
        Outlook(first, 0, 0, 0, {}),
    ]
    told = run_fruits("refeaturize", "--dry-run", *here)
    assert told.stdout.splitlines() == [
        f"Featurizer {second}: 4 photos of 1 day lack it; 0 have a copy. "
        "Of 4 without one, 4 were looked up: 2 in the archive, 2 gone.",
        f"Featurizer {first}: no photo lacks it.",
    ]

    @contextmanager
    def spark_job(*_: object) -> Iterator[SparkContext]:
        yield spark.sparkContext

    monkeypatch.setattr(command, "spark_job", spark_job)
    done = run_fruits("refeaturize", *here)
    assert done.returncode == 0, done.stderr
    report = f"{home.reports.uri}/refeaturize/{second}.json"
    assert done.stdout.splitlines() == [
        f"Featurizer {second}: 2 photos of 1 day got features (2 from the archive).",
        "Next: fruits refit --reproject",
        f"2 photos cannot be had (2 missing); {report} counts them by day. The next run looks for them again.",
    ]
    assert "1 task at a time, on 2 cores." in done.stderr
    written = json.loads(home.reports.directory.joinpath(f"refeaturize/{second}.json").read_text())
    assert list(written["lost"].values()) == [{"missing": 2}]
    network = Featurizer(other.network)
    made = rows(settings, f"SELECT source, features FROM features WHERE featurizer = '{second}' ORDER BY source")
    assert [row["source"].rpartition("/")[2] for row in made] == ["2.jpg", "3.jpg", "late.jpg"]
    for row in made[:2]:
        pixels = decode(bodies[f"kiwi/{row['source'].rpartition('/')[2]}"], settings.limits, Recipe(PX)).pixels
        np.testing.assert_allclose(row["features"], network.features(pixels[None])[0], rtol=1e-4, atol=1e-5)
        assert len(row["features"]) == LENGTH
    assert read_status(home, verify=True).broken == []


def test_copies_count_also_when_files_of_several_batches_became_one(local_settings: MakeSettings) -> None:
    settings = local_settings(copies=True)
    home = settings.places()
    for numbers in (range(2), range(2, 5)):
        drop(settings, {f"kiwi/{n}.jpg": jpeg(seed=n, width_px=300, height_px=200) for n in numbers})
        ingest(settings)
    name_served_featurizer(home)
    first = str(current_featurizer(home))
    second = publish_featurizer(home, b"a network that nobody runs", "a test", "a test").id
    in_a_while = datetime.now(UTC) + timedelta(days=2)
    assert len(list(compact(home, groups_to_compact(home, in_a_while), check=lambda: None))) == 2
    assert outlooks(home) == [Outlook(second, 5, 1, 5, {}), Outlook(first, 0, 0, 0, {})]
