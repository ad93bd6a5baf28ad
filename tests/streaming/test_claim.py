"""Of streams that are started on one home one works; the others leave it alone, and follow it when it is gone."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from ops.status.status import read_status
from store.errors import AnotherStreamRunning
from store.models.registry import current_featurizer
from store.settings import Settings
from store.state import claim, heartbeat
from store.state.heartbeat import Heartbeat, read_heartbeat
from streaming.service import claim_home
from tests.support.pictures import jpeg
from tests.support.stream_run import rows, stream_process

MakeSettings = Callable[..., Settings]
Process = subprocess.Popen[str]


def _wait_until(condition: Callable[[], bool], *living: Process) -> None:
    gives_up_at_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < gives_up_at_s, "timed out"
        for process in living:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def _standing(settings: Settings) -> Heartbeat:
    standing = read_heartbeat(settings.places())
    assert standing is not None
    return standing


def _is_held_by(settings: Settings, process: Process) -> bool:
    standing = read_heartbeat(settings.places())
    return standing is not None and standing.process is not None and standing.process.process_id == process.pid


def _drop(settings: Settings, seed: int) -> None:
    landing = settings.places().landing.directory
    landing.mkdir(parents=True, exist_ok=True)
    (landing / f"{seed}.jpg").write_bytes(jpeg(seed=seed))


def _photos(settings: Settings) -> int:
    return int(rows(settings, "SELECT count(*) AS n FROM features")[0]["n"])


@pytest.mark.processes
def test_a_second_stream_leaves_a_living_one_alone_and_follows_a_killed_one_at_once(
    local_settings: MakeSettings,
) -> None:
    settings = local_settings()
    with stream_process(settings) as first:
        _wait_until(lambda: _is_held_by(settings, first), first)
        featurizer = current_featurizer(settings.places())
        # It lives while Spark starts, too.
        with stream_process(settings, "--new-featurizer", "--weights", "untrained:8") as second:
            output, message = second.communicate(timeout=90)
        assert (second.returncode, output) == (3, "")
        waiting, ended = message.splitlines()
        assert waiting.startswith(f"Another stream holds {settings.places().root.uri} (")
        assert f"process {first.pid}, since " in ended
        assert "stop it with `fruits stop`, or leave it to its work" in ended
        assert current_featurizer(settings.places()) == featurizer
        _drop(settings, 1)
        _wait_until(lambda: _photos(settings) == 1, first)

        os.killpg(first.pid, signal.SIGKILL)
        killed_at_s = time.monotonic()
        with stream_process(settings) as third:
            _wait_until(lambda: _is_held_by(settings, third), third)
            assert time.monotonic() - killed_at_s < 45
            _drop(settings, 2)
            _wait_until(lambda: _photos(settings) == 2, third)
            third.send_signal(signal.SIGTERM)
            assert (third.communicate(timeout=60)[1], third.returncode) == ("", 0)
    assert read_status(settings.places(), verify=True).broken == []


@pytest.mark.parametrize(
    ("master", "wait", "waits"),
    [("yarn", None, True), ("yarn", False, False), ("local[2,4]", None, False), ("local[2,4]", True, True)],
)
def test_unattended_runs_wait_and_who_asks_for_it(
    local_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, master: str, wait: bool | None, waits: bool
) -> None:
    monkeypatch.setattr(claim, "LOOK_S", 0.05)
    monkeypatch.setattr(claim, "SAID_AGAIN_AFTER_S", 0.3)
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.05)
    settings = local_settings(master=master)
    stop, said = threading.Event(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 4:
            stop.set()

    with claim_home(settings, threading.Event(), print):
        if waits:
            with claim_home(settings, stop, say, wait) as heart:
                assert heart is None
            assert said[-1].endswith("waiting until it ends …")
        else:
            with pytest.raises(AnotherStreamRunning), claim_home(settings, stop, say, wait):
                pass


@pytest.mark.processes
def test_of_two_streams_that_are_started_together_exactly_one_works(s3_settings: MakeSettings) -> None:
    settings = s3_settings()
    with ExitStack() as stack:
        both = [stack.enter_context(stream_process(settings)) for _ in range(2)]
        _wait_until(lambda: any(process.poll() is not None for process in both))
        [ended] = [process for process in both if process.poll() is not None]
        [works] = [process for process in both if process is not ended]
        assert ended.returncode == 3, ended.communicate()
        assert _is_held_by(settings, works)
        works.send_signal(signal.SIGTERM)
        assert (works.communicate(timeout=60)[1], works.returncode) == ("", 0)
    assert _standing(settings).error is None


@pytest.mark.processes
def test_one_that_waits_goes_on_when_the_other_ends_and_can_be_stopped(local_settings: MakeSettings) -> None:
    settings = local_settings()
    with stream_process(settings) as first:
        _wait_until(lambda: _is_held_by(settings, first), first)
        with stream_process(settings, "--wait") as waits, stream_process(settings, "--wait") as stopped:
            beats = {_standing(settings).beat_at}

            def has_beaten_twice() -> bool:
                beats.add(_standing(settings).beat_at)
                return len(beats) > 2

            _wait_until(has_beaten_twice, first, waits, stopped)
            stopped.send_signal(signal.SIGTERM)
            output, message = stopped.communicate(timeout=60)
            assert (stopped.returncode, output) == (0, "")
            [line] = message.splitlines()
            assert line.startswith("Another stream holds ")
            first.send_signal(signal.SIGTERM)
            assert (first.communicate(timeout=60)[1], first.returncode) == ("", 0)
            _drop(settings, 1)
            _wait_until(lambda: _photos(settings) == 1, waits)
            assert _is_held_by(settings, waits)
