"""A home that goes to another network and back has each photo once, complete, in the served network."""

from collections.abc import Callable

import pytest
from pyspark.sql import SparkSession

from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.models.pca_models import begin_switch, current_models
from store.models.registry import current_featurizer
from store.settings import Settings
from tests.batch.refeaturize.test_refeaturize import _photos, _publish, _refeaturize
from tests.support.stream_run import Run, drop, rows


def _reproject(spark: SparkSession, settings: Settings) -> None:
    reproject(spark.sparkContext, settings.places(), print, lambda _, __: None)
    assert read_status(settings.places(), verify=True).broken == []


def _refit(spark: SparkSession, settings: Settings) -> int:
    options = RefitOptions(2, None, 2, min_label_rows=1)
    return refit(spark.sparkContext, settings.places(), options, False, False, lambda _, __: None).meta.version


def _shown(settings: Settings) -> list[dict[str, object]]:
    return [
        rows(settings, f"SELECT count(*) AS n, count(DISTINCT source) AS k, any_value(featurizer) AS f FROM {view}")[0]
        for view in ("photos", "current_projections")
    ]


@pytest.mark.processes
def test_to_another_network_and_back(
    spark: SparkSession,
    drain: Callable[[Settings], Run],
    local_settings: Callable[..., Settings],
    untrained: CompiledNetwork,
) -> None:
    settings = local_settings(clean="archive")
    home, first = settings.places(), str(current_featurizer(settings.places()))
    drop(settings, _photos("kiwi", 1) | _photos("lime", 11))
    drain(settings)
    assert _refit(spark, settings) == 1
    _reproject(spark, settings)

    second = _publish(settings, untrained, copy_px=320)
    drop(settings, _photos("kiwi", 21))
    drain(settings)
    _refeaturize(spark, settings)
    assert read_status(home, verify=True).broken == []
    assert _shown(settings) == [{"n": 9, "k": 9, "f": first}] * 2
    assert _refit(spark, settings) == 2
    _reproject(spark, settings)
    assert current_models(home).versions == (2,)
    assert _shown(settings) == [{"n": 9, "k": 9, "f": second}] * 2

    drop(settings, _photos("lime", 31))
    drain(settings)
    begin_switch(home, 1)
    drop(settings, _photos("lime", 41))
    drain(settings)
    [_, back] = _refeaturize(spark, settings)
    assert (back.featurizer, back.rows) == (first, 3)
    assert read_status(home, verify=True).broken == []
    _reproject(spark, settings)
    assert current_models(home).versions == (1,)
    assert _shown(settings) == [{"n": 15, "k": 15, "f": first}] * 2
