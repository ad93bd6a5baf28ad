"""`fruits stop` ends a running stream from elsewhere, gracefully, and no other one."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from ops.status.status import read_status
from store.errors import StorageUnavailable
from store.objects.operations import keys_below, overwrite, read, read_if_exists
from store.settings import Settings
from store.state.heartbeat import HEARTBEAT_KEY, STOP_KEY, Heartbeat, read_heartbeat, request_stop
from tests.support.command_run import Ended, run_fruits
from tests.support.pictures import many_jpegs
from tests.support.stream_run import Run, stream_process

MakeSettings = Callable[..., Settings]


def _fruits(settings: Settings, *arguments: str) -> Ended:
    connection = ["--s3-endpoint", settings.s3_endpoint, "--s3-region", str(settings.s3_region)]
    return run_fruits(*arguments, "--home", settings.home, *(connection if settings.s3_endpoint else []))


def _beats(settings: Settings, process: "subprocess.Popen[str]") -> Heartbeat:
    """The first sign of life of a stream process."""
    gives_up_at_s = time.monotonic() + 90
    while (standing := read_heartbeat(settings.places())) is None or standing.ended_at is not None:
        assert time.monotonic() < gives_up_at_s, "timed out"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return standing


def _drop(settings: Settings, count: int, width_px: int = 1600) -> None:
    landing = settings.places().landing.directory
    landing.mkdir(parents=True, exist_ok=True)
    for number, body in enumerate(many_jpegs(count, width_px, width_px * 3 // 4)):
        (landing / f"{number}.jpg").write_bytes(body)


@pytest.mark.processes
def test_a_stream_that_is_asked_finishes_what_it_planned_and_ends_well(local_settings: MakeSettings) -> None:
    settings = local_settings()
    places = settings.places()
    request_stop(places, "a stream of yesterday")
    _drop(settings, 40)
    with stream_process(settings) as process:
        _beats(settings, process)
        while not any(key.endswith("plan.json") for key in keys_below(places.batches)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        running = _fruits(settings, "status")
        stop = _fruits(settings, "stop")
        output, message = process.communicate(timeout=60)
    assert "running since " in running.stdout
    assert (stop.returncode, stop.stderr) == (0, "")
    assert stop.stdout.endswith("The stream has stopped.\n")
    assert (process.returncode, message) == (0, "")
    assert output
    assert read_if_exists(places.state, STOP_KEY) is None
    status = read_status(places, verify=True)
    assert (status.unfinished_batches, status.broken) == ([], [])
    assert status.stream is not None
    assert status.stream.state == "stopped"
    last_batch, standing = status.last_batch, read_heartbeat(places)
    assert last_batch is not None and standing is not None
    assert standing.batch == last_batch.batch


@pytest.mark.processes
def test_a_stream_on_s3_is_stopped_without_waiting_and_the_next_one_is_not(s3_settings: MakeSettings) -> None:
    settings = s3_settings()
    with stream_process(settings) as process:
        first = _beats(settings, process)
        asked = _fruits(settings, "stop", "--no-wait")
        _, message = process.communicate(timeout=60)
    assert (asked.returncode, process.returncode, message) == (0, 0, "")
    assert "finishes the batches in hand first" in asked.stdout
    request_stop(settings.places(), first.nonce)
    with stream_process(settings) as process:
        second = _beats(settings, process)
        assert second.nonce != first.nonce
        while (standing := read_heartbeat(settings.places())) is None or standing.beat_at == second.beat_at:
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)


def test_a_stream_that_cannot_give_signs_of_life_keeps_its_photos_and_says_so(
    local_settings: MakeSettings, drain: Callable[[Settings], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.objects.faults.RETRY_DEADLINE_S", 1.0)
    settings = local_settings()
    in_the_way = settings.places().state.directory / HEARTBEAT_KEY
    in_the_way.mkdir(parents=True)
    _drop(settings, 3, width_px=320)
    with pytest.raises(StorageUnavailable, match=r"stream\.json"):
        drain(settings)
    in_the_way.rmdir()
    drain(settings)
    status = read_status(settings.places(), verify=True)
    assert (status.tables[0].rows, status.broken) == (3, [])


def test_where_nothing_runs_there_is_nothing_to_stop(local_settings: MakeSettings) -> None:
    settings = local_settings()
    never = run_fruits("stop", "--home", settings.home)
    assert (never.returncode, never.stderr) == (0, "")
    assert "No stream is running on" in never.stdout
    assert "none has run yet" in run_fruits("status", "--home", settings.home).stdout
    assert read_if_exists(settings.places().state, STOP_KEY) is None


@pytest.mark.processes
def test_a_stream_that_was_killed_is_silent_and_is_not_waited_for(local_settings: MakeSettings) -> None:
    settings = local_settings()
    places = settings.places()
    with stream_process(settings) as process:
        standing = _beats(settings, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # As if a minute had passed since its last sign.
    beat = json.loads(read(places.state, HEARTBEAT_KEY))
    beat["beat_at"] = (standing.beat_at - timedelta(seconds=61)).isoformat()
    overwrite(places.state, HEARTBEAT_KEY, json.dumps(beat).encode())
    assert "silent since " in _fruits(settings, "status").stdout
    stop = _fruits(settings, "stop")
    assert stop.returncode == 0
    assert "has been silent since" in stop.stdout
