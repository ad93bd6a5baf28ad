"""A photo counts once, however many networks made rows of it."""

from datetime import date
from pathlib import Path

import pytest

from store.errors import NetworkIncomplete
from store.home import Home
from store.settings import load_settings
from store.tables.handles import open_table
from store.tables.photo_counts import check_has_all_photos, count_photos, has_photos, photos_of_network
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.networks import add_rows

OLD, NEW = date(2026, 10, 3), date(2026, 10, 4)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Of a former release: two days with three and two photos."""
    home = load_settings(home=str(tmp_path / "home")).places()
    commit_features(home, 1, OLD, feature_vectors(3, 1), "aaa")
    commit_features(home, 2, NEW, feature_vectors(2, 2), "aaa")
    return home


def _count(home: Home, day: date | None = None) -> int:
    return count_photos(open_table(home, FEATURE_ROWS), lambda one: day in (None, one))


def test_photos_are_counted_and_not_their_rows(home: Home) -> None:
    assert _count(home) == 5
    add_rows(home, "bbb", without=["1-0.jpg"])
    add_rows(home, "ccc")
    assert (_count(home), _count(home, OLD), _count(home, NEW)) == (5, 3, 2)
    # A photo that has no row of the first network.
    commit_features(home, 3, NEW, feature_vectors(1, 3), "bbb")
    assert (_count(home), _count(home, NEW)) == (6, 3)
    assert count_photos(None, lambda _: True) == 0


def test_lost_photos_are_noticed_beside_rows_of_another_network(home: Home) -> None:
    add_rows(home, "bbb")
    commit_features(home, 3, NEW, feature_vectors(4, 3), "bbb")
    handle = open_table(home, FEATURE_ROWS)
    # Ten rows of these days and nine photos.
    assert has_photos(handle, lambda _: True, 9)
    assert not has_photos(handle, lambda _: True, 10)


def test_a_network_tells_how_many_photos_have_its_rows(home: Home) -> None:
    add_rows(home, "bbb", without=["1-0.jpg", "2-1.jpg"])
    assert str(photos_of_network(home, "bbb")) == "Featurizer bbb has rows of 3 of 5 photos"
    assert photos_of_network(home, "aaa").lacking == 0
    with pytest.raises(NetworkIncomplete, match=r"Version 7 cannot be served yet: .* 3 of 5 photos; run `fruits refe"):
        check_has_all_photos(home, "bbb", 7)
    assert add_rows(home, "bbb") == 2
    check_has_all_photos(home, "bbb", 7)
