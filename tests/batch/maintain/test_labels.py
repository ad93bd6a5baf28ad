"""Labels are kept for as long as their image has a photo, in few files, whoever labels beside it."""

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import batch.maintain.labels as labels_module
from batch.labelling.corrections import correction_of
from batch.labelling.label import label_photos
from batch.maintain.maintain import Compaction, Expiry, MaintenanceStep, maintain
from batch.maintain.retention import Retention
from ops.query.query import connect, run_query
from store.home import Home
from store.models.registry import publish_featurizer
from store.settings import Settings, load_settings
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import LABEL_ROWS
from tests.support.feature_rows import commit_features, feature_vectors

TODAY = datetime.now(UTC).date()
LONG_PAST, PAST = TODAY - timedelta(days=40), TODAY - timedelta(days=5)
OLD, BOTH, NEW = "a" * 64, "b" * 64, "c" * 64
KEEP = Retention(rows=timedelta(days=30))


def _fill(home: Home) -> Home:
    publish_featurizer(home, b"a network", "a test", "a test")
    commit_features(home, 1, LONG_PAST, feature_vectors(2, 1), columns={"image_id": [OLD, BOTH]})
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return _fill(load_settings(home=str(tmp_path / "home")).places())


def _say(home: Home, label: str, *images: str) -> None:
    label_photos(home, [correction_of(image, label, "chosen") for image in images], None, print)


def _photos_come(home: Home, batch: int = 2, day: date = PAST) -> None:
    commit_features(home, batch, day, feature_vectors(2, batch), columns={"image_id": [BOTH, NEW]})


def _maintain(home: Home, retention: Retention = KEEP, dry_run: bool = False) -> list[MaintenanceStep]:
    steps: list[MaintenanceStep] = []
    maintain(home, retention, print, steps.append, dry_run)
    return steps


def _said(home: Home) -> list[dict[str, Any]]:
    columns = "image_id, label, origin, said_at, ingest_date"
    return list(run_query(connect(home), f"SELECT {columns} FROM labels ORDER BY said_at, ingest_date").to_pylist())


def _counting(home: Home) -> dict[str, str | None]:
    found = run_query(connect(home), "SELECT image_id, label FROM photos").to_pylist()
    return {row["image_id"]: row["label"] for row in found}


def test_a_label_goes_over_to_the_days_on_which_its_image_has_photos(home: Home) -> None:
    _say(home, "plum", OLD, BOTH)
    _say(home, "fig", BOTH)
    before = [row for row in _said(home) if row["image_id"] == BOTH]
    _photos_come(home)
    # Said before and after the photo came.
    _say(home, "lime", BOTH)
    assert Expiry(
        "labels", labels_module.expire_labels(home, timedelta(days=30), datetime.now(UTC), True, print)
    ) in _maintain(home, dry_run=True)
    steps = _maintain(home)
    assert [step.expired.count for step in steps if isinstance(step, Expiry) and step.place == "labels"] == [4]
    after = _said(home)
    assert {(row["image_id"], row["ingest_date"]) for row in after} == {(BOTH, PAST)}
    assert [row["label"] for row in after] == ["plum", "fig", "lime"]
    assert [{**row, "ingest_date": LONG_PAST} for row in after[:2]] == before
    assert _counting(home) == {BOTH: "lime", NEW: "kiwi"}
    _maintain(home)
    assert _said(home) == after


def test_photos_are_not_read_for_labels_that_later_days_hold(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _photos_come(home)
    _say(home, "fig", BOTH)
    searched: list[Any] = []
    monkeypatch.setattr(labels_module, "find_images", lambda *arguments: searched.append(arguments) or {})
    _maintain(home)
    assert not searched
    assert [(row["label"], row["ingest_date"]) for row in _said(home)] == [("fig", PAST)]


@pytest.mark.parametrize("step", ["find_images", "write_file", "move_rows"])
def test_cut_off_at_any_step_a_replay_carries_over_the_rest(
    home: Home, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _say(home, "fig", OLD, BOTH)
    _photos_come(home)
    with monkeypatch.context() as cut:
        cut.setattr(labels_module, step, _cut_off)
        with pytest.raises(KeyboardInterrupt):
            _maintain(home)
    assert _counting(home)[BOTH] == "fig"
    _maintain(home)
    assert [(row["image_id"], row["label"], row["ingest_date"]) for row in _said(home)] == [(BOTH, "fig", PAST)]
    assert _counting(home)[BOTH] == "fig"


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_said_during_the_move_is_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _say(home, "fig", BOTH)
    _photos_come(home)
    real = labels_module.move_rows

    def move_rows(*arguments: Any) -> None:
        _say(home, "lime", BOTH, NEW)
        real(*arguments)

    monkeypatch.setattr(labels_module, "move_rows", move_rows)
    _maintain(home)
    assert _counting(home) == {BOTH: "lime", NEW: "lime"}
    assert [(row["image_id"], row["label"]) for row in _said(home) if row["ingest_date"] == PAST] == [
        *((BOTH, "fig"), (BOTH, "lime"), (NEW, "lime"))
    ]


def test_many_small_files_of_labels_become_one_a_day(home: Home) -> None:
    _photos_come(home)
    for number in range(4):
        _say(home, f"kind-{number}", BOTH)
    before = _said(home)
    compacted = [step for step in _maintain(home, Retention()) if isinstance(step, Compaction)]
    assert {(step.group.table.name, len(step.group.files)) for step in compacted} == {("labels", 4)}
    assert len(data_files(open_table(home, LABEL_ROWS))) == 2
    assert _said(home) == before
    _say(home, "kiwi", BOTH)
    assert _counting(home)[BOTH] == "kiwi"


def test_who_labels_beside_maintenance_loses_and_doubles_nothing(home: Home) -> None:
    _photos_come(home)
    said: list[str] = []

    def keep_saying() -> None:
        for number in range(12):
            _say(home, f"kind-{number}", BOTH)
            said.append(f"kind-{number}")

    labelling = threading.Thread(target=keep_saying)
    labelling.start()
    while labelling.is_alive():
        _maintain(home)
    labelling.join()
    assert len(said) == 12
    assert [row["label"] for row in _said(home) if row["ingest_date"] == PAST] == said


@pytest.mark.processes
def test_on_s3_too(s3_settings: Callable[..., Settings]) -> None:
    home = _fill(s3_settings().places())
    _say(home, "fig", OLD, BOTH)
    _photos_come(home)
    _say(home, "lime", NEW)
    _maintain(home)
    assert [(row["image_id"], row["label"], row["ingest_date"]) for row in _said(home)] == [
        (BOTH, "fig", PAST),
        (NEW, "lime", PAST),
    ]
    assert len(data_files(open_table(home, LABEL_ROWS))) == 1
