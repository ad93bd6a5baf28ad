"""What to label next, and whose labels tell how often answers are right."""

import csv
import hashlib
import io
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ops.cli.main import app
from ops.query.named_queries import named_query
from ops.query.query import connect, run_query, to_duckdb
from store.home import Home
from store.models.pca_models import begin_switch, finish_switch
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.labels import Origin
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS
from tests.support import said
from tests.support.feature_rows import made_columns

DAY = datetime.now(UTC).date() - timedelta(days=3)
LONG_AGO = DAY - timedelta(days=100)
KINDS = ("kiwi", "lime", "plum")
BARE = range(40)
IN_FOLDERS = range(40, 50)


def image_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def distance(number: int) -> float:
    return float(np.float32(np.random.default_rng((number, 1)).random()))


def predicted(number: int) -> str:
    return KINDS[number % 7 % 3]


def confidence(number: int) -> float:
    return float(np.float32((number * 13 % 50 + 1) / 51))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with photos without a folder, one of them twice, and others in folders, all of them answered."""
    home = load_settings(home=str(tmp_path / "home")).places()
    create_tables(home)
    _add(home, 1, LONG_AGO, [99])
    _add(home, 2, DAY, [*BARE, 5, *IN_FOLDERS])
    finish_switch(home, begin_switch(home, 1), "abc")
    return home


def _add(
    home: Home, batch: int, day: date, numbers: Sequence[int], folders: Collection[int] = IN_FOLDERS, version: int = 1
) -> None:
    rows = len(numbers)
    shared = made_columns(home, batch, day, range(rows), "abc") | {
        "image_id": [image_id(number) for number in numbers],
        "label": ["kiwi" if number in folders else None for number in numbers],
    }
    features = shared | {
        "features": vectors_column(np.zeros((rows, 1280), np.float32)),
        "answer": [predicted(number) for number in numbers],
    }
    projections = {name: shared[name] for name in PROJECTION_ROWS.file_schema.names if name in shared} | {
        "pca": vectors_column(np.zeros((rows, 3), np.float32)),
    }
    if version == 1:
        projections |= {
            "predicted": [predicted(number) for number in numbers],
            "confidence": [confidence(number) for number in numbers],
            "top3": [[{"label": predicted(number), "confidence": confidence(number)}] for number in numbers],
            "distance": [distance(number) for number in numbers],
            "novelty": [0.5] * rows,
            "in_fit": [False] * rows,
        }
    at = {"ingest_date": day.isoformat()}
    commit(home, FEATURE_ROWS, batch, "a test", [write_file(home, FEATURE_ROWS, features, at)])
    added = write_file(home, PROJECTION_ROWS, projections, at | {"pca_version": str(version)})
    commit(home, PROJECTION_ROWS, batch, "a test", [added])


def say(home: Home, label: str | None, origin: Origin, *numbers: int) -> None:
    said.say(home, map(image_id, numbers), label, DAY, origin=origin)


def _answer(home: Home, name: str, **given: str) -> list[dict[str, Any]]:
    query = named_query(name)
    return list(run_query(connect(home), to_duckdb(query.sql), query.values(given)).to_pylist())


def _images(home: Home, **given: str) -> list[str]:
    return [row["image_id"] for row in _answer(home, "to_label", **given)]


def _most_worth(numbers: Sequence[int]) -> list[str]:
    """Unsure, times the share of the others that are less strange."""
    strange = {number: place / (len(numbers) - 1) for place, number in enumerate(sorted(numbers, key=distance))}
    ranked = sorted(numbers, key=lambda number: (confidence(number) - 1) * strange[number])
    return [image_id(number) for number in ranked]


def test_the_photos_most_worth_a_look_are_unsure_and_strange(home: Home) -> None:
    found = _answer(home, "to_label")
    assert [row["image_id"] for row in found] == _most_worth(BARE)
    assert {(row["label"], row["origin"], row["ingest_date"]) for row in found} == {(None, "chosen", DAY)}
    assert _images(home, limit="7") == _most_worth(BARE)[:7]
    assert image_id(99) in _images(home, since="200 days ago")


def test_photos_that_somebody_spoke_of_are_not_asked_for_again(home: Home) -> None:
    say(home, "kiwi", "chosen", 1)
    say(home, None, "chosen", 2)
    say(home, "lime", "random", 3)
    say(home, "plum", "chosen", 4)
    say(home, None, "folder", 4)
    assert _images(home) == _most_worth([number for number in BARE if number not in (1, 2, 3)])


def test_a_photo_with_a_copy_in_a_folder_has_a_label(home: Home) -> None:
    _add(home, 3, DAY, [7], folders=(7,))
    assert _images(home) == _most_worth([number for number in BARE if number != 7])
    assert image_id(7) not in _images(home, random="true")


def test_a_version_that_names_nothing_gives_photos_all_the_same(home: Home) -> None:
    finish_switch(home, begin_switch(home, 2), "abc")
    _add(home, 3, DAY, [*BARE], version=2)
    found = _answer(home, "to_label", limit="10")
    assert len({row["image_id"] for row in found}) == 10
    assert {(row["predicted"], row["confidence"], row["novelty"]) for row in found} == {(None, None, None)}


def test_a_random_sample_goes_on_where_it_ended_and_keeps_what_was_chosen(home: Home) -> None:
    order = sorted(image_id(number) for number in BARE)
    numbers = {image_id(number): number for number in BARE}
    first = _answer(home, "to_label", random="true", limit="5")
    assert [row["image_id"] for row in first] == order[:5]
    assert {(row["label"], row["origin"]) for row in first} == {(None, "random")}

    say(home, "kiwi", "random", *(numbers[image] for image in order[:3]))
    say(home, "lime", "chosen", numbers[order[3]])
    say(home, None, "chosen", numbers[order[4]])
    second = _answer(home, "to_label", random="true", limit="3")
    expected = [(order[3], "lime", "random"), (order[5], None, "random"), (order[6], None, "random")]
    assert [(row["image_id"], row["label"], row["origin"]) for row in second] == expected


def test_the_rows_are_a_file_of_corrections_with_an_empty_label(home: Home) -> None:
    for flags, origin in (((), "chosen"), (("--random",), "random")):
        answer = CliRunner().invoke(
            app, ["query", "to_label", *flags, "--limit", "3", "--home", home.root.uri, "--format", "csv"]
        )
        assert answer.exception is None
        rows = list(csv.DictReader(io.StringIO(answer.stdout)))
        assert [(row["label"], row["origin"]) for row in rows] == [("", origin)] * 3
        assert all(len(row["image_id"]) == 64 for row in rows)


def test_accuracy_counts_folders_and_samples_by_the_label_that_counts_now(home: Home) -> None:
    def accuracy() -> tuple[int, int]:
        weeks = [row for row in _answer(home, "accuracy") if row["label"] is None]
        return sum(row["answers"] for row in weeks), sum(row["correct"] for row in weeks)

    right = sum(predicted(number) == "kiwi" for number in IN_FOLDERS)
    assert accuracy() == (10, right)

    # Labels of photos that were chosen count for nothing, those of a sample do.
    say(home, "plum", "chosen", *range(10))
    assert accuracy() == (10, right)
    say(home, predicted(10), "random", 10)
    say(home, "no such fruit", "random", 11)
    assert accuracy() == (12, right + 1)

    # A wrong folder's label that somebody put right counts as what it is; a photo of nothing does not count.
    wrong = [number for number in IN_FOLDERS if predicted(number) != "kiwi"]
    say(home, predicted(wrong[0]), "suspect", wrong[0])
    assert accuracy() == (12, right + 2)
    say(home, None, "suspect", wrong[1])
    assert accuracy() == (11, right + 2)
    say(home, None, "folder", wrong[0], wrong[1])
    assert accuracy() == (12, right + 1)
