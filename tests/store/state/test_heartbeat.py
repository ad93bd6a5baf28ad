"""A sign of life is of the stream that holds the home, and only the stream that is meant heeds a request to stop."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from features.errors import FruitsError
from store.errors import AnotherStreamRunning, StateDamaged, StorageUnavailable
from store.home import Home
from store.objects import faults
from store.objects.operations import delete_all, overwrite, read_if_exists
from store.settings import Settings
from store.state import heartbeat
from store.state.heartbeat import (
    HEARTBEAT_KEY,
    STOP_KEY,
    FinishedBatch,
    Heartbeat,
    HeartbeatWriter,
    Messages,
    StreamSettings,
    Vitals,
    Waiting,
    check_claim,
    is_alive,
    read_heartbeat,
    request_stop,
    wait_until_stopped,
)
from store.state.holder import this_process

MakeSettings = Callable[..., Settings]
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(heartbeat, "WAIT_LOOK_S", 0.05)


def _heart(home: Home, nonce: str = "ours", batch: int | None = None) -> HeartbeatWriter:
    return HeartbeatWriter(home, nonce, lambda: batch)


def _standing(home: Home) -> Heartbeat:
    standing = read_heartbeat(home)
    assert standing is not None
    return standing


def _until(condition: Callable[[], bool]) -> None:
    gives_up_at_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < gives_up_at_s, "timed out"
        time.sleep(0.02)


def _left_by_another(home: Home, age: timedelta, has_ended: bool = False) -> None:
    at = (datetime.now(UTC) - age).isoformat()
    left = {"nonce": "theirs", "holder": "elsewhere, process 7", "started_at": at, "beat_at": at}
    left |= {"ended_at": at if has_ended else None, "batch": 3}
    overwrite(home.state, HEARTBEAT_KEY, json.dumps(left).encode())


def test_a_sign_of_life_carries_what_the_stream_knows_and_an_older_one_can_be_read(home: Home) -> None:
    _left_by_another(home, timedelta(0))
    assert (_standing(home).vitals, _standing(home).process, _standing(home).error) == (None, None, None)
    waiting = Waiting(NOW, 7, 700, NOW - timedelta(seconds=5), at_least=True)
    last = FinishedBatch(3, NOW, 5, 1, {"work": 2.5})
    vitals = Vitals(StreamSettings("s3://bucket/landing", 2.0, "keep"), waiting, Messages(4, 1), 60.0, 50, 2, last)
    heart = HeartbeatWriter(home, "ours", lambda: 3, lambda: vitals)
    assert heart.claim(lambda other: other.nonce == "theirs").nonce == "ours"
    assert (_standing(home).vitals, _standing(home).process) == (vitals, this_process())


def test_a_home_without_a_stream_has_none(home: Home) -> None:
    assert read_heartbeat(home) is None


def test_a_stream_is_alive_until_it_ends(home: Home) -> None:
    with _heart(home, batch=7):
        _until(lambda: read_heartbeat(home) is not None)
        first = _standing(home)
        assert is_alive(first, datetime.now(UTC))
        assert (first.nonce, first.batch, first.ended_at) == ("ours", 7, None)
        _until(lambda: _standing(home).beat_at > first.beat_at)
        assert _standing(home).started_at == first.started_at
    ended = _standing(home)
    assert ended.ended_at is not None
    assert not is_alive(ended, datetime.now(UTC))


@pytest.mark.parametrize(("age_s", "alive"), [(0, True), (59, True), (61, False), (-59, True), (-3600, False)], ids=str)
def test_a_stream_is_taken_for_dead_after_a_minute_of_silence(age_s: int, alive: bool) -> None:
    assert is_alive(Heartbeat("n", "h", NOW, NOW - timedelta(seconds=age_s), None, None), NOW) is alive


def test_a_request_reaches_the_stream_that_is_meant_and_is_taken_away_at_its_end(home: Home) -> None:
    with _heart(home) as heart:
        request_stop(home, "ours")
        _until(lambda: heart.is_stop_requested)
    assert read_if_exists(home.state, STOP_KEY) is None


@pytest.mark.parametrize("request_body", [b'{"nonce": "theirs", "asked_at": "2026-10-03T00:00:00Z"}', b"?", b"{}"])
def test_another_request_stops_nothing_and_stays(home: Home, request_body: bytes) -> None:
    overwrite(home.state, STOP_KEY, request_body)
    with _heart(home) as heart:
        _until(lambda: read_heartbeat(home) is not None)
        first = _standing(home)
        _until(lambda: _standing(home).beat_at > first.beat_at)
        assert not heart.is_stop_requested
        assert heart.failure is None
    assert read_if_exists(home.state, STOP_KEY) == request_body


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_stream_that_another_superseded_fails_and_leaves_the_others_sign_as_it_is(
    home: Home, has_ended: bool
) -> None:
    with pytest.raises(AnotherStreamRunning, match="elsewhere, process 7"), _heart(home) as heart:
        _until(lambda: read_heartbeat(home) is not None)
        check_claim(home, "ours")
        _left_by_another(home, timedelta(0), has_ended=has_ended)
        theirs = read_if_exists(home.state, HEARTBEAT_KEY)
        with pytest.raises(AnotherStreamRunning, match="elsewhere, process 7"):
            check_claim(home, "ours")
        _until(lambda: heart.failure is not None)
    assert read_if_exists(home.state, HEARTBEAT_KEY) == theirs


def test_a_lost_sign_of_life_is_given_anew(home: Home) -> None:
    with _heart(home) as heart:
        _until(lambda: read_heartbeat(home) is not None)
        delete_all(home.state, [HEARTBEAT_KEY])
        check_claim(home, "ours")
        _until(lambda: read_heartbeat(home) is not None)
        assert heart.failure is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StorageUnavailable("Cannot read kiwi/ada.jpg."), "StorageUnavailable"),
        (AnotherStreamRunning("It wrote the plan first."), "AnotherStreamRunning"),
        (FruitsError("Unexpected."), "ZeroDivisionError"),
        (KeyboardInterrupt(), None),
        (None, None),
    ],
    ids=repr,
)
def test_a_stream_says_of_which_kind_of_error_it_ended_and_no_more(
    home: Home, error: BaseException | None, kind: str | None
) -> None:
    with suppress(FruitsError, KeyboardInterrupt), _heart(home):
        _until(lambda: read_heartbeat(home) is not None)
        if error is not None:
            raise error from ZeroDivisionError("ada")
    assert _standing(home).ended_at is not None
    assert _standing(home).error == kind
    assert "ada" not in str(read_if_exists(home.state, HEARTBEAT_KEY))


def test_a_damaged_heartbeat_is_refused_by_readers_and_replaced_by_a_stream(home: Home) -> None:
    overwrite(home.state, HEARTBEAT_KEY, b"?")
    with pytest.raises(StateDamaged, match=r"stream\.json cannot be read; delete it"):
        read_heartbeat(home)
    check_claim(home, "ours")
    with _heart(home):
        pass
    assert _standing(home).nonce == "ours"


def test_waiting_ends_with_the_stream(home: Home) -> None:
    with _heart(home) as heart:
        _until(lambda: read_heartbeat(home) is not None)
        assert not wait_until_stopped(home, "ours", timeout_s=0.2)
        threading.Timer(0.3, lambda: heart.__exit__(None, None, None)).start()
        assert wait_until_stopped(home, "ours", timeout_s=30)


def test_waiting_ends_when_another_stream_has_taken_over(home: Home) -> None:
    _left_by_another(home, timedelta(0))
    assert wait_until_stopped(home, "ours", timeout_s=0)


def test_waiting_for_a_silent_stream_says_that_nobody_knows(home: Home) -> None:
    _left_by_another(home, timedelta(minutes=2))
    assert not wait_until_stopped(home, "theirs", timeout_s=600)


def test_an_end_that_cannot_be_told_is_raised_unless_something_went_wrong_before(
    s3_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "RETRY_DEADLINE_S", 0.5)
    nowhere = s3_settings().model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}).locations()
    with pytest.raises(StorageUnavailable, match=r"stream\.json"), _heart(nowhere) as heart:
        _until(lambda: heart.failure is not None)
    with pytest.raises(ZeroDivisionError), _heart(nowhere):
        raise ZeroDivisionError
