"""Storage that does not answer: told within seconds, given up after the patience, and told when it answers again."""

import json
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from store.objects import waits
from store.settings import Settings
from store.tables.handles import create_tables
from tests.conftest import REGION
from tests.support.command_run import run_fruits
from tests.support.fault_proxy import Rule, Weather, set_rules, set_weather

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_ROOT = Path(__file__).parents[3]
# The command in a process, which tells of faults soon.
_FRUITS = [
    *(sys.executable, "-c"),
    """
from ops.cli.main import main
from store.objects import waits
waits.REPORTED_AFTER_FAULT_S = 0.2
main()
""",
]
# What a busy machine takes.
BUSY_S = 15.0


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """The URL of a port where nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def failing(proxy: str, bucket: str) -> str:
    """The URL of a server that has no time, for ever."""
    set_weather(proxy, Weather(error_503=1))
    return proxy


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are told of at once, with as much patience as a test has."""
    assert (waits.REPORTED_AFTER_S, waits.REPORTED_AFTER_FAULT_S) < (5, 5)
    monkeypatch.setattr(waits, "REPORTED_AFTER_S", 0.2)
    monkeypatch.setattr(waits, "REPORTED_AFTER_FAULT_S", 0.2)
    monkeypatch.setenv("FRUITS_READING_PATIENCE", "600ms")


def _lines(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


READERS = [("status",), ("query", "SELECT 1"), ("rejects",), ("models", "list"), ("report",)]


@pytest.mark.parametrize(
    ("server", "command"),
    [("silent", READERS[0]), ("failing", READERS[0]), *(("closed", command) for command in READERS)],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_that_reads_says_what_it_waits_for_and_gives_up(
    server: str, command: tuple[str, ...], request: pytest.FixtureRequest, soon: None
) -> None:
    url = request.getfixturevalue(server)
    began_s = time.monotonic()
    answer = run_fruits(*command, "--home", "s3://bucket/home", "--s3-endpoint", url)
    took_s = time.monotonic() - began_s
    assert answer.returncode == 1
    assert 0.6 <= took_s < 0.6 + 3 + BUSY_S
    (line,) = _lines(answer.stderr)
    assert (line["event"], line["level"], line["patience_s"]) == ("waiting", "warning", 0.6)
    assert line["waited_s"] < 0.6 + BUSY_S
    assert line["message"].startswith(
        f"Waiting for storage to learn the region of the bucket bucket at {url}, without an answer for "
    )
    assert line["message"].endswith("It is tried for 0.6 s.")
    assert answer.stderr.splitlines()[-1].startswith(f"fruits: Cannot learn the region of the bucket bucket at {url}: ")


def test_a_command_that_writes_has_more_patience_and_the_flag_beats_the_environment(
    closed: str, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_STORAGE_PATIENCE", "1200ms")
    at = ("--home", "s3://bucket/home", "--s3-endpoint", closed)
    began_s = time.monotonic()
    assert _lines(run_fruits("stop", *at).stderr)[0]["patience_s"] == 1.2
    assert time.monotonic() - began_s >= 1.2
    assert _lines(run_fruits("status", *at, "--reading-patience", "700ms").stderr)[0]["patience_s"] == 0.7


def test_a_person_reads_a_sentence(closed: str) -> None:
    ours, theirs = pty.openpty()
    # The first question loads the client too, which takes a second on a busy machine.
    env = {**os.environ, "FRUITS_READING_PATIENCE": "5s", "PYTHONPATH": str(_ROOT), "COLUMNS": "300"}
    command = ["status", "--home", "s3://bucket/home", "--s3-endpoint", closed]
    subprocess.run([*_FRUITS, *command], stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.count("Waiting for storage to learn the region of the bucket bucket") == 1
    assert "{" not in said


@pytest.mark.processes
def test_the_end_of_a_trouble_is_told_once(
    proxy: str, bucket: str, s3: "S3Client", s3_settings: Callable[..., Settings]
) -> None:
    settings = s3_settings()
    create_tables(settings.places())
    # The trouble lies in the home, after the region is known.
    set_rules(proxy, Rule("GET", "/home/", answer=503, times=10_000))
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    at = ("--home", settings.home, "--s3-endpoint", proxy, "--s3-region", REGION)
    with subprocess.Popen(
        [*_FRUITS, "status", *at],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        assert process.stderr is not None
        told = json.loads(process.stderr.readline())
        set_rules(proxy)
        rest = process.communicate()[1]
    assert told["event"] == "waiting"
    assert [line["event"] for line in _lines(rest)] == ["answered"]
    assert "fruits:" not in rest
