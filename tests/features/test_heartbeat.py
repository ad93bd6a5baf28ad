"""A stream's sign of life is its newest one, and only the stream that is meant heeds a request to stop."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from features import faults, heartbeat
from features.errors import StateDamaged, StorageUnavailable
from features.heartbeat import (
    HEARTBEAT_KEY,
    STOP_KEY,
    FinishedBatch,
    Heart,
    Heartbeat,
    Messages,
    StreamSettings,
    Vitals,
    Waiting,
    ask_to_stop,
    is_alive,
    read_heartbeat,
    wait_until_stopped,
)
from features.home import Home
from features.objects import overwrite, read_if_there
from features.settings import Settings

MakeSettings = Callable[..., Settings]
NOW = datetime.now(UTC)


@pytest.fixture(params=["disk", "s3"])
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    make: MakeSettings = request.getfixturevalue("local_settings" if request.param == "disk" else "s3_settings")
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(heartbeat, "WAIT_LOOK_S", 0.05)
    return make().places()


def _heart(home: Home, nonce: str = "ours", batch: int | None = None) -> Heart:
    return Heart(home, nonce, lambda: batch)


def _standing(home: Home) -> Heartbeat:
    standing = read_heartbeat(home)
    assert standing is not None
    return standing


def _until(condition: Callable[[], bool]) -> None:
    gives_up_at_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < gives_up_at_s, "timed out"
        time.sleep(0.02)


def _left_by_another(home: Home, age: timedelta, nonce: str = "theirs") -> None:
    at = (datetime.now(UTC) - age).isoformat()
    left = {"nonce": nonce, "holder": "elsewhere, process 7", "started_at": at, "beat_at": at}
    overwrite(home.state, HEARTBEAT_KEY, json.dumps(left | {"ended_at": None, "batch": 3}).encode())


def test_a_sign_of_life_carries_what_the_stream_knows_and_an_older_one_can_be_read(home: Home) -> None:
    _left_by_another(home, timedelta(0))
    assert _standing(home).vitals is None
    waiting = Waiting(NOW, 7, 700, NOW - timedelta(seconds=5), at_least=True)
    last = FinishedBatch(3, NOW, 5, 1, {"work": 2.5})
    vitals = Vitals(StreamSettings("s3://bucket/landing", 2.0, "keep"), waiting, Messages(4, 1), 60.0, 50, 2, last)
    with Heart(home, "ours", lambda: 3, lambda: vitals):
        _until(lambda: _standing(home).nonce == "ours")
    assert _standing(home).vitals == vitals


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
        ask_to_stop(home, "ours")
        _until(lambda: heart.is_asked_to_stop)
    assert read_if_there(home.state, STOP_KEY) is None


@pytest.mark.parametrize("request_body", [b'{"nonce": "theirs", "asked_at": "2026-10-03T00:00:00Z"}', b"?", b"{}"])
def test_another_request_stops_nothing_and_stays(home: Home, request_body: bytes) -> None:
    overwrite(home.state, STOP_KEY, request_body)
    with _heart(home) as heart:
        _until(lambda: read_heartbeat(home) is not None)
        first = _standing(home)
        _until(lambda: _standing(home).beat_at > first.beat_at)
        assert not heart.is_asked_to_stop
        assert heart.failure is None
    assert read_if_there(home.state, STOP_KEY) == request_body


def test_of_two_streams_the_later_one_is_heard_also_after_the_other_has_ended(home: Home) -> None:
    with _heart(home, "first") as first:
        _until(lambda: read_heartbeat(home) is not None)
        with _heart(home, "second"):
            _until(lambda: _standing(home).nonce == "second")
            first.__exit__(None, None, None)
            assert (_standing(home).nonce, _standing(home).ended_at) == ("second", None)


def test_a_dead_stream_whose_clock_was_ahead_is_not_heard(home: Home) -> None:
    _left_by_another(home, -timedelta(hours=1))
    with _heart(home):
        _until(lambda: _standing(home).nonce == "ours")


def test_a_damaged_heartbeat_is_refused_by_readers_and_replaced_by_a_stream(home: Home) -> None:
    overwrite(home.state, HEARTBEAT_KEY, b"?")
    with pytest.raises(StateDamaged, match=r"stream\.json cannot be read; delete it"):
        read_heartbeat(home)
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
    nowhere = s3_settings().model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}).places()
    with pytest.raises(StorageUnavailable, match=r"stream\.json"), _heart(nowhere) as heart:
        _until(lambda: heart.failure is not None)
    with pytest.raises(ZeroDivisionError), _heart(nowhere):
        raise ZeroDivisionError
