"""Who is forgotten is in no label's mean any more, wherever the erasure is killed, and other fruit keep their names."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession
from typer.testing import CliRunner

import batch.erase.rows as rows_module
import batch.refit.refit as refit_module
import ops.cli.refit as command
import store.models.pca_models as models_module
from batch.days import list_days, sum_rows
from batch.erase.certificates import Certificate
from batch.erase.erase import ErasureRequest, erase
from batch.refit.refit import RefitOptions, refit
from features.classifier import Classifier, within_labels
from features.featurizer import FEATURES
from features.label_sums import RowSums, merge_sums
from ops.cli.main import app
from ops.status.status import read_status
from store.errors import HomeInUse, StateDamaged
from store.home import Home
from store.models.pca_models import (
    NAMES_ERASED,
    PcaMeta,
    PcaModel,
    begin_switch,
    current_models,
    describe_model,
    finish_switch,
    load_model,
    next_version,
    publish_model,
    write_copies,
)
from store.models.registry import current_featurizer
from store.objects.operations import keys_below, overwrite, read
from store.objects.versions import list_versions
from store.settings import Settings
from store.state.erasures import begin_erasure
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS
from tests.support.feature_rows import fitted
from tests.support.ingested import ingest
from tests.support.pictures import jpeg
from tests.support.stream_run import rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MakeSettings = Callable[..., Settings]
PATTERN = r"^(?P<subject>[^/]+)/(?P<label>[^/]+)/"
ANNA, BEN = "anna-4711", "ben-0815"
OTHERS = (BEN, "carl-1", "dora-2")


@pytest.fixture
def on_disk(local_settings: MakeSettings) -> Settings:
    return local_settings(key_pattern=PATTERN)


def _fill(settings: Settings) -> None:
    """Batch 1 has no photo of hers, batch 2 has; nobody but the others photographed limes."""
    seed = 0
    for batch in (1, 2):
        for name in (ANNA, *OTHERS) if batch == 2 else OTHERS:
            for label in ("kiwi", "plum") if name == ANNA else ("kiwi", "plum", "lime", "pear"):
                overwrite(settings.places().landing, f"{name}/{label}/{batch}.jpg", jpeg(seed, 16, 16))
                seed += 1
        ingest(settings)


def _sums(home: Home) -> RowSums:
    featurizer = str(current_featurizer(home))
    return merge_sums((sum_rows(home, featurizer, FEATURES, day)[0] for day in list_days(home)), FEATURES)


def _publish(home: Home, labels: tuple[str, ...] | None, last_batch: int, copies: bool = True) -> int:
    """Publish and serve a version that names some labels, or all."""
    fit = within_labels(_sums(home), 2).classifier()
    classifier = fit if labels is None else _only(fit, labels)
    version, featurizer = next_version(home), str(current_featurizer(home))
    now = datetime.now(UTC)
    meta = PcaMeta(
        *(version, featurizer, 40, 4, 0.5, now, None, None, "a test", last_batch, len(classifier.labels), "", True)
    )
    publish_model(home, PcaModel(meta, fitted(), classifier))
    if copies:
        write_copies(home, meta, b"a plot")
    finish_switch(home, begin_switch(home, version), describe_model(home, version).featurizer)
    return version


def _only(fit: Classifier, labels: tuple[str, ...]) -> Classifier:
    places = [fit.labels.index(label) for label in labels]
    of_labels = (fit.counts[places], fit.mean, fit.precision, fit.weights[places], fit.gram[np.ix_(places, places)])
    return Classifier(labels, *of_labels, fit.divisor, fit.shrinkage, fit.temperature)


def _erase(home: Home) -> Certificate:
    return erase(home, ErasureRequest("subject", ANNA, (PATTERN,)), print, lambda _, __: None, copy_s=0)


def _named(home: Home) -> dict[int, int]:
    """How many labels each version names, by its arrays; its copy for people says the same."""
    named: dict[int, int] = {}
    for version in range(1, next_version(home)):
        model = load_model(home, version)
        assert describe_model(home, version) == model.meta
        assert model.meta.labels == (len(model.classifier.labels) if model.classifier else 0)
        named[version] = model.meta.labels
    return named


@pytest.mark.processes
def test_versions_whose_labels_lose_rows_lose_their_names_and_no_others_do(
    on_disk: Settings, spark: SparkSession
) -> None:
    home = on_disk.places()
    _fill(on_disk)
    _publish(home, None, last_batch=1)
    _publish(home, ("lime", "pear"), last_batch=2)
    _publish(home, ("kiwi", "lime"), last_batch=2)
    _publish(home, None, last_batch=2, copies=False)
    projections = [read(home.pca_models, f"v{version:06d}/model.npz") for version in (1, 2)]
    refit(spark.sparkContext, home, RefitOptions(2, None, 2, 2), True, False, lambda _, __: None)

    certificate = _erase(home)

    assert certificate.removed["classifiers"] == 2
    assert _named(home) == {1: 4, 2: 2, 3: 0, 4: 0}
    for version in (3, 4):
        meta = load_model(home, version).meta
        assert (meta.no_names, meta.calibrated, meta.last_batch) == (NAMES_ERASED, False, 2)
        np.testing.assert_array_equal(load_model(home, version).pca.components, fitted().components)
    assert [read(home.pca_models, f"v{version:06d}/model.npz") for version in (1, 2)] == projections
    # Fitted anew, it is as if she had never been there.
    done = refit(spark.sparkContext, home, RefitOptions(2, None, 2, 2), False, False, lambda _, __: None)
    classifier = load_model(home, done.meta.version).classifier
    assert classifier is not None
    assert dict(zip(classifier.labels, classifier.counts.tolist(), strict=True)) == dict.fromkeys(
        ("kiwi", "lime", "pear", "plum"), 6
    )
    vectors = rows(on_disk, "SELECT label, features FROM features")
    kiwis = np.array([row["features"] for row in vectors if row["label"] == "kiwi"], np.float64)
    sums = _sums(home).labels
    np.testing.assert_allclose(sums.sums[sums.labels.index("kiwi")], kiwis.sum(axis=0), rtol=1e-9)
    # Nobody has reprojected.
    assert [finding for finding in read_status(home, verify=True).broken or [] if "no projection" not in finding] == []


@pytest.mark.processes
def test_no_old_version_of_a_model_stays_in_a_bucket(s3_settings: MakeSettings, bucket: str, s3: "S3Client") -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    settings = s3_settings(key_pattern=PATTERN)
    home = settings.places()
    _fill(settings)
    _publish(home, None, last_batch=2)
    _erase(home)
    assert _named(home) == {1: 0}
    assert all(version.is_current for version in list_versions(home.pca_models))
    assert b"classifier" not in read(home.pca_models, "v000001/model.npz")


@pytest.mark.processes
@pytest.mark.parametrize("step", ["overwrite", "_META", "drop_names", "forget_sums", "commit_replacements"])
def test_cut_off_before_any_step_the_names_go_with_the_same_request(
    step: str, on_disk: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = on_disk.places()
    _fill(on_disk)
    _publish(home, None, last_batch=2)
    _publish(home, ("lime", "pear"), last_batch=2)
    with monkeypatch.context() as cut:
        if step == "_META":
            cut.setattr(models_module._META, "write", _cut_off)
        else:
            cut.setattr(models_module if step == "overwrite" else rows_module, step, _cut_off)
        with pytest.raises(KeyboardInterrupt):
            _erase(home)
    # Her rows are there for as long as something names fruit by them.
    assert load_model(home, 1).classifier is None or _hers(on_disk) == 2
    _erase(home)
    assert (_hers(on_disk), _named(home)) == (0, {1: 0, 2: 2})
    # Nobody has reprojected.
    assert [finding for finding in read_status(home, verify=True).broken or [] if "no projection" not in finding] == []


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def _hers(settings: Settings) -> int:
    return sum(row["subject"] == ANNA for row in rows(settings, "SELECT subject FROM features"))


def test_rows_that_only_an_older_version_of_the_table_holds_were_in_the_fit_all_the_same(on_disk: Settings) -> None:
    home = on_disk.places()
    _fill(on_disk)
    _publish(home, None, last_batch=2)
    for table in (FEATURE_ROWS, PROJECTION_ROWS):
        handle = open_table(home, table)
        assert handle is not None
        handle.delete(f"subject = '{ANNA}'")
    assert _hers(on_disk) == 0
    assert _erase(home).removed["classifiers"] == 1
    assert _named(home) == {1: 0}


def test_a_version_that_cannot_be_read_stops_the_erasure_before_a_row_goes(on_disk: Settings) -> None:
    home = on_disk.places()
    _fill(on_disk)
    _publish(home, None, last_batch=2)
    (home.pca_models.directory / "v000001/model.npz").write_bytes(b"damaged")
    with pytest.raises(StateDamaged, match=r"v000001/model\.npz cannot be read; restore it"):
        _erase(home)
    assert _hers(on_disk) == 2


@pytest.mark.processes
@pytest.mark.parametrize("step", ["publish_model", "write_copies"])
def test_a_refit_that_an_erasure_overtakes_leaves_no_names(
    step: str, on_disk: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = on_disk.places()
    _fill(on_disk)
    real = getattr(refit_module, step)

    def overtaken(*arguments: object) -> None:
        # As if this process had slept after its last look.
        begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))
        real(*arguments)

    with monkeypatch.context() as slow:
        slow.setattr(refit_module, step, overtaken)
        with pytest.raises(HomeInUse, match="An erasure began meanwhile"):
            refit(spark.sparkContext, home, RefitOptions(2, None, 2, 2), False, False, lambda _, __: None)
    assert _named(home) == {1: 0}
    assert current_models(home).versions == ()
    _erase(home)
    assert list(keys_below(home.pca_models.child("moments"))) == []


def test_the_command_fits_the_served_version_anew_or_says_how(
    on_disk: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The session of all tests instead of one of its own.
    @contextmanager
    def spark_job(*_: object) -> Iterator[SparkContext]:
        yield spark.sparkContext

    monkeypatch.setattr(command, "spark_job", spark_job)
    monkeypatch.setenv("FRUITS_MIN_LABEL_ROWS", "2")
    monkeypatch.setenv("FRUITS_COMPONENTS", "2")
    monkeypatch.setenv("FRUITS_MIN_ROWS", "2")
    home = on_disk.places()
    _fill(on_disk)
    _publish(home, None, last_batch=2)
    arguments = ["erase", "--yes", "--home", on_disk.home, "--key-pattern", PATTERN, "--subject"]

    without = CliRunner().invoke(app, [*arguments, ANNA])

    assert without.exit_code == 0, without.output
    words = " ".join(without.output.split())
    assert "Version 1, which is served, names no fruit any more: it was fitted on what was erased." in words
    assert "fruits refit --reproject" in words
    assert current_models(home).versions == (1,)
    anew = CliRunner().invoke(app, [*arguments, BEN, "--refit"])
    assert anew.exit_code == 0, anew.output
    assert (current_models(home).versions, _named(home)[2]) == ((2,), 0)
    # Two people are too few for a label to be an answer.
    assert "The version names no fruit: 0 of 4 labels has 2 photos, by 3 different people" in " ".join(
        anew.output.split()
    )
    assert rows(on_disk, f"SELECT 1 FROM current_projections WHERE subject IN ('{ANNA}', '{BEN}')") == []
