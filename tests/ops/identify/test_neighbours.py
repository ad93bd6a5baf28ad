"""The nearest known photos, against all distances."""

from collections.abc import Callable
from datetime import date

import numpy as np
import pytest
from numpy.typing import NDArray

from ops.identify.neighbours import nearest
from store.errors import AnotherRefit
from store.models.pca_models import load_model
from store.settings import Settings
from store.state.plans import AddedFile
from store.tables.commits import commit
from store.tables.handles import create_tables
from store.tables.projections import Projected, write_projections
from store.tables.schemas import PROJECTION_ROWS, TABLES
from tests.support.feature_rows import made_columns, serve_a_model
from tests.support.said import say

DAY = date(2026, 10, 3)
ROWS = 60


@pytest.fixture
def home(local_settings: Callable[..., Settings]) -> Settings:
    settings = local_settings()
    serve_a_model(settings.places())
    return settings


def _commit(settings: Settings, batch: int, coordinates: NDArray[np.float32], numbers: list[int], names: str) -> None:
    home = settings.places()
    create_tables(home)
    columns = made_columns(home, 1, DAY, numbers, "abc") | {
        "source": [f"file:///landing/{names}/{number}.jpg" for number in numbers],
        "label": [f"{names}-{number % 3}" for number in numbers],
        "batch": [batch] * len(numbers),
    }
    added: list[AddedFile] = [write_projections(home, columns, Projected(load_model(home, 1).meta, coordinates), DAY)]
    for table in TABLES:
        commit(home, table, batch, "a test", added if table is PROJECTION_ROWS else [])


def test_they_are_the_nearest_of_all_and_copies_count_as_one(home: Settings) -> None:
    known = np.random.default_rng(1).normal(size=(ROWS, 4)).astype(np.float32)
    copied = list(range(0, ROWS, 2))
    _commit(home, 1, known, list(range(ROWS)), "first")
    # The same photos again, in another file and under names that come before.
    _commit(home, 2, known[copied], copied, "copies")
    asked = np.vstack([np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32), known[:1]])
    own = made_columns(home.places(), 1, DAY, [0], "abc")["image_id"]
    found = nearest(home.places(), 1, asked, ["strange"] * 5 + own, 7)
    for row, neighbours in zip(asked, found, strict=True):
        distances = np.linalg.norm(known.astype(np.float64) - row.astype(np.float64), axis=1)
        expected = np.argsort(distances)[: len(neighbours)]
        assert [one.distance for one in neighbours] == pytest.approx(distances[expected], abs=1e-9)
        assert [one.copies for one in neighbours] == [1 + (place in copied) for place in expected]
        names = ["copies" if place in copied else "first" for place in expected]
        assert [one.label for one in neighbours] == [
            f"{name}-{place % 3}" for name, place in zip(names, expected, strict=True)
        ]
    assert [len(neighbours) for neighbours in found] == [7] * 5 + [8]
    assert (found[-1][0].image_id, found[-1][0].distance) == (own[0], 0.0)


def test_many_copies_of_one_photo_leave_room_for_others_also_on_s3(s3_settings: Callable[..., Settings]) -> None:
    home = s3_settings()
    serve_a_model(home.places())
    alike = np.zeros((40, 4), np.float32)
    _commit(home, 1, alike, [1] * 40, "same")
    _commit(home, 2, np.eye(4, dtype=np.float32) * 3, [2, 3, 4, 5], "others")
    [found] = nearest(home.places(), 1, np.full((1, 4), 0.1, np.float32), ["strange"], 3)
    assert [one.copies for one in found] == [40, 1, 1]
    say(home.places(), [found[0].image_id], "pomelo", DAY)
    say(home.places(), [found[2].image_id], None, DAY)
    [corrected] = nearest(home.places(), 1, np.full((1, 4), 0.1, np.float32), ["strange"], 3)
    assert [one.label for one in corrected] == ["pomelo", found[1].label, None]


def test_a_home_without_rows_has_no_neighbours(home: Settings) -> None:
    assert nearest(home.places(), 1, np.zeros((1, 4), np.float32), ["strange"], 3) == [[]]


def test_a_version_that_is_served_no_longer_is_not_compared_with(home: Settings) -> None:
    serve_a_model(home.places())
    with pytest.raises(AnotherRefit, match="Version 1 gave way to another one meanwhile; run this again"):
        nearest(home.places(), 1, np.zeros((1, 4), np.float32), ["strange"], 3)
