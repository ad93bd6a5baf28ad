"""What was said of who is forgotten goes with the last photo, and who said it goes alone."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import batch.erase.labels as labels_module
from batch.erase.certificates import Certificate
from batch.erase.erase import ErasureRequest, count_erasable, erase
from batch.erase.labellers import count_said_by, forget_labeller
from batch.labelling.corrections import correction_of
from batch.labelling.label import label_photos
from batch.maintain.compaction import compact, groups_to_compact
from features.classifier import Classifier, within_labels
from features.label_sums import RowSummer
from ops.cli.main import app
from store.errors import HomeInUse
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, load_model, next_version, publish_model, write_copies
from store.models.registry import current_featurizer
from store.objects.operations import keys_below, overwrite, read
from store.objects.versions import list_versions
from store.settings import Settings
from store.state.labellers import pseudonym_of
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS, LABEL_ROWS
from tests.support.feature_rows import fitted, kinds_of_fruit
from tests.support.ingested import ingest
from tests.support.pictures import jpeg
from tests.support.stream_run import rows

MakeSettings = Callable[..., Settings]
PATTERN = r"^(?P<subject>[^/]+)/(?P<label>[^/]+)/"
ANNA, BEN = "anna-4711", "ben-0815"


@pytest.fixture
def settings(local_settings: MakeSettings) -> Settings:
    return local_settings(key_pattern=PATTERN)


def _photo(number: int) -> bytes:
    return jpeg(number, 16, 16)


def _id(number: int) -> str:
    return hashlib.sha256(_photo(number)).hexdigest()


HERS, SHARED, HIS = _id(1), _id(2), _id(3)


def _fill(settings: Settings) -> Home:
    """A photo of hers, one of his, and one that both uploaded."""
    home = settings.places()
    for key, number in ((f"{ANNA}/kiwi/a", 1), (f"{ANNA}/kiwi/b", 2), (f"{BEN}/lime/b", 2), (f"{BEN}/lime/c", 3)):
        overwrite(home.landing, f"{key}.jpg", _photo(number))
    ingest(settings)
    return settings.places()


def _say(home: Home, label: str, *images: str, by: str | None = None) -> None:
    said_by = pseudonym_of(home, by) if by else None
    label_photos(home, [correction_of(image, label, "suspect") for image in images], said_by, print)


def _erase(home: Home, subject: str) -> Certificate:
    return erase(home, ErasureRequest("subject", subject, (PATTERN,)), print, lambda _, __: None, copy_s=0)


def _files_with(home: Home, *texts: str) -> set[str]:
    """The files of a home that hold one of the texts; parquet files are searched without compression."""
    return {
        path.relative_to(home.root.directory).parts[0]
        for path in home.root.directory.rglob("*")
        if path.is_file() and any(text.encode() in body for body in _bytes_of(path.read_bytes()) for text in texts)
    }


def _bytes_of(body: bytes) -> Iterator[bytes]:
    yield body
    if body.startswith(b"PAR1"):
        plain = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(body)), plain, compression="none", use_dictionary=False)
        yield plain.getvalue()


def _said(settings: Settings) -> list[tuple[str, str]]:
    found = rows(settings, "SELECT image_id, label FROM labels ORDER BY said_at")
    return [(row["image_id"], row["label"]) for row in found]


def test_a_label_goes_with_the_last_photo_of_its_image(settings: Settings) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, SHARED, HIS)
    assert count_erasable(home, ErasureRequest("subject", ANNA, (PATTERN,)))["labels"] == 1
    assert _erase(home, ANNA).removed["labels rows"] == 1
    assert _files_with(home, HERS) == set()
    assert _said(settings) == [(SHARED, "plum"), (HIS, "plum")]
    _erase(home, BEN)
    assert _files_with(home, HERS, SHARED, HIS) == set()
    assert _said(settings) == []


@pytest.mark.parametrize("kind", ["image", "source"])
def test_a_label_goes_with_a_photo_that_is_named_alone(settings: Settings, kind: str) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, HIS)
    value = HERS if kind == "image" else f"{ANNA}/kiwi/a.jpg"
    request = ErasureRequest("image" if kind == "image" else "source", value)
    assert erase(home, request, print, lambda _, __: None, copy_s=0).removed["labels rows"] == 1
    assert _files_with(home, HERS) == set()
    assert _said(settings) == [(HIS, "plum")]


def test_no_old_file_of_labels_and_no_log_keeps_an_image(settings: Settings) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, HIS)
    _say(home, "fig", HERS)
    list(compact(home, groups_to_compact(home, datetime.now(UTC) + timedelta(days=1)), lambda: None))
    handle = open_table(home, LABEL_ROWS)
    assert handle is not None and len(handle.file_uris()) == 1
    handle.delete(f"image_id = '{HERS}' AND label = 'fig'")
    [some, *_] = [key for key in keys_below(home.labels) if key.endswith(".parquet")]
    overwrite(home.labels, f"{some.rpartition('/')[0]}/part-lost.zstd.parquet", read(home.labels, some))
    overwrite(home.labels, f"{some.rpartition('/')[0]}/part-half.zstd.parquet", read(home.labels, some)[:50])
    # A photo whose row somebody deleted by hand has no other, either.
    removed = _erase(home, ANNA).removed
    assert removed["labels rows"] == 1 and removed["labels log"] >= 1 and removed["labels files"] >= 4
    assert _files_with(home, HERS) == set()
    assert _said(settings) == [(HIS, "plum")]
    _say(home, "pear", HIS)
    assert _said(settings) == [(HIS, "plum"), (HIS, "pear")]


def test_labels_of_photos_that_are_gone_already_go_too(settings: Settings) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, HIS)
    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    handle.delete(f"subject = '{ANNA}'")
    _erase(home, ANNA)
    assert _files_with(home, HERS) == set()


def test_a_photo_that_comes_during_the_search_keeps_its_labels(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS)
    real, searched = labels_module.read_file, []

    def read_file(*arguments: object) -> object:
        if not searched:
            searched.append(True)
            overwrite(home.landing, f"{BEN}/kiwi/a.jpg", _photo(1))
            ingest(settings)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(labels_module, "read_file", read_file)
    _erase(home, ANNA)
    assert searched and _said(settings) == [(HERS, "plum")]
    assert [row["subject"] for row in rows(settings, f"SELECT subject FROM photos WHERE image_id = '{HERS}'")] == [BEN]


@pytest.mark.processes
@pytest.mark.parametrize(
    "step",
    ["drop_names", "write_large_file", "commit_replacements", "delete_all", "unnamed_with_rows", "delete_log_files"],
)
def test_cut_off_at_any_step_the_same_request_goes_on(
    step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, SHARED, HIS)
    with monkeypatch.context() as cut:
        cut.setattr(labels_module, step, _cut_off)
        with pytest.raises(KeyboardInterrupt):
            _erase(home, ANNA)
    assert rows(settings, "SELECT count(*) AS n FROM features") == [{"n": 4}]
    with pytest.raises(HomeInUse, match=r"is not finished; if none is at work, run it again"):
        _say(home, "fig", HIS)
    _erase(home, ANNA)
    assert _files_with(home, HERS) == set()
    assert _said(settings) == [(SHARED, "plum"), (HIS, "plum")]


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def _classifier() -> Classifier:
    vectors, kinds = kinds_of_fruit(48, 1)
    names = {"kind-0": "kiwi", "kind-1": "lime", "kind-2": "plum", "kind-3": "fig"}
    summer = RowSummer(1280)
    summer.add(vectors, [names[kind] for kind in kinds], [None] * len(kinds))
    return within_labels(summer.result(), 2).classifier()


def _publish(home: Home, labels: tuple[str, ...], last_batch: int) -> int:
    fit = _classifier()
    places = [fit.labels.index(label) for label in labels]
    of_labels = (fit.counts[places], fit.mean, fit.precision, fit.weights[places], fit.gram[np.ix_(places, places)])
    classifier = Classifier(labels, *of_labels, fit.divisor, fit.shrinkage, fit.temperature)
    version, featurizer, now = next_version(home), str(current_featurizer(home)), datetime.now(UTC)
    meta = PcaMeta(version, featurizer, 40, 4, 0.5, now, None, None, "a test", last_batch, len(labels), "", True)
    publish_model(home, PcaModel(meta, fitted(), classifier))
    write_copies(home, meta, b"a plot")
    return version


def test_a_version_that_was_fitted_on_a_label_said_later_loses_its_names(settings: Settings) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS)
    _say(home, "fig", SHARED)
    _say(home, "(undo)", HERS, SHARED)
    of_hers, of_shared = _publish(home, ("plum",), 1), _publish(home, ("fig",), 1)
    of_folders, before, of_others = (
        _publish(home, ("kiwi",), 1),
        _publish(home, ("plum",), 0),
        _publish(home, ("lime",), 1),
    )
    assert _erase(home, ANNA).removed["classifiers"] == 3
    named = {version for version in range(1, next_version(home)) if load_model(home, version).classifier is not None}
    assert named == {before, of_others}
    assert not named & {of_hers, of_shared, of_folders}
    assert {image_id for image_id, _ in _said(settings)} == {SHARED}


@pytest.mark.processes
def test_no_old_version_of_labels_stays_in_a_bucket(s3_settings: MakeSettings, bucket: str, s3: object) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})  # type: ignore[attr-defined]
    settings = s3_settings(key_pattern=PATTERN)
    home = _fill(settings)
    _say(home, "plum", HERS, HIS, by="Eve")
    _erase(home, ANNA)
    forget_labeller(home, "Eve", print, lambda _, __: None)
    assert all(version.is_current for version in list_versions(home.labels))
    [file] = [key for key in keys_below(home.labels) if key.endswith(".parquet")]
    found = pq.read_table(io.BytesIO(read(home.labels, file))).to_pylist()
    assert [(row["image_id"], row["said_by"]) for row in found] == [(HIS, None)]


def test_who_said_it_is_kept_as_a_pseudonym_and_goes_while_the_labels_stay(settings: Settings) -> None:
    home = _fill(settings)
    eve, dan = "Eve Zo\u00eb 4711", "Dan 0815"
    _say(home, "plum", HERS, HIS, by=eve)
    _say(home, "fig", HIS, by=dan)
    _say(home, "pear", SHARED, by=" Eve Zoe\u0308 4711 ")
    by_eve, by_dan = pseudonym_of(home, eve), pseudonym_of(home, dan)
    said = rows(settings, "SELECT image_id, label, origin, said_at, ingest_date FROM labels ORDER BY said_at")
    assert _files_with(home, eve, dan, "4711", "Eve") <= {"landing", "features", "state"}
    assert _files_with(home, by_eve) == {"labels"}
    assert count_said_by(home, eve) == 3
    list(compact(home, groups_to_compact(home, datetime.now(UTC) + timedelta(days=1)), lambda: None))
    certificate = forget_labeller(home, eve, print, lambda _, __: None)
    assert (certificate.kind, certificate.removed["labels rows"]) == ("labeller", 3)
    assert _files_with(home, by_eve) == set()
    assert rows(settings, "SELECT image_id, label, origin, said_at, ingest_date FROM labels ORDER BY said_at") == said
    assert [row["said_by"] for row in rows(settings, "SELECT said_by FROM labels ORDER BY said_at")] == [
        *(None, None, by_dan, None)
    ]
    assert forget_labeller(home, "nobody", print, lambda _, __: None).removed == {}


@pytest.mark.parametrize("step", ["commit_replacements", "delete_all", "delete_log_files"])
def test_forgetting_who_said_it_goes_on_where_it_was_cut_off(
    step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, HIS, by="Eve")
    with monkeypatch.context() as cut:
        cut.setattr(labels_module, step, _cut_off)
        with pytest.raises(KeyboardInterrupt):
            forget_labeller(home, "Eve", print, lambda _, __: None)
    with pytest.raises(HomeInUse, match="is not finished"):
        _say(home, "fig", HIS)
    assert forget_labeller(home, "Eve", print, lambda _, __: None).finished_at is not None
    assert _files_with(home, pseudonym_of(home, "Eve")) == set()
    assert len(_said(settings)) == 2


def test_the_command_forgets_who_said_it(settings: Settings) -> None:
    home = _fill(settings)
    _say(home, "plum", HERS, HIS, by="Eve")
    arguments = ["erase", "--labeller", "-", "--home", settings.home]
    dry = CliRunner().invoke(app, [*arguments, "--dry-run"], input="Eve\n")
    assert dry.exit_code == 0 and "labels" in dry.output and "2" in dry.output
    done = CliRunner().invoke(app, [*arguments, "--yes"], input="Eve\n")
    assert done.exit_code == 0, done.output
    assert "the last of 2 searches found nothing" in " ".join(done.output.split())
    assert _files_with(home, pseudonym_of(home, "Eve")) == set()


def test_who_labels_beside_an_erasure_loses_and_doubles_nothing(settings: Settings) -> None:
    home = _fill(settings)
    said: list[str] = []

    def keep_saying() -> None:
        for number in range(12):
            try:
                _say(home, f"kind-{number}", HIS)
                said.append(f"kind-{number}")
            except HomeInUse:
                continue

    labelling = threading.Thread(target=keep_saying)
    labelling.start()
    _erase(home, ANNA)
    labelling.join()
    assert [label for _, label in _said(settings)] == said
    assert _files_with(home, HERS) == set()
