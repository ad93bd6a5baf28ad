"""Photos get features of another network from what is left of them, each once, whatever else goes on."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from batch.erase.erase import ErasureRequest, erase
from batch.maintain.maintain import Retention, maintain
from batch.refeaturize import refeaturize as module
from batch.refeaturize.refeaturize import Refeaturization, RefeaturizeOptions, refeaturize
from batch.refeaturize.report import read_report
from bootstrap.weights.weights import CompiledNetwork
from features.errors import InvalidWeights
from features.featurizer import Featurizer, Recipe
from features.image import decode
from ops.status.status import read_status
from store.home import Home
from store.models.pca_models import name_served_featurizer
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.landing import archived_name, list_landed
from store.settings import Settings
from store.tables.files import data_files
from store.tables.handles import open_table, open_tables
from store.tables.lacking import lacking
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, drop, rows

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

FEW = 3


def _photos(label: str, seed: int, count: int = FEW) -> dict[str, bytes]:
    return {f"{label}/{seed + n}.jpg": jpeg(seed=seed + n, width_px=480, height_px=360) for n in range(count)}


def _publish(settings: Settings, network: CompiledNetwork, copy_px: int | None) -> str:
    """Make the same network with other pixels the home's newest featurizer."""
    home = settings.places()
    name_served_featurizer(home)
    return publish_featurizer(
        home, network.network, network.source, network.fingerprint, kind=network.kind, copy_px=copy_px
    ).id


def _refeaturize(spark: SparkSession, settings: Settings, **options: Any) -> list[Refeaturization]:
    said: list[str] = []
    chosen = RefeaturizeOptions(settings.limits, share=1.0, **options)
    return refeaturize(spark.sparkContext, settings.places(), chosen, said.append, lambda _, __: None)


def _rows_of(settings: Settings, featurizer: str) -> dict[str, dict[str, Any]]:
    found = rows(settings, f"SELECT * FROM features WHERE featurizer = '{featurizer}'")
    by_key = {row["source"].partition("/landing/")[2]: row for row in found}
    assert len(by_key) == len(found)
    return by_key


def _lacks(home: Home, featurizer: str) -> int:
    return sum(lacking(home, open_tables(home), featurizer, with_lost=True).values())


def test_photos_come_from_copies_the_archive_and_the_landing(
    spark: SparkSession, drain: Drain, local_settings: MakeSettings, untrained: CompiledNetwork
) -> None:
    settings = local_settings(clean="archive")
    home, first = settings.places(), str(current_featurizer(settings.places()))
    archived = _photos("kiwi", 1)
    drop(settings, archived)
    drain(settings)
    kept = settings.model_copy(update={"clean": "keep"})
    landed = _photos("lime", 11)
    drop(settings, landed)
    drain(kept)
    second = _publish(settings, untrained, copy_px=300)
    copied = _photos("plum", 21)
    drop(settings, copied)
    drain(kept.model_copy(update={"copies": True}))
    third = _publish(settings, untrained, copy_px=320)
    shutil.rmtree(home.landing.directory / "plum")

    done = _refeaturize(spark, settings)
    assert [(one.featurizer, one.rows, one.places, one.lost) for one in done] == [
        (third, 9, {"copy": 3, "archive": 3, "landing": 3}, {}),
        (first, 0, {}, {}),
    ]
    assert _rows_of(settings, second).keys() == copied.keys()
    before, after = _rows_of(settings, first), _rows_of(settings, third)
    assert before.keys() == after.keys() == {*archived, *landed, *copied}
    for key, row in after.items():
        assert row | {"features": None, "featurizer": first} == before[key] | {"features": None}
    network = Featurizer(untrained.network)
    for key in (*archived, *landed):
        body = (archived | landed)[key]
        expected = network.features(decode(body, settings.limits, Recipe(copy_px=320)).pixels[None])[0]
        np.testing.assert_allclose(after[key]["features"], expected, rtol=1e-5, atol=1e-6)
    assert read_status(home, verify=True).broken == []
    assert all(file.network for file in data_files(open_table(home, FEATURE_ROWS)))

    again = _refeaturize(spark, settings)
    assert [one.rows for one in again] == [0, 0]
    assert read_report(home, third) is None
