"""What people say is written in one commit or not at all, for every day of an image, whoever else is at work."""

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

import batch.labelling.label as label_module
import store.tables.labels as labels_module
from batch.labelling.corrections import Correction, LabelsRefused, correction_of
from batch.labelling.label import Change, label_photos
from ops.query.query import connect, run_query
from store.errors import HomeInUse, StorageUnavailable
from store.home import Home
from store.models.registry import publish_featurizer
from store.objects.operations import delete_all, keys_below
from store.settings import Settings, load_settings
from store.state.erasures import begin_erasure, finish_erasure
from store.tables.commits import append_once
from store.tables.handles import open_table
from store.tables.labels import LABELLING
from store.tables.schemas import LABEL_ROWS
from tests.support.feature_rows import commit_features, feature_vectors

DAY, NEXT = date(2026, 10, 5), date(2026, 10, 6)
PEAR, LIME, TWICE = (hashlib.sha256(name).hexdigest() for name in (b"pear", b"lime", b"twice"))
ALIKE = [f"{'0' * 10}{digit * 54}" for digit in "ab"]


def _fill(home: Home) -> Home:
    publish_featurizer(home, b"a network", "a test", "a test")
    columns = {"image_id": [PEAR, TWICE, *ALIKE], "label": ["pear", "kiwi", None, None]}
    commit_features(home, 1, DAY, feature_vectors(4, 1), columns=columns)
    commit_features(
        home, 2, NEXT, feature_vectors(2, 2), columns={"image_id": [LIME, TWICE], "label": ["lime", "plum"]}
    )
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return _fill(load_settings(home=str(tmp_path / "home")).places())


def _say(home: Home, *said: tuple[str, str], dry_run: bool = False) -> list[Change]:
    corrections = [correction_of(image, label, "suspect", line) for line, (image, label) in enumerate(said, 2)]
    return label_photos(home, corrections, None, print, dry_run)


def _labels(home: Home) -> list[dict[str, Any]]:
    return list(run_query(connect(home), "SELECT * FROM labels ORDER BY said_at, ingest_date").to_pylist())


def _counting(home: Home) -> dict[str, str | None]:
    rows = run_query(connect(home), "SELECT image_id, label FROM photos").to_pylist()
    return {row["image_id"]: row["label"] for row in rows}


def test_a_statement_has_a_row_for_each_day_of_its_image(home: Home) -> None:
    assert _say(home, (TWICE[:12], "lemon")) == [Change(TWICE, "plum", "lemon", "suspect")]
    rows = _labels(home)
    assert [(row["image_id"], row["label"], row["ingest_date"]) for row in rows] == [
        (TWICE, "lemon", DAY),
        (TWICE, "lemon", NEXT),
    ]
    assert len({row["said_at"] for row in rows}) == 1
    assert _counting(home)[TWICE] == "lemon"


def test_it_tells_what_counted_and_what_counts(home: Home) -> None:
    said = [(PEAR, "apple"), (LIME, "(none)"), (ALIKE[0], "kiwi")]
    expected = [
        Change(PEAR, "pear", "apple", "suspect"),
        Change(LIME, "lime", None, "suspect"),
        Change(ALIKE[0], None, "kiwi", "suspect"),
    ]
    assert _say(home, *said, dry_run=True) == expected
    assert _labels(home) == []
    assert _say(home, *said) == expected
    assert _say(home, (PEAR, "(undo)"), (LIME, "(undo)")) == [
        Change(PEAR, "apple", "pear", "folder"),
        Change(LIME, None, "lime", "folder"),
    ]
    assert _counting(home)[PEAR] == "pear"


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        ("f" * 64, "kiwi", f"line 3: no photo's image_id is {'f' * 64}"),
        ("ffffffff", "kiwi", "line 3: no photo's image_id begins with ffffffff"),
        ("0" * 10, "kiwi", f"line 3: 2 images begin with {'0' * 10}, like {'0' * 10}aaaa, {'0' * 10}bbbb"),
        (PEAR[:9], "plum", f"line 3: it says another thing of {PEAR[:12]} than line 2; keep one of the two"),
    ],
)
def test_one_wrong_line_and_nothing_is_said(home: Home, image: str, label: str, words: str) -> None:
    with pytest.raises(LabelsRefused) as refused:
        _say(home, (PEAR, "apple"), (image, label))
    assert words in str(refused.value)
    assert _labels(home) == []


def test_the_same_said_twice_in_a_file_counts_once(home: Home) -> None:
    assert len(_say(home, (PEAR, "apple"), (PEAR[:8], "apple"))) == 1
    assert len(_labels(home)) == 1


def test_thousands_of_labels_are_one_commit(home: Home) -> None:
    ids = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(3000)]
    commit_features(home, 3, NEXT, feature_vectors(3000, 3), columns={"image_id": ids})
    handle = open_table(home, LABEL_ROWS)
    assert handle is not None
    before = handle.version()
    _say(home, *((image_id, f"kind-{n % 7}") for n, image_id in enumerate(ids)))
    handle.update_incremental()
    assert handle.version() == before + 1
    assert len(_labels(home)) == len({row["said_at"] for row in _labels(home)}) == 3000


