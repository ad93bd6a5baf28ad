"""What people say of photos: the newest statement counts, for every reader alike."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from ops.query.query import connect
from store.errors import HomeInUse
from store.home import Home
from store.settings import load_settings
from store.tables.handles import create_tables, open_table
from store.tables.labels import NOTHING_SAID, Origin, Statement, add_statements, said_labels
from store.tables.schemas import LABEL_ROWS
from tests.support.feature_rows import commit_features, feature_vectors

DAY, NEXT = date(2026, 10, 5), date(2026, 10, 6)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = load_settings(home=str(tmp_path / "home")).places()
    create_tables(home)
    return home


def say(home: Home, image_id: str, label: str | None, origin: Origin = "suspect", *days: date) -> None:
    handle = open_table(home, LABEL_ROWS)
    assert handle is not None
    add_statements(home, handle, [Statement(image_id, label, origin, days or (DAY,))])


def counting(home: Home) -> dict[str, tuple[str | None, str]]:
    said = said_labels(home)
    return dict(
        zip(
            said.image_ids.to_pylist(),
            zip(said.labels.to_pylist(), said.origins.to_pylist(), strict=True),
            strict=True,
        )
    )


def test_the_newest_statement_about_an_image_counts_and_can_be_taken_back(home: Home) -> None:
    assert counting(home) == {}
    say(home, "a", "kiwi")
    say(home, "b", "lime", "random")
    say(home, "a", None, "chosen")
    assert counting(home) == {"a": (None, "chosen"), "b": ("lime", "random")}
    say(home, "a", None, "folder")
    assert counting(home) == {"b": ("lime", "random")}
    say(home, "a", "plum", "suspect")
    assert counting(home) == {"a": ("plum", "suspect"), "b": ("lime", "random")}


def test_what_counted_at_a_moment_is_known_later(home: Home) -> None:
    say(home, "a", "kiwi")
    then = said_labels(home).said_until
    say(home, "a", "plum")
    assert said_labels(home, until=then).labels.to_pylist() == ["kiwi"]
    assert said_labels(home).labels.to_pylist() == ["plum"]


def test_times_of_statements_strictly_increase_however_fast_they_come(home: Home) -> None:
    for label in "abcde":
        say(home, "x", label)
    times = sorted(said_labels(home).rows["said_at"].to_pylist())
    assert len(set(times)) == 5
    assert said_labels(home).labels.to_pylist() == ["e"]


def test_a_statement_by_an_older_look_is_refused(home: Home) -> None:
    handle = open_table(home, LABEL_ROWS)
    assert handle is not None
    say(home, "a", "kiwi")
    with pytest.raises(HomeInUse):
        add_statements(home, handle, [Statement("a", "plum", "suspect", (DAY,))])
    assert counting(home) == {"a": ("kiwi", "suspect")}


def test_the_digest_of_a_day_changes_with_what_counts_and_with_nothing_else(home: Home) -> None:
    say(home, "a", "kiwi", "suspect", DAY, NEXT)
    before = said_labels(home).digests
    assert set(before) == {DAY, NEXT}
    say(home, "a", "kiwi", "chosen", DAY, NEXT)
    assert said_labels(home).digests == before
    say(home, "b", "plum", "suspect", NEXT)
    after = said_labels(home).digests
    assert after[DAY] == before[DAY] and after[NEXT] != before[NEXT]
    say(home, "a", None, "folder", DAY, NEXT)
    say(home, "b", None, "folder", NEXT)
    # A copy of another day may have been summed up under what was said before: to take it back is no silence.
    taken_back = said_labels(home).digests
    assert set(taken_back) == {DAY, NEXT} and not set(taken_back.values()) & {*before.values(), *after.values()}


def test_rows_get_the_label_that_counts(home: Home) -> None:
    say(home, "a", "cafe\u0301")
    say(home, "b", None)
    rows = pa.table({"image_id": ["b", "a", "c", "d"], "label": ["lime", None, "cafe\u0301", None]})
    assert said_labels(home).labels_of(rows).to_pylist() == [None, "caf\u00e9", "caf\u00e9", None]
    assert said_labels(home).labels_of(rows.to_batches()[0]).to_pylist() == [None, "caf\u00e9", "caf\u00e9", None]


def test_few_rows_among_many_statements_get_their_labels(home: Home) -> None:
    say(home, "a", "kiwi")
    say(home, "b", None, "random")
    for image in "cdefg":
        say(home, image, "fig")
    said = said_labels(home).without_rows()
    rows = pa.table({"image_id": ["x", "b", "a", "b"], "label": ["lime", "lime", "kiwi", None]})
    for some in (rows, *rows.to_batches()):
        assert said.labels_of(some).to_pylist() == ["lime", None, "kiwi", None]
        assert said.changes(some).to_pylist() == [False, True, False, False]
        assert said.says_of(some).to_pylist() == [False, True, True, True]
        assert said.origins_of(some).to_pylist() == [None, "random", "suspect", "random"]
    assert NOTHING_SAID.changes(rows).to_pylist() == [False] * 4


def test_views_show_the_label_that_counts_and_where_it_is_from(home: Home) -> None:
    commit_features(home, 1, DAY, feature_vectors(4, 1), columns={"label": ["kiwi", "kiwi", "kiwi", None]})
    ids = [row[0] for row in connect(home).execute("SELECT image_id FROM features ORDER BY source").fetchall()]
    say(home, ids[1], "lime")
    say(home, ids[2], None)
    shown = connect(home).execute("SELECT label, folder_label, label_origin FROM photos ORDER BY source").fetchall()
    assert shown == [
        ("kiwi", "kiwi", "folder"),
        ("lime", "kiwi", "suspect"),
        (None, "kiwi", "suspect"),
        (None, None, None),
    ]
    arrived = connect(home).execute("SELECT label FROM arrivals ORDER BY source").fetchall()
    assert [label for (label,) in arrived] == ["kiwi", "lime", None, None]
