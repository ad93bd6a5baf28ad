"""The accuracy counts what the app was answered, and nothing that is done to models later changes it."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from batch.maintain.prune import prune
from features.classifier import Classifier
from ops.cli.main import app
from ops.share import share_of
from ops.status.answers import ANSWERS_COUNT_FOR, Answers, count_answers, count_unknown
from ops.status.status import Status, read_status
from store.home import Home
from store.models.pca_models import PcaModel
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.files import data_files, vectors_column, write_file
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS
from tests.support.feature_rows import commit_features, feature_vectors, made_columns
from tests.support.named_home import FEATURIZER, KINDS, classifier_of, commit_named, photos_of, publish
from tests.support.said import image_of, say, take_back

TODAY = datetime.now(UTC).date()
FIRST_DAY = TODAY - ANSWERS_COUNT_FOR + timedelta(days=1)
# Of ten answers seven are right: one kiwi lies in a wrong folder, and nobody taught the version what a fig is.
SHOWN = ["kiwi", "kiwi", "lime", "plum", "plum", "lime", "kiwi", "kiwi", "fig", "fig"]
LABELS = ["kiwi", "kiwi", "lime", "plum", "plum", "lime", "kiwi", "lime", "fig", "fig"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    labels = [*KINDS] * 12
    return classifier_of(photos_of(labels, seed=1), labels)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return load_settings(home=str(tmp_path / "home")).places()


@pytest.fixture
def served(home: Home, classifier: Classifier) -> PcaModel:
    """A version that was served when a batch came on the first of the days that count, and another one today."""
    model = publish(home, 1, classifier)
    commit_named(home, 1, FIRST_DAY, photos_of(SHOWN, 2), LABELS, [model], model)
    commit_named(home, 2, TODAY, photos_of(SHOWN, 3), [None, *LABELS[1:]], [model], model)
    return model


def _answers(home: Home) -> Answers:
    return count_answers(home, data_files(open_table(home, FEATURE_ROWS)), "abc", TODAY)


def test_answers_count_against_labels_where_there_is_one(home: Home, served: PcaModel) -> None:
    found = _answers(home)
    assert (found.since, found.accuracy) == (FIRST_DAY, share_of(13, 19))
    assert (found.accuracy_of(1), found.accuracy_of(2)) == (share_of(13, 19), share_of(0, 0))


def test_answers_of_earlier_days_do_not_count(home: Home, served: PcaModel) -> None:
    commit_named(home, 3, FIRST_DAY - timedelta(days=1), photos_of(SHOWN, 4), LABELS, [served], served)
    assert _answers(home).accuracy == share_of(13, 19)


def test_no_refit_and_no_pruned_version_changes_the_accuracy(home: Home, served: PcaModel) -> None:
    turned = classifier_of(photos_of([*KINDS] * 12, 1), ["lime", "plum", "kiwi"] * 12)
    publish(home, 2, turned, last_batch=2)
    prune(home, 1, print)
    assert _answers(home).accuracy == share_of(13, 19)
    assert read_status(home, verify=False).accuracy == share_of(13, 19)


def test_labels_that_differ_in_their_accents_form_are_one(home: Home, served: PcaModel) -> None:
    columns = made_columns(home, 3, TODAY, range(2), FEATURIZER) | {
        "label": ["pe\u0302che", "p\u00eache"],
        "answer": ["p\u00eache", "p\u00eache"],
        "answer_version": [3, 3],
        "features": vectors_column(np.zeros((2, 1280), np.float32)),
    }
    commit(home, FEATURE_ROWS, 3, "a test", [write_file(home, FEATURE_ROWS, columns, {"ingest_date": f"{TODAY}"})])
    assert _answers(home).accuracy_of(3) == share_of(2, 2)


def test_a_second_look_reads_only_new_files(home: Home, served: PcaModel) -> None:
    before = _answers(home)
    for file in home.root.directory.rglob("features/**/*.parquet"):
        file.write_bytes(b"")
    assert _answers(home) == before


def test_answers_count_against_what_people_say_of_photos_with_a_folder_or_drawn_by_lot(
    home: Home, served: PcaModel
) -> None:
    assert _answers(home).accuracy == share_of(13, 19)
    lying_wrong, without_folder = image_of(1, 7), image_of(2, 0)
    say(home, [lying_wrong], "kiwi", FIRST_DAY)
    assert _answers(home).accuracy == share_of(14, 19)
    # Somebody looked for it because it is hard.
    say(home, [without_folder], "kiwi", TODAY, origin="chosen")
    assert _answers(home).accuracy == share_of(14, 19)
    say(home, [without_folder], "kiwi", TODAY, origin="random")
    assert _answers(home).accuracy == share_of(15, 20)
    say(home, [lying_wrong], None, FIRST_DAY)
    assert _answers(home).accuracy == share_of(14, 19)
    take_back(home, [lying_wrong, without_folder], FIRST_DAY, TODAY)
    assert _answers(home).accuracy == read_status(home, verify=False).accuracy == share_of(13, 19)


def test_photos_of_today_above_the_novelty_are_unknown(home: Home, served: PcaModel) -> None:
    files = data_files(open_table(home, PROJECTION_ROWS))
    assert count_unknown(home, files, 1, TODAY, 0.99) == share_of(0, 0)
    _commit_novelties(home, 3, TODAY, [0.5, 0.98, 0.995, 1.0])
    _commit_novelties(home, 4, TODAY - timedelta(days=1), [1.0])
    files = data_files(open_table(home, PROJECTION_ROWS))
    assert count_unknown(home, files, 1, TODAY, 0.99) == share_of(2, 4)
    assert count_unknown(home, files, 1, TODAY, 0.9) == share_of(3, 4)
    assert count_unknown(home, files, 2, TODAY, 0.9) == share_of(0, 0)
    assert count_unknown(home, files, None, TODAY, 0.9) == share_of(0, 0)


def _commit_novelties(home: Home, batch: int, day: date, novelties: list[float]) -> None:
    rows = len(novelties)
    columns = made_columns(home, batch, day, range(rows), FEATURIZER) | {
        "pca": vectors_column(np.zeros((rows, 4), np.float32)),
        "novelty": novelties,
    }
    kept = {name: columns[name] for name in columns if name in PROJECTION_ROWS.schema.names}
    added = write_file(home, PROJECTION_ROWS, kept, {"pca_version": "1", "ingest_date": day.isoformat()})
    commit(home, PROJECTION_ROWS, batch, "a test", [added])


def _status(home: Home, *flags: str) -> str:
    answer = CliRunner().invoke(app, ["status", "--home", str(home.root.directory), *flags], env={"COLUMNS": "150"})
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_status_tells_accuracy_and_the_share_of_unknowns(home: Home, served: PcaModel) -> None:
    _commit_novelties(home, 3, TODAY, [0.5, 0.98, 0.995, 1.0])
    picture = _status(home)
    assert f"68.4% of 19 (46.0 to 84.6%) right since {FIRST_DAY}" in picture
    assert "2 of 4 named today (50.0%), of a novelty above 0.99" in picture
    assert "names 3 labels, its confidences are uncalibrated" in picture
    told = json.loads(_status(home, "--json", "--unknown-novelty", "0.9"))
    assert told["answers_since"] == f"{FIRST_DAY}"
    assert (told["accuracy"]["number"], told["accuracy"]["of"]) == (13, 19)
    assert (told["unknown"]["number"], told["unknown_above"]) == (3, 0.9)
    assert (told["models"][0]["labels"], told["models"][0]["calibrated"]) == (3, False)


def test_a_home_without_a_classifier_has_no_answers_yet(home: Home) -> None:
    publish(home, 1, None)
    commit_features(home, 1, TODAY, feature_vectors(3, 1))
    picture = _status(home)
    assert "none to photos with a label in the last 28 days" in picture
    assert "no photo was named today" in picture
    assert "names no fruit" in picture


def test_a_home_without_tables_has_no_answers_yet(tmp_path: Path) -> None:
    status: Status = read_status(load_settings(home=str(tmp_path / "none")).places(), verify=False)
    assert (status.accuracy, status.unknown) == (share_of(0, 0), share_of(0, 0))
