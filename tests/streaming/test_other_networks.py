"""A home whose network takes other pictures and gives other vectors, and one that switches to such a network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from batch.maintain.networks_out_of_use import prune_features
from batch.refeaturize.refeaturize import RefeaturizeOptions, refeaturize
from batch.refit.refit import NetworkToFit, RefitOptions, network_to_fit, refit
from batch.reproject import reproject
from bootstrap.weights.weights import CompiledNetwork, compile_weights
from features.featurizer import Featurizer, Recipe
from features.image import decode
from ops.status.status import read_status
from store.errors import NetworkIncomplete
from store.models.pca_models import begin_switch, current_models
from store.models.registry import current_featurizer, describe_featurizer
from store.settings import Settings
from tests.support.command_run import run_fruits
from tests.support.crashing_decoder.sitecustomize import SEGFAULT
from tests.support.feature_rows import serve_a_model
from tests.support.pictures import encoded, jpeg, pixels
from tests.support.stream_run import Run, drop, rows, with_featurizer

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.xdist_group("tensorflow")

PX, LENGTH, PHOTOS = 48, 576, 5


@pytest.fixture(scope="module")
def other() -> CompiledNetwork:
    return compile_weights(f"untrained:7:mobilenet_v3_small@{PX}", print)


def _land(settings: Settings, label: str, seed: int) -> dict[str, bytes]:
    bodies = {f"{label}/{seed + n}.jpg": jpeg(seed=seed + n, width_px=160, height_px=120) for n in range(PHOTOS)}
    drop(settings, bodies)
    return bodies


def _serve(spark: SparkSession, settings: Settings) -> int:
    version = _refit(spark, settings)
    reproject(spark.sparkContext, settings.places(), print, lambda _, __: None)
    return version


def _refit(spark: SparkSession, settings: Settings, featurizer: str | None = None) -> int:
    options = RefitOptions(2, None, 2, min_label_rows=1, featurizer=featurizer)
    return refit(spark.sparkContext, settings.places(), options, False, False, lambda _, __: None).meta.version


def _refeaturize(spark: SparkSession, settings: Settings) -> int:
    options = RefeaturizeOptions(settings.limits, share=1.0)
    done = refeaturize(spark.sparkContext, settings.places(), options, print, lambda _, __: None)
    assert [one.lost for one in done] == [{}] * len(done)
    return sum(one.rows for one in done)


def _check_shows(settings: Settings, featurizer: str, photos: int) -> None:
    """Each photo is shown once, and all in this network."""
    assert current_models(settings.places()).featurizer == featurizer
    for view in ("photos", "current_projections", "ingested_photos"):
        shown = rows(
            settings, f"SELECT count(*) AS n, count(DISTINCT source) AS photos, any_value(featurizer) AS f FROM {view}"
        )
        assert shown == [{"n": photos, "photos": photos, "f": featurizer}]
    assert read_status(settings.places(), verify=True).broken == []


def _asked(settings: Settings, *arguments: str) -> list[dict[str, Any]]:
    ended = run_fruits(*arguments, "--home", settings.home, "--format", "json")
    assert ended.returncode == 0, ended
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.processes
def test_a_home_that_switches_has_each_photo_once_and_mixes_nothing(
    spark: SparkSession, drain: Drain, local_settings: MakeSettings, other: CompiledNetwork, tmp_path: Path
) -> None:
    settings = local_settings()
    home, first = settings.places(), str(current_featurizer(settings.places()))
    before = _land(settings, "kiwi", 1) | _land(settings, "lime", 11)
    drain(settings)
    assert _serve(spark, settings) == 1

    second = str(current_featurizer(with_featurizer(settings, other).places()))
    assert describe_featurizer(home, second).input_px == PX
    # One of them ends its decoder, so that the others are decoded in processes of their own.
    crashing = {"kiwi/crashes.jpg": encoded(pixels(seed=40), "JPEG", comment=SEGFAULT)}
    drop(settings, crashing)
    after = _land(settings, "kiwi", 21) | _land(settings, "lime", 31)
    drain(settings)

    lengths = rows(settings, "SELECT featurizer, len(features) AS n, count(*) AS rows FROM features GROUP BY ALL")
    assert sorted((row["featurizer"], row["n"], row["rows"]) for row in lengths) == sorted(
        [(first, 1280, len(before | after)), (second, LENGTH, len(after))]
    )
    network = Featurizer(other.network)
    for key in list(after)[:2]:
        [row] = rows(
            settings, f"SELECT features FROM features WHERE ends_with(source, '{key}') AND featurizer = '{second}'"
        )
        expected = network.features(decode(after[key], settings.limits, Recipe(PX)).pixels[None])[0]
        np.testing.assert_allclose(row["features"], expected, rtol=1e-4, atol=1e-5)
    # What is served goes on, with each photo once, until another version is made.
    _check_shows(settings, first, len(before | after))

    # As long as photos lack rows of the newest network, a refit goes on with the served one.
    found = network_to_fit(home)
    assert (found.featurizer, str(found.newer)) == (first, f"Featurizer {second} has rows of 10 of 20 photos")
    assert [one.featurizer for one in read_status(home, verify=False).networks if one.lacking] == [second]
    assert _serve(spark, settings) == 2
    assert current_models(home).featurizer == first
    _refit(spark, settings, featurizer=second)
    with pytest.raises(NetworkIncomplete, match="rows of 10 of 20 photos; run `fruits refeaturize`"):
        reproject(spark.sparkContext, home, print, lambda _, __: None)

    assert _refeaturize(spark, settings) == len(before)
    assert network_to_fit(home) == NetworkToFit(second)
    assert _serve(spark, settings) == 4
    _check_shows(settings, second, len(before | after))

    # The stream makes no more rows of the network that was served.
    more = _land(settings, "kiwi", 51)
    drain(settings)
    _check_shows(settings, second, len(before | after | more))
    [made] = rows(settings, f"SELECT count(*) AS n FROM features WHERE featurizer = '{first}'")
    assert made["n"] == len(before | after)

    # And back.
    begin_switch(home, 2)
    more |= _land(settings, "lime", 61)
    drain(settings)
    with pytest.raises(NetworkIncomplete, match="rows of 25 of 30 photos"):
        reproject(spark.sparkContext, home, print, lambda _, __: None)
    assert _refeaturize(spark, settings) == PHOTOS
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    _check_shows(settings, first, len(before | after | more))
    begin_switch(home, 4)
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    _check_shows(settings, second, len(before | after | more))
    assert prune_features(home, print).dropped == {first: len(before | after | more)}
    _check_shows(settings, second, len(before | after | more))

    photo = tmp_path / "photo.jpg"
    photo.write_bytes(next(iter(after.values())))
    [said] = _asked(settings, "identify", str(photo))
    assert said["version"] == 4
    assert said["predicted"] in {"kiwi", "lime"}
    near = _asked(settings, "similar", str(photo))
    assert near[0]["distance"] == pytest.approx(0, abs=1e-3)
    for query in ("drift", "centroids"):
        assert _asked(settings, "query", query) is not None
    assert _asked(settings, "query", "nearest", "--image", str(near[0]["image_id"]))
    assert run_fruits("report", "--home", settings.home).returncode == 0


def test_a_batch_planned_before_a_network_was_served_gets_rows_of_it(
    drain: Drain, local_settings: MakeSettings, other: CompiledNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = local_settings()
    first = str(current_featurizer(settings.places()))
    serve_a_model(settings.places())
    second = str(current_featurizer(with_featurizer(settings, other).places()))
    _land(settings, "kiwi", 1)
    # The planner looks at the pointer, sleeps while a switch runs to its end, and then plans.
    monkeypatch.setattr("streaming.planner.featurizers_in_use", lambda _, newest, __: (newest,))
    drain(settings)
    found = rows(settings, "SELECT featurizer, count(*) AS n FROM features GROUP BY ALL")
    assert {row["featurizer"]: row["n"] for row in found} == {first: PHOTOS, second: PHOTOS}
    assert rows(settings, "SELECT count(*) AS n FROM photos") == [{"n": PHOTOS}]
    assert read_status(settings.places(), verify=True).broken == []


def test_rows_of_another_length_than_the_network_gives_are_found(
    drain: Drain, local_settings: MakeSettings, other: CompiledNetwork
) -> None:
    settings = with_featurizer(local_settings(), other)
    _land(settings, "kiwi", 1)
    drain(settings)
    home = settings.places()
    assert read_status(home, verify=True).broken == []
    meta = home.featurizers.directory / str(current_featurizer(home)) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"length": LENGTH + 1}))
    assert read_status(home, verify=True).broken == [
        f"{PHOTOS} feature rows are not as many finite numbers as their featurizer gives."
    ]
