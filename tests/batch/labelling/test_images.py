"""Every photo of an image is found, by its whole id or by the beginning of it."""

from datetime import date, timedelta
from pathlib import Path

import pytest

import batch.labelling.images as images_module
from batch.labelling.images import ImageRows, find_images
from store.settings import load_settings
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import commit_features, feature_vectors

FIRST = date(2026, 10, 5)
ONE, TWO, OTHER = "a1" + "0" * 62, "a1" + "1" * 62, "b" * 64


def test_all_days_of_an_image_are_found_and_only_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    assert find_images(home, [], {ONE}, print) == {ONE: {}}
    for number in range(3):
        ids, labels = [ONE if number != 1 else OTHER, TWO, OTHER], [f"day-{number}", None, "e\u0301"]
        day = FIRST + timedelta(days=number)
        columns = {"image_id": ids, "label": labels}
        commit_features(home, number + 1, day, feature_vectors(3, number), files=2, columns=columns)
    monkeypatch.setattr(images_module, "_TOLD_EVERY_S", 0)
    told: list[str] = []
    days = tuple(FIRST + timedelta(days=number) for number in range(3))
    files = data_files(open_table(home, FEATURE_ROWS))
    assert find_images(home, files, {ONE, "a10000000", "a1111111", OTHER, "c" * 64}, told.append) == {
        ONE: {ONE: ImageRows((days[0], days[2]), "day-2")},
        "a10000000": {ONE: ImageRows((days[0], days[2]), "day-2")},
        "a1111111": {TWO: ImageRows(days, None)},
        OTHER: {OTHER: ImageRows(days, "\u00e9")},
        "c" * 64: {},
    }
    assert told[-1] == "Looked for the photos in 6 of 6 files …"
    assert set(find_images(home, files, {"a1"}, print)["a1"]) == {ONE, TWO}
