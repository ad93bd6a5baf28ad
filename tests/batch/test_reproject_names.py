"""Names in the rows: those of the fit as if left out, those of the stream as the served version answered."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from batch.erase.erase import ErasureRequest, erase
from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from features.classifier import Classifier, Within, name_rows, softmax, within_labels
from features.label_sums import RowSummer, RowSums
from ops.status.status import read_status
from store.home import Home
from store.models.pca_models import (
    PcaMeta,
    PcaModel,
    begin_switch,
    describe_model,
    load_model,
    next_version,
    publish_model,
)
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.operations import overwrite
from store.settings import Settings, load_settings
from store.tables.labels import said_labels
from tests.support.feature_rows import commit_features, fitted, kinds_of_fruit
from tests.support.pictures import jpeg
from tests.support.said import image_of, say, take_back
from tests.support.stream_run import Run, rows

Vectors = NDArray[np.float32]


def _sums(vectors: Vectors, labels: list[str | None]) -> RowSums:
    summer = RowSummer(vectors.shape[1])
    summer.add(vectors, labels, [None] * len(labels))
    return summer.result()


def _publish(
    home: Home, classifier: Classifier | None, last_batch: int | None, labels_until: datetime | None = None
) -> int:
    version, featurizer = next_version(home), str(current_featurizer(home))
    labels = len(classifier.labels) if classifier else 0
    meta = PcaMeta(version, featurizer, 40, 4, 0.5, datetime.now(UTC), None, None, "a test", last_batch, labels)
    meta = replace(meta, labels_until=labels_until)
    publish_model(home, PcaModel(meta, fitted(), classifier))
    begin_switch(home, version)
    return version


def _left_out(
    within: Within, vectors: Vectors, labels: list[str | None], row: int, copies: list[int]
) -> NDArray[np.float64]:
    """The squared distances of a row to each label by a fit that never saw it and its copies."""
    rest = [place for place in range(len(labels)) if place not in (row, *copies)]
    without = within_labels(_sums(vectors[rest], [labels[place] for place in rest]), 2)
    # The divisor and the target of the shrinkage stay.
    spread = without.spread * without.divisor / within.divisor
    ball = np.trace(within.spread) / len(within.mean) * np.eye(len(within.mean))
    precision = np.linalg.inv(0.8 * spread + 0.2 * ball)
    differences = vectors[row] - without.means
    distances: NDArray[np.float64] = np.einsum("cd,de,ce->c", differences, precision, differences)
    return distances


@pytest.mark.processes
def test_rows_of_the_fit_are_named_as_if_left_out_and_a_version_without_names_stands_beside(
    spark: SparkSession, tmp_path: Path
) -> None:
    settings = load_settings(home=str(tmp_path / "home"))
    home = settings.places()
    publish_featurizer(home, b"a network", "a test", "a test")
    featurizer = str(current_featurizer(home))
    vectors, kinds = kinds_of_fruit(80, 1, spread=3.0)
    labels: list[str | None] = list(kinds)
    # The same bytes: twice under one label, and once under another, which is another row.
    vectors[4], vectors[9] = vectors[0], vectors[0]
    labels[5] = None
    images = [f"{number:064d}" for number in range(80)]
    images[4] = images[9] = images[0]
    columns = {"label": labels, "image_id": images}
    commit_features(home, 1, date(2026, 10, 3), vectors, featurizer, files=3, columns=columns)
    later, their_labels = kinds_of_fruit(20, 2, spread=3.0)
    commit_features(home, 2, date(2026, 10, 4), later, featurizer, columns={"label": their_labels})
    within = within_labels(_sums(vectors, labels), 2)
    classifier = replace(within.classifier(), strange_distances=np.array([1000, 2000], np.float32))
    assert _publish(home, None, None) == 1
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    assert _publish(home, classifier, last_batch=1) == 2

    reproject(spark.sparkContext, home, print, lambda _, __: None)

    sql = "SELECT split_part(source, '/kiwi/', 2) AS key, * FROM projections WHERE pca_version = 2"
    found = {row["key"]: row for row in rows(settings, sql)}
    assert len(found) == 100
    for row, copies in [(0, [4]), (4, [0]), (9, []), (17, [])]:
        distances = _left_out(within, vectors, labels, row, copies)
        shares = softmax(distances[None], 20.0)[0]
        _check(found[f"1-{row}.jpg"], within, distances, shares, in_fit=True)
    own = name_rows(classifier, np.concatenate([vectors[5:6], later]))
    for place, key in enumerate(["1-5.jpg", *(f"2-{number}.jpg" for number in range(20))]):
        row_found = found[key]
        assert (row_found["in_fit"], row_found["predicted"]) == (False, within.labels[own.places[place, 0]])
        assert row_found["distance"] == pytest.approx(own.distances[place], rel=1e-4)
        assert row_found["novelty"] == own.novelties[place]
    names = "predicted, confidence, top3, distance, novelty, in_fit"
    nothing = rows(settings, f"SELECT DISTINCT {names} FROM projections WHERE pca_version = 1")
    assert [set(row.values()) for row in nothing] == [{None}]
    # Back to the one without names, and forth.
    for version in (1, 2):
        begin_switch(home, version)
        reproject(spark.sparkContext, home, print, lambda _, __: None)
        named = rows(settings, "SELECT count(predicted) AS named, count(*) AS n FROM current_projections")
        assert named == [{"named": 100 if version == 2 else 0, "n": 100}]
    assert read_status(home, verify=True).broken == []


def test_rows_are_left_out_under_the_labels_that_counted_at_the_fit_whatever_is_said_later(
    spark: SparkSession, tmp_path: Path
) -> None:
    settings = load_settings(home=str(tmp_path / "home"))
    home, day = settings.places(), date(2026, 10, 3)
    publish_featurizer(home, b"a network", "a test", "a test")
    vectors, kinds = kinds_of_fruit(80, 1, spread=3.0)
    folders: list[str | None] = [*kinds[:3], None, *kinds[4:]]
    commit_features(home, 1, day, vectors, str(current_featurizer(home)), files=2, columns={"label": folders})
    # One other label, one that never had any, one that is no fruit; one stays as its folder says.
    counting: list[str | None] = ["kind-2", kinds[1], None, kinds[3], *kinds[4:]]
    for place in (0, 2, 3):
        say(home, [image_of(1, place)], counting[place], day)
    within = within_labels(_sums(vectors, counting), 2)
    classifier = replace(within.classifier(), strange_distances=np.array([1000, 2000], np.float32))
    _publish(home, classifier, 1, said_labels(home).said_until)
    say(home, [image_of(1, 1), image_of(1, 7)], "kind-0", day)
    take_back(home, [image_of(1, 0), image_of(1, 3)], day)

    reproject(spark.sparkContext, home, print, lambda _, __: None)

    found = {row["source"].split("-")[-1]: row for row in rows(settings, "SELECT * FROM projections")}
    for place in (0, 1, 3, 7):
        distances = _left_out(within, vectors, counting, place, [])
        _check(found[f"{place}.jpg"], within, distances, softmax(distances[None], 20.0)[0], in_fit=True)
    assert (found["2.jpg"]["in_fit"], found["0.jpg"]["label"], found["3.jpg"]["label"]) == (False, kinds[0], None)


def _check(
    row: dict[str, Any], within: Within, distances: NDArray[np.float64], shares: NDArray[np.float32], in_fit: bool
) -> None:
    order = np.argsort(distances)[:3]
    assert row["in_fit"] == in_fit
    assert row["predicted"] == within.labels[order[0]]
    assert row["distance"] == pytest.approx(distances[order[0]], rel=2e-3)
    assert row["confidence"] == pytest.approx(shares[order[0]], abs=5e-3)
    assert [top["label"] for top in row["top3"]] == [within.labels[place] for place in order]
    assert [top["confidence"] for top in row["top3"]] == pytest.approx(shares[order], abs=5e-3)


@pytest.mark.processes
def test_the_answer_is_what_the_served_version_said_and_a_stream_goes_on_when_an_erasure_takes_its_names(
    spark: SparkSession, local_settings: Callable[..., Settings], drain: Callable[[Settings], Run]
) -> None:
    settings = local_settings()
    home = settings.places()

    def land(name: str, *seeds: int) -> None:
        for seed in seeds:
            overwrite(home.landing, f"{('kiwi', 'plum')[seed % 2]}/{name}-{seed}.jpg", jpeg(seed))

    def fit() -> None:
        options = RefitOptions(2, None, 2, min_label_rows=2)
        refit(spark.sparkContext, home, options, False, False, lambda _, __: None)

    land("before", *range(6))
    drain(settings)
    fit()
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    land("served", 10, 11)
    drain(settings)
    fit()
    land("switching", 20)
    drain(settings)

    sql = """
        SELECT source, split_part(split_part(source, '/', -1), '-', 1) AS came, pca_version, in_fit,
               answer, answer_version, answer_confidence, predicted, confidence
        FROM features AS f JOIN projections AS p USING (source) WHERE came <> 'before'
        ORDER BY pca_version, source
    """
    found = rows(settings, sql)
    assert sorted((row["came"], row["pca_version"]) for row in found) == [
        *[("served", 1)] * 2,
        ("switching", 1),
        ("switching", 2),
    ]
    for row in found:
        assert (row["answer_version"], row["in_fit"]) == (1, False)
        assert row["answer"] in ("kiwi", "plum")
        if row["pca_version"] == 1:
            assert (row["answer"], row["answer_confidence"]) == (row["predicted"], row["confidence"])
    first = rows(settings, "SELECT DISTINCT answer, answer_confidence, answer_version FROM features WHERE batch = 1")
    assert [set(row.values()) for row in first] == [{None}]

    # The workers of this session hold both versions.
    certificate = erase(home, ErasureRequest("source", "kiwi/before-0.jpg"), print, lambda _, __: None)
    assert certificate.removed["classifiers"] == 2
    land("after", 30)
    drain(settings)
    after = rows(settings, sql.replace("<> 'before'", "= 'after'"))
    assert [(row["pca_version"], row["answer"], row["predicted"], row["in_fit"]) for row in after] == [
        (1, None, None, None),
        (2, None, None, None),
    ]
    # What was said of others' photos stays.
    assert [row for row in rows(settings, sql) if row["came"] != "after"] == found
    assert [describe_model(home, version).labels for version in (1, 2)] == [0, 0]
    assert load_model(home, 2).classifier is None
    assert read_status(home, verify=True).broken == []