def test_two_at_once_lose_and_double_nothing(home: Home) -> None:
    failed: list[BaseException] = []

    def run(image: str, label: str) -> None:
        try:
            _say(home, (image, label))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=arguments) for arguments in ((PEAR, "apple"), (LIME, "lemon"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {row["image_id"]: row["label"] for row in _labels(home)} == {PEAR: "apple", LIME: "lemon"}
    assert len(_labels(home)) == 2


def _overtaken(monkeypatch: pytest.MonkeyPatch, by: Callable[[], None]) -> list[int]:
    """From now on somebody does something each time after images were looked up."""
    real, looks = label_module.find_images, []

    def find_images(*arguments: Any) -> Any:
        found = real(*arguments)
        looks.append(len(looks))
        by()
        return found

    monkeypatch.setattr(label_module, "find_images", find_images)
    return looks


def test_cut_off_before_its_commit_nothing_is_said_and_a_replay_says_all(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise StorageUnavailable("cut off")

    with monkeypatch.context() as patched, pytest.raises(StorageUnavailable, match="cut off"):
        patched.setattr(labels_module, "append_as_seen", cut_off)
        _say(home, (PEAR, "apple"), (LIME, "lemon"))
    assert [key for key in keys_below(home.labels) if key.endswith(".parquet")]
    assert _labels(home) == []
    _say(home, (PEAR, "apple"), (LIME, "lemon"))
    assert {row["image_id"]: row["label"] for row in _labels(home)} == {PEAR: "apple", LIME: "lemon"}


def test_a_copy_that_comes_while_somebody_labels_it_gets_a_row_of_its_day(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = date(2026, 10, 7)
    batches = iter([3])

    def copy() -> None:
        for batch in batches:
            commit_features(home, batch, later, feature_vectors(2, 3), columns={"image_id": [PEAR, LIME]})

    _overtaken(monkeypatch, copy)
    _say(home, (PEAR, "apple"))
    rows = [(row["image_id"], row["label"], row["origin"], row["ingest_date"]) for row in _labels(home)]
    assert rows == [(PEAR, "apple", "suspect", DAY), (PEAR, "apple", "suspect", later)]


def test_a_photo_drawn_by_lot_stays_one_whatever_is_said_of_it_later(home: Home) -> None:
    label_photos(home, [correction_of(PEAR, "pear", "random"), correction_of(LIME, "lime", "chosen")], None, print)
    _say(home, (PEAR, "apple"), (LIME, "lemon"))
    assert [row["origin"] for row in _labels(home)] == ["random", "chosen", "random", "suspect"]
    _say(home, (PEAR, "(undo)"))
    _say(home, (PEAR, "apple"))
    assert [row["origin"] for row in _labels(home)][-2:] == ["folder", "suspect"]


def test_who_is_overtaken_each_time_says_so_and_has_said_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = _overtaken(monkeypatch, lambda: append_once(home, LABEL_ROWS, LABELLING, (), {}, lambda _: False) and None)
    with pytest.raises(HomeInUse, match="nothing was appended"):
        _say(home, (PEAR, "apple"))
    assert len(looks) == label_module.MOST_TRIES
    assert _labels(home) == []


def test_who_looked_before_an_erasure_began_writes_nothing_after_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erasure() -> None:
        begin_erasure(home, "image", PEAR, (), datetime.now(UTC))
        append_once(home, LABEL_ROWS, LABELLING, (), {}, lambda _: False)

    looks = _overtaken(monkeypatch, erasure)
    with pytest.raises(HomeInUse, match=r"The erasure that was asked for at .* is not finished"):
        _say(home, (PEAR, "apple"))
    assert looks == [0]
    assert _labels(home) == []
    standing = begin_erasure(home, "image", PEAR, (), datetime.now(UTC))
    finish_erasure(home, standing.id, datetime.now(UTC))
    looks.clear()
    monkeypatch.undo()
    _say(home, (PEAR, "apple"))
    assert len(_labels(home)) == 1


def test_on_s3_too_and_in_a_home_of_the_last_release(s3_settings: Callable[..., Settings]) -> None:
    home = _fill(s3_settings().places())
    delete_all(home.labels, list(keys_below(home.labels)))
    assert open_table(home, LABEL_ROWS) is None
    assert _say(home, (PEAR, "apple"), dry_run=True) == [Change(PEAR, "pear", "apple", "suspect")]
    assert open_table(home, LABEL_ROWS) is None
    _say(home, (PEAR, "apple"), (TWICE, "(none)"))
    assert (_counting(home)[PEAR], _counting(home)[TWICE], len(_labels(home))) == ("apple", None, 3)


def test_a_correction_without_a_line_names_none(home: Home) -> None:
    with pytest.raises(LabelsRefused, match=r"^Nothing was changed: no photo's image_id begins with ffffffff"):
        label_photos(home, [Correction("ffffffff", "kiwi", "suspect")], None, print)
