"""What people say changes the sums exactly, and reads only the days of which something new was said."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

import batch.refit.stored_sums as stored_sums
import batch.refit.sums as sums_module
from batch.days import list_days
from batch.refit.stored_sums import delete_unused_sums, forget_sums, read_month, store_of
from batch.refit.sums import SumsOfDays, sum_days, sum_later_rows
from features.featurizer import FEATURES
from features.label_sums import RowSummer, RowSums
from store.home import Home
from store.objects.operations import keys_below, overwrite, read
from store.settings import load_settings
from store.tables.handles import open_table
from store.tables.labels import said_labels
from store.tables.schemas import FEATURE_ROWS
from tests.batch.test_label_corrections import assert_near
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.said import image_of, say, take_back

OURS = "ours"
DAYS = (date(2024, 3, 1), date(2024, 3, 2), date(2024, 4, 3))
ROWS = 16
KINDS: list[str | None] = ["kiwi", "lime", "plum", None]

# The label that counts for each image that something was said of.
Counting = Mapping[str, str | None]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Batch n came on day n; rows of it are kiwis, limes, plums and photos without a label in turns."""
    home = load_settings(home=str(tmp_path / "home")).places()
    for number in range(len(DAYS)):
        _commit(home, number + 1, DAYS[number])
    return home


def _commit(home: Home, batch: int, day: date, images: Sequence[str] | None = None) -> None:
    columns: dict[str, Sequence[str | None]] = {"label": [KINDS[place % 4] for place in range(ROWS)]}
    if images:
        columns["image_id"] = images
    commit_features(home, batch, day, feature_vectors(ROWS, batch), OURS, files=2, columns=columns)


def _sum(spark: SparkSession, home: Home, full: bool = False, keep: bool = True) -> SumsOfDays:
    return sum_days(
        spark.sparkContext,
        home,
        OURS,
        list_days(home),
        full=full,
        keep=keep,
        on_progress=lambda *_: None,
        said=said_labels(home),
    )


def _right(counting: Counting, batches: Iterable[int] = (1, 2, 3), images: Mapping[int, Sequence[str]] = {}) -> RowSums:
    """The sums of a home whose folders had been right from the start."""
    summer = RowSummer(FEATURES)
    for batch in batches:
        ids = images.get(batch, [image_of(batch, number) for number in range(ROWS)])
        labels = [counting.get(image_id, KINDS[place % 4]) for place, image_id in enumerate(ids)]
        summer.add(feature_vectors(ROWS, batch), labels, [None] * ROWS)
    return summer.result()


def _some(days: Mapping[date, int]) -> dict[date, int]:
    return {day: rows for day, rows in days.items() if rows}


def _corrections_stored(home: Home) -> list[str]:
    return [
        key.split("/")[1][:10] for key in sorted(keys_below(store_of(home, OURS))) if key.startswith("corrections/")
    ]


def test_the_next_sums_follow_and_read_only_rows_of_the_days_of_which_something_was_said(
    spark: SparkSession, home: Home
) -> None:
    before = _sum(spark, home)
    assert before.counting is before.sums
    # Another label, none, a first one, and one that says what the folder says.
    counting = {image_of(1, 0): "lime", image_of(1, 1): None, image_of(2, 3): "fig", image_of(2, 4): "kiwi"}
    for image, label in counting.items():
        say(home, [image], label, DAYS[0] if image in (image_of(1, 0), image_of(1, 1)) else DAYS[1])
    followed, again, full = _sum(spark, home), _sum(spark, home), _sum(spark, home, full=True, keep=False)
    for found in (followed, again, full):
        assert_near(found.counting, _right(counting))
    assert (_some(followed.rows_read), followed.rows_followed) == ({}, {DAYS[0]: 2, DAYS[1]: 1})
    assert sum(followed.rows_stored.values()) == 3 * ROWS
    assert (_some(again.rows_read), again.rows_followed) == ({}, {})
    assert _corrections_stored(home) == [f"{DAYS[0]}", f"{DAYS[1]}"]

    say(home, [image_of(1, 1)], "plum", DAYS[0])
    changed = _sum(spark, home)
    assert changed.rows_followed == {DAYS[0]: 2}
    assert_near(changed.counting, _right(counting | {image_of(1, 1): "plum"}))

    take_back(home, counting, DAYS[0], DAYS[1])
    undone = _sum(spark, home)
    assert undone.rows_followed == {DAYS[0]: 0, DAYS[1]: 0}
    assert_near(undone.counting, before.sums)
    assert _sum(spark, home).rows_followed == {}


def test_what_was_said_before_a_day_was_read_is_in_its_first_sum(spark: SparkSession, home: Home) -> None:
    say(home, [image_of(1, 0)], "plum", DAYS[0])
    first, again = _sum(spark, home), _sum(spark, home)
    assert (_some(first.rows_read), first.rows_followed) == (dict.fromkeys(DAYS, ROWS), {})
    for found in (first, again):
        assert_near(found.counting, _right({image_of(1, 0): "plum"}))
    assert (again.rows_read, again.rows_followed) == ({}, {})


