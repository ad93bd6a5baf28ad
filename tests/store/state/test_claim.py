"""One stream holds a home at a time; a dead one is followed soon, and a living one never."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest

from store.errors import AnotherStreamRunning, StorageUnavailable
from store.home import Home
from store.objects import faults
from store.objects.operations import overwrite, read
from store.settings import Settings
from store.state import claim, heartbeat
from store.state.claim import hold_claim
from store.state.heartbeat import HEARTBEAT_KEY, Heartbeat, read_heartbeat
from store.state.holder import Process, is_gone, this_process

MakeSettings = Callable[..., Settings]
SILENCE_S = 0.6


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "TAKEN_OVER_AFTER_S", SILENCE_S)
    monkeypatch.setattr(claim, "LOOK_S", 0.05)
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.05)


def _left(home: Home, process: Process | None = None, age: timedelta = timedelta(0), has_ended: bool = False) -> None:
    """What another stream left; without a process as streams of earlier versions did."""
    at = (datetime.now(UTC) - age).isoformat()
    left: dict[str, object] = {"nonce": "theirs", "holder": "elsewhere, process 7", "started_at": at, "beat_at": at}
    left |= {"ended_at": at if has_ended else None, "batch": 3}
    left |= {"process": asdict(process)} if process else {}
    overwrite(home.state, HEARTBEAT_KEY, json.dumps(left).encode())


def _standing(home: Home) -> Heartbeat:
    standing = read_heartbeat(home)
    assert standing is not None
    return standing


def _claim_s(home: Home, said: list[str]) -> float:
    """How long it took to get the home."""
    began_s = time.monotonic()
    with hold_claim(home, threading.Event(), said.append, False, lambda: None) as heart:
        took_s = time.monotonic() - began_s
        assert heart is not None
        assert _standing(home).nonce == heart.nonce
    return took_s


@pytest.mark.parametrize("age_s", [86400, -86400])
def test_a_stream_that_is_silent_is_waited_for_by_ones_own_clock(home: Home, age_s: int) -> None:
    _left(home, age=timedelta(seconds=age_s))
    said: list[str] = []
    assert _claim_s(home, said) >= SILENCE_S
    [line] = said
    assert line.startswith(f"Another stream holds {home.root.uri} (elsewhere, process 7); waiting until ")


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_home_whose_stream_has_ended_is_free_at_once(home: Home, is_damaged: bool) -> None:
    _left(home, this_process(), has_ended=True)
    if is_damaged:
        overwrite(home.state, HEARTBEAT_KEY, b"?")
    said: list[str] = []
    assert _claim_s(home, said) < SILENCE_S
    assert said == []


def test_beside_a_stream_that_lives_another_ends_and_says_what_to_do(home: Home) -> None:
    with hold_claim(home, threading.Event(), print, False, lambda: None) as living:
        assert living is not None
        with pytest.raises(AnotherStreamRunning, match=r", process \d+, since .+; stop it with `fruits stop`") as met:
            _claim_s(home, [])
        assert met.value.exit_code == 3
        assert living.failure is None
        assert _standing(home).nonce == living.nonce
    assert _standing(home).error is None


def test_who_waits_says_so_again_and_gets_the_home_when_the_other_ends(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "SAID_AGAIN_AFTER_S", 0.2)
    said: list[str] = []
    ended = threading.Event()

    def wait() -> str:
        with hold_claim(home, threading.Event(), said.append, True, lambda: None) as heart:
            assert heart is not None
            assert ended.is_set()
            assert _standing(home).nonce == heart.nonce
            return heart.nonce

    with ThreadPoolExecutor(1) as pool:
        with hold_claim(home, threading.Event(), print, False, lambda: None):
            waiting = pool.submit(wait)
            time.sleep(3 * SILENCE_S)
            assert not waiting.done()
            ended.set()
        nonce = waiting.result(60)
        assert _standing(home).nonce == nonce
    assert len(said) >= 3
    assert said[-1].endswith("waiting until it ends …")


@pytest.mark.parametrize("waits", [False, True])
def test_a_wait_is_ended_quietly(home: Home, waits: bool) -> None:
    _left(home)
    stop = threading.Event()
    stop.set()
    with hold_claim(home, stop, lambda _: None, waits, lambda: None) as heart:
        assert heart is None
    assert (_standing(home).nonce, _standing(home).ended_at) == ("theirs", None)


def test_of_many_at_once_one_gets_the_home(home: Home) -> None:
    _left(home)
    start, won, end = threading.Barrier(4), threading.Semaphore(0), threading.Event()

    def run() -> bool:
        start.wait()
        try:
            with hold_claim(home, threading.Event(), lambda _: None, False, lambda: None) as heart:
                assert heart is not None
                won.release()
                end.wait(60)
                return heart.failure is None
        except AnotherStreamRunning:
            return False

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run) for _ in range(4)]
        assert won.acquire(timeout=60)
        deadline_s = time.monotonic() + 60
        while sum(run.done() for run in runs) < 3:
            assert time.monotonic() < deadline_s, "timed out"
            time.sleep(0.05)
        end.set()
    assert sorted(run.result() for run in runs) == [False, False, False, True]


@pytest.fixture
def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _SAY_WHO], stdout=subprocess.PIPE)


_SAY_WHO = """
import dataclasses, json, sys, time
from store.state.holder import this_process
print(json.dumps(dataclasses.asdict(this_process())), flush=True)
time.sleep(600)
"""


def _who(process: "subprocess.Popen[bytes]") -> Process:
    assert process.stdout is not None
    return Process(**json.loads(process.stdout.readline()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")
def test_the_home_of_a_process_that_is_gone_is_free_at_once(home: Home, sleeper: "subprocess.Popen[bytes]") -> None:
    theirs = _who(sleeper)
    assert (theirs.process_id, theirs.boot_id) == (sleeper.pid, this_process().boot_id)
    assert not is_gone(theirs)
    assert is_gone(replace(theirs, start_ticks=(theirs.start_ticks or 0) - 1))
    for elsewhere in (replace(theirs, boot_id="other"), replace(theirs, pid_namespace="other"), Process("h", 7)):
        assert not is_gone(elsewhere)

    os.kill(sleeper.pid, signal.SIGKILL)
    # Until its parent asks for its exit code it is a zombie.
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    _left(home, theirs)
    said: list[str] = []
    assert _claim_s(home, said) < SILENCE_S
    sleeper.communicate()
    _left(home, theirs)
    assert _claim_s(home, said) < SILENCE_S
    assert said == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")
def test_a_process_that_lives_and_is_silent_is_waited_for(home: Home, sleeper: "subprocess.Popen[bytes]") -> None:
    _left(home, _who(sleeper))
    assert _claim_s(home, []) >= SILENCE_S
    sleeper.kill()
    sleeper.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")
def test_a_stream_of_this_process_that_could_not_tell_its_end_is_not_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageUnavailable), hold_claim(home, threading.Event(), print, False, lambda: None) as heart:
        assert heart is not None
        sign = read(home.state, HEARTBEAT_KEY)
        raise StorageUnavailable
    overwrite(home.state, HEARTBEAT_KEY, sign)
    assert _claim_s(home, []) < SILENCE_S


def test_the_home_is_held_from_the_claim_on_and_given_back_with_the_kind_of_error(home: Home) -> None:
    with pytest.raises(ZeroDivisionError), hold_claim(home, threading.Event(), print, False, lambda: None) as heart:
        assert heart is not None
        first = _standing(home)
        assert (first.nonce, first.process) == (heart.nonce, this_process())
        deadline_s = time.monotonic() + 30
        while _standing(home).beat_at == first.beat_at:
            assert time.monotonic() < deadline_s, "timed out"
        raise ZeroDivisionError
    assert (_standing(home).ended_at is not None, _standing(home).error) == (True, "ZeroDivisionError")
    assert _claim_s(home, []) < SILENCE_S
    assert _standing(home).error is None


def test_where_storage_fails_nothing_is_claimed(s3_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "RETRY_DEADLINE_S", 0.5)
    nowhere = s3_settings().model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}).locations()
    with pytest.raises(StorageUnavailable, match=r"stream\.json"):
        _claim_s(nowhere, [])
