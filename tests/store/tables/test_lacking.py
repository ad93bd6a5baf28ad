"""Which batches lack features of a network: told by the names of files, or by what is in them."""

from datetime import date
from pathlib import Path

import pytest

from store.home import Home
from store.settings import Settings
from store.state.refeaturized import forget_lost_photos, lost_photos, lost_reasons, note_lost_photos
from store.tables import lacking as module
from store.tables.commits import append_once
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables, open_tables
from store.tables.lacking import REFEATURIZING, lacking
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import commit_features, describe, feature_vectors, made_columns

DAY, NEXT = date(2026, 10, 1), date(2026, 10, 2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Settings(home=f"{tmp_path}/home").locations()


def _add(home: Home, batch: int, day: date, numbers: list[int], featurizer: str, named: bool = True) -> None:
    """Rows of photos that another network saw before, as a file of one network or as one that tells none."""
    describe(home, featurizer)
    columns = made_columns(home, batch, day, numbers, featurizer)
    rows = columns | {"features": vectors_column(feature_vectors(len(numbers), 1))}
    file = write_file(home, FEATURE_ROWS, rows, {"ingest_date": day.isoformat()}, featurizer if named else None)
    append_once(home, FEATURE_ROWS, REFEATURIZING, [file], {}, lambda _: False)


def _lacks(home: Home, featurizer: str) -> dict[tuple[date, int], int]:
    return lacking(home, open_tables(home), featurizer)


def test_a_batch_lacks_a_network_until_each_of_its_photos_has_a_row(home: Home) -> None:
    commit_features(home, 1, DAY, feature_vectors(4, 1))
    commit_features(home, 2, NEXT, feature_vectors(3, 2), files=2)
    describe(home, "def")
    assert _lacks(home, "abc") == {}
    assert _lacks(home, "def") == {(DAY, 1): 4, (NEXT, 2): 3}
    _add(home, 2, NEXT, [0, 1, 2], "def")
    _add(home, 1, DAY, [0, 1, 2], "def", named=False)
    assert _lacks(home, "def") == {(DAY, 1): 1}
    assert _lacks(home, "abc") == {}


def test_what_was_looked_for_in_vain_is_left_out_unless_it_is_asked_for(home: Home) -> None:
    commit_features(home, 1, DAY, feature_vectors(4, 1))
    _add(home, 1, DAY, [0, 1, 2], "def")
    note_lost_photos(home, "def", DAY, {1: {"missing": 1}, 7: {"missing": 1, "corrupt": 1}})
    assert _lacks(home, "def") == {}
    assert lacking(home, open_tables(home), "def", with_lost=True) == {(DAY, 1): 1}
    assert lost_reasons(home, "def") == {DAY: {"missing": 2, "corrupt": 1}}
    note_lost_photos(home, "def", DAY, {1: {}})
    assert lost_photos(home, "def", DAY) == {7: 2}
    forget_lost_photos(home, "def", before=NEXT)
    assert lost_photos(home, "def", DAY) == {}
    assert _lacks(home, "def") == {(DAY, 1): 1}


def test_lost_photos_are_looked_for_again_after_the_other_rows_were_pruned(home: Home) -> None:
    commit_features(home, 1, DAY, feature_vectors(0, 1))
    _add(home, 1, DAY, [0, 1, 2], "def")
    note_lost_photos(home, "def", DAY, {1: {"missing": 1}})
    # What `fruits models prune --features` leaves of the network that is out of use.
    _add(home, 1, DAY, [3], "abc")
    assert _lacks(home, "def") == {}
    assert lacking(home, open_tables(home), "def", with_lost=True) == {(DAY, 1): 1}


def test_a_batch_that_was_noted_and_not_written_still_lacks_the_rest(home: Home) -> None:
    commit_features(home, 1, DAY, feature_vectors(4, 1))
    describe(home, "def")
    note_lost_photos(home, "def", DAY, {1: {"missing": 1}})
    assert _lacks(home, "def") == {(DAY, 1): 3}


def test_a_batch_that_not_all_tables_have_lacks_nothing_yet(home: Home) -> None:
    commit_features(home, 1, DAY, feature_vectors(4, 1))
    describe(home, "def")
    _add(home, 2, DAY, [0], "abc")
    assert set(_lacks(home, "def")) == {(DAY, 1)}


def test_the_day_of_a_switch_lacks_its_earlier_photos_however_many_came_later(home: Home) -> None:
    # As a former release left it, whose files maintenance has named since: each photo has a row of one network.
    commit_features(home, 1, DAY, feature_vectors(0, 1))
    commit_features(home, 2, DAY, feature_vectors(0, 1))
    _add(home, 1, DAY, [0, 1], "abc")
    _add(home, 2, DAY, [2, 3, 4], "def")
    assert _lacks(home, "def") == {(DAY, 1): 2}
    assert _lacks(home, "abc") == {(DAY, 2): 3}


def test_no_file_is_read_where_names_tell(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    create_tables(home)
    commit_features(home, 1, DAY, feature_vectors(4, 1))

    def refuse(*_: object) -> None:
        raise AssertionError("A file was read.")

    monkeypatch.setattr(module, "read_file", refuse)
    # One network: whatever the names say.
    assert _lacks(home, "abc") == {}
    commit_features(home, 2, NEXT, feature_vectors(0, 1))
    _add(home, 2, NEXT, [0, 1], "def")
    _add(home, 2, NEXT, [0, 1], "ghi")
    with pytest.raises(AssertionError):
        _lacks(home, "def")