def test_copies_on_other_days_follow_also_those_that_come_after_the_statement(spark: SparkSession, home: Home) -> None:
    images = {4: [image_of(1, number) for number in range(ROWS)]}
    say(home, [image_of(1, 0)], "plum", DAYS[0])
    _sum(spark, home)
    later = date(2024, 4, 9)
    _commit(home, 4, later, images[4])
    with_copy = _sum(spark, home)
    assert _some(with_copy.rows_read) == {later: ROWS}
    assert_near(with_copy.counting, _right({image_of(1, 0): "plum"}, range(1, 5), images))
    # From now on the statement is of both days.
    take_back(home, [image_of(1, 0)], DAYS[0], later)
    undone = _sum(spark, home)
    assert undone.rows_read == {}
    assert_near(undone.counting, _right({}, range(1, 5), images))
    say(home, [image_of(1, 1)], None, DAYS[0], later)
    both = _sum(spark, home)
    assert both.rows_followed == {DAYS[0]: 1, later: 1}
    assert_near(both.counting, _right({image_of(1, 1): None}, range(1, 5), images))


def test_rows_that_are_deleted_or_moved_to_another_file_change_nothing_else(spark: SparkSession, home: Home) -> None:
    say(home, [image_of(1, 0), image_of(2, 0)], "plum", DAYS[0], DAYS[1])
    _sum(spark, home)
    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    handle.optimize.compact()
    compacted = _sum(spark, home)
    assert (compacted.rows_read, compacted.rows_followed) == ({}, {})
    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    handle.delete("batch = 2")
    after = _sum(spark, home)
    assert_near(after.counting, _right({image_of(1, 0): "plum"}, (1, 3)))


def test_damaged_or_missing_corrections_are_summed_up_again_and_unnamed_ones_go(
    spark: SparkSession, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(home, [image_of(1, 0), image_of(3, 0)], "plum", DAYS[0], DAYS[2])
    first = _sum(spark, home)
    store = store_of(home, OURS)
    for key in [key for key in keys_below(store) if key.startswith("corrections/")]:
        if "2024-03" in key:
            overwrite(store, key, read(store, key)[:-9])
        else:
            (store.directory / key).unlink()
    again = _sum(spark, home)
    assert (again.rows_read, again.rows_followed) == ({}, {DAYS[0]: 1, DAYS[2]: 1})
    assert_near(again.counting, first.counting)
    months = {month: read_month(store, month) for month in ("2024-03", "2024-04")}
    monkeypatch.setattr(stored_sums, "UNNAMED_KEPT", timedelta(0))
    delete_unused_sums(store, [*months])
    named = {stored.key for month in months.values() for day in month.days.values() for stored in day.objects}
    assert {key for key in keys_below(store) if key.startswith(("days/", "corrections/"))} == named
    assert len(_corrections_stored(home)) == 2
    assert forget_sums(home, [DAYS[0]]) > 0
    assert f"{DAYS[0]}" not in _corrections_stored(home) and f"{DAYS[2]}" in _corrections_stored(home)
    assert_near(_sum(spark, home).counting, first.counting)


def test_a_dry_run_stores_nothing_and_a_kill_loses_nothing(
    spark: SparkSession, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sum(spark, home)
    say(home, [image_of(1, 0)], "plum", DAYS[0])
    right = _right({image_of(1, 0): "plum"})
    for _ in range(2):
        dry = _sum(spark, home, keep=False)
        assert dry.rows_followed == {DAYS[0]: 1}
        assert_near(dry.counting, right)
    assert _corrections_stored(home) == []

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(sums_module, "write_month", killed)
        _sum(spark, home)
    assert _corrections_stored(home) == [f"{DAYS[0]}"]
    after = _sum(spark, home)
    assert after.rows_followed == {DAYS[0]: 1}
    assert_near(after.counting, right)
    assert _sum(spark, home).rows_followed == {}


def test_thousands_of_corrections_in_a_day_are_a_small_sum(spark: SparkSession, tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "many")).places()
    rows, day = 3000, DAYS[0]
    vectors = feature_vectors(rows, 1)
    commit_features(home, 1, day, vectors, OURS, files=3, columns={"label": [None] * rows})
    _sum(spark, home)
    images = [image_of(1, number) for part in np.array_split(np.arange(rows), 3) for number in part]
    say(home, images[:2500], "kiwi", day)
    found = _sum(spark, home)
    summer = RowSummer(FEATURES)
    summer.add(vectors, ["kiwi"] * 2500 + [None] * 500, [None] * rows)
    assert found.rows_followed == {day: 2500}
    assert_near(found.counting, summer.result())
    store = store_of(home, OURS)
    [key] = [key for key in keys_below(store) if key.startswith("corrections/")]
    assert len(read(store, key)) < 11 * 2**20


def test_rows_of_later_batches_are_summed_by_the_labels_that_count(spark: SparkSession, home: Home) -> None:
    say(home, [image_of(1, 0), image_of(2, 0)], "plum", DAYS[0], DAYS[1])
    found = sum_later_rows(spark.sparkContext, home, OURS, list_days(home), 1, said_labels(home))
    assert_near(found, _right({image_of(2, 0): "plum"}, (2, 3)))
