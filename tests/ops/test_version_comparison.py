"""Two versions side by side: the same photos, and those of a fit only as if they had been left out."""

from datetime import UTC, datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from features.pca import principal_angles_rad
from ops.cli.main import app
from ops.share import share_of
from ops.version_comparison import Agreement, compare_versions
from store.errors import UnknownModel
from store.home import Home
from store.models.pca_models import load_model
from store.settings import load_settings
from tests.support.named_home import KINDS, classifier_of, commit_named, photos_of, publish
from tests.support.said import image_of, say, take_back

TODAY = datetime.now(UTC).date()
LABELS = [*KINDS] * 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Version 1 knows two kinds and version 2 three; 3 names none. Batch 2 came after the fits of both."""
    home = load_settings(home=str(tmp_path_factory.mktemp("compared") / "home")).places()
    vectors = photos_of(LABELS, 1)
    knows_two = [place for place, label in enumerate(LABELS) if label != "plum"]
    first = publish(home, 1, classifier_of(vectors[knows_two], [LABELS[place] for place in knows_two]), last_batch=1)
    third = publish(home, 3, None)
    second = publish(home, 2, classifier_of(vectors, LABELS), last_batch=1)
    commit_named(home, 1, TODAY, vectors, LABELS, [first, second, third], None)
    later = ["kiwi", "lime", "plum", "plum", "kiwi"]
    commit_named(home, 2, TODAY, photos_of(later, 2), [*later[:4], None], [first, second, third], second)
    # Only one of them was given this one.
    commit_named(home, 3, TODAY, photos_of(["kiwi"], 3), ["kiwi"], [second], second)
    return home


def test_accuracy_is_compared_on_photos_that_both_name(home: Home) -> None:
    found = compare_versions(home, 1, 2)
    # One of them does not know plums.
    assert found.new == Agreement(share_of(2, 4), share_of(4, 4), share_of(2, 4))
    assert found.all == Agreement(share_of(26, 40), share_of(40, 40), share_of(26, 40))
    turned = compare_versions(home, 2, 1)
    assert (turned.new.first, turned.all.second) == (found.new.second, found.all.first)


def test_labels_that_people_gave_count(home: Home) -> None:
    wrong = [image_of(2, 0), image_of(2, 2)]
    say(home, wrong, "plum", TODAY)
    say(home, [image_of(2, 4)], "kiwi", TODAY)
    assert compare_versions(home, 1, 2).new == Agreement(share_of(2, 5), share_of(4, 5), share_of(3, 5))
    take_back(home, [*wrong, image_of(2, 4)], TODAY)
    assert compare_versions(home, 1, 2).new == Agreement(share_of(2, 4), share_of(4, 4), share_of(2, 4))


def test_the_angles_are_those_between_the_subspaces(home: Home) -> None:
    found = compare_versions(home, 1, 2)
    components = [load_model(home, version).pca.components for version in (1, 2)]
    assert found.angles_rad == pytest.approx(np.sort(principal_angles_rad(*components)))


def test_a_version_without_a_classifier_names_nothing_to_compare(home: Home) -> None:
    assert compare_versions(home, 3, 2).all.agree == share_of(0, 0)


def test_an_unknown_version_is_refused(home: Home) -> None:
    with pytest.raises(UnknownModel, match="has no PCA model 7"):
        compare_versions(home, 1, 7)


def _fruits(home: Home, *words: str) -> str:
    answer = CliRunner().invoke(app, ["models", *words, "--home", str(home.root.directory)], env={"COLUMNS": "160"})
    assert answer.exit_code == 0, answer.output
    return " ".join(answer.output.split())


def test_the_command_puts_them_side_by_side(home: Home) -> None:
    told = _fruits(home, "compare", "1", "2")
    assert "│ labels │ 2 │ 3 │" in told
    assert "│ confidences │ uncalibrated │ uncalibrated │" in told
    assert "│ shrinkage │ 0.2 │ 0.2 │ │ temperature │ 20 │ 20 │" in told
    assert "│ accuracy, all photos │ 65.0% of 40 (49.5 to 77.9%) │ 100.0% of 40 (91.2 to 100.0%) │" in told
    assert "° at most" in told
    assert "They name alike 65.0% of 40" in told
    told = _fruits(home, "compare", "3", "2")
    assert "Version 3 names no fruit." in told
    assert "No labelled photo has a name from both" in told


def test_models_tell_labels_and_the_accuracy_of_their_answers(home: Home) -> None:
    listed = _fruits(home)
    assert "│ 2, uncalibrated │ │ abc │" in listed
    assert "│ 3, uncalibrated │ 100.0% of 5 │ abc │" in listed
    assert "│ none │ │ abc │" in listed
    shown = _fruits(home, "show", "2")
    assert "It names 3 labels; its confidences are uncalibrated (shrinkage 0.2, temperature 20)." in shown
    assert "Its answers of the last 28 days: 100.0% of 5 (56.6 to 100.0%) right." in shown
    assert "It names no fruit. It was fitted before versions named fruit; refit." in _fruits(home, "show", "3")
