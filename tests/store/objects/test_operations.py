"""Objects are created once, whoever asks, and what storage refuses is one sentence."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from features.errors import InvalidSetting
from store.errors import StorageUnavailable
from store.objects.location import StorageLocation, is_plain_key
from store.objects.operations import change, keys_below, read, read_if_exists, write_once
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, set_rules


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorageLocation:
    if request.param == "disk":
        return StorageLocation.at(str(tmp_path / "home"))
    return StorageLocation.at(
        f"s3://{request.getfixturevalue('bucket')}/home", request.getfixturevalue("s3_server"), REGION
    )


def test_the_first_write_stands(place: StorageLocation) -> None:
    assert read_if_exists(place, "a/b.json") is None
    assert list(keys_below(place)) == []
    assert write_once(place, "a/b.json", b"first") == b"first"
    assert write_once(place, "a/b.json", b"second") == b"first"
    assert read(place, "a/b.json") == b"first"
    assert list(keys_below(place)) == ["a/b.json"]


def test_of_many_writers_at_once_all_see_the_one_that_won(place: StorageLocation) -> None:
    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(lambda number: write_once(place, "plan.json", b"%d" % number), range(32)))
    assert seen == {read(place, "plan.json")}


def test_a_write_whose_answer_was_lost_is_found(proxy: str, bucket: str) -> None:
    place = StorageLocation.at(f"s3://{bucket}", proxy, REGION)
    set_rules(proxy, Rule("PUT", r"/plan\.json", answer=500))
    assert write_once(place, "plan.json", b"ours") == b"ours"
    assert write_once(place, "plan.json", b"theirs") == b"ours"


def test_a_bucket_that_does_not_exist_is_one_sentence(s3_server: str) -> None:
    place = StorageLocation.at("s3://no-such-bucket-anywhere/home", s3_server, REGION)
    for attempt in (lambda: read(place, "x"), lambda: write_once(place, "x", b"")):
        with pytest.raises(StorageUnavailable, match=r"The specified bucket does not exist \(NoSuchBucket\)\.$"):
            attempt()


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/a", "s3://bucket/a"),
        ("/data/../home", "file:///home"),
        ("file:///home/x/", "file:///home/x"),
    ],
)
def test_a_place_has_one_spelling(location: str, uri: str) -> None:
    assert StorageLocation.at(location).uri == uri


@pytest.mark.parametrize(
    "location", ["gs://bucket/x", "https://host/x", "s3://", "s3:///", "s3:/bucket/x", "s3:x", "", " "]
)
def test_other_places_are_refused(location: str) -> None:
    with pytest.raises(InvalidSetting):
        StorageLocation.at(location)


def test_no_change_is_lost_when_many_change_an_object_at_once(place: StorageLocation) -> None:
    def count(_: int) -> None:
        change(place, "count", lambda body: str(int(body or b"0") + 1).encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(12)))
    assert read(place, "count") == b"12"


def test_a_refused_change_leaves_the_object_as_it_is(place: StorageLocation) -> None:
    change(place, "word", lambda _: b"before")

    def refuse(_: bytes | None) -> bytes:
        raise InvalidSetting("no")

    with pytest.raises(InvalidSetting):
        change(place, "word", refuse)
    assert read(place, "word") == b"before"


def test_a_change_whose_answer_was_lost_is_found_done(proxy: str, bucket: str) -> None:
    place = StorageLocation.at(f"s3://{bucket}", proxy, REGION)
    change(place, "word", lambda _: b"before")
    set_rules(proxy, Rule("PUT", "/word", answer=500))
    seen: list[bytes | None] = []

    def edit(body: bytes | None) -> bytes:
        seen.append(body)
        return b"after"

    assert change(place, "word", edit) == b"after"
    assert read(place, "word") == b"after"
    assert seen[0] == b"before"


def test_a_stopped_process_that_holds_the_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.objects.faults.backoff_s", lambda: iter([0.01] * 3))
    place = StorageLocation.at(str(tmp_path))
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(StorageUnavailable, match="Cannot change"):
        change(place, "word", lambda _: b"after")
    os.close(directory)
    assert change(place, "word", lambda _: b"after") == b"after"


@given(st.text(st.one_of(st.sampled_from("/.\\%~#?* "), st.characters(exclude_categories=["Cs"])), max_size=12))
def test_obstore_takes_a_plain_key_as_it_is(key: str) -> None:
    store = MemoryStore()
    if key and is_plain_key(key):
        obstore.put(store, key, b"x")
        assert [meta["path"] for page in obstore.list(store) for meta in page] == [key]


@pytest.mark.parametrize("key", ["/a", "a//b", "a/", "./a", "a/..", ".", "a/./b", "a\tb", "a\x7f", "a\n"])
def test_a_key_that_obstore_takes_for_another_is_not_plain(key: str) -> None:
    assert not is_plain_key(key)
