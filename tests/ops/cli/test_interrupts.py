"""Ctrl-C, as a terminal sends it to all processes of a command: one line, exit code 130, nothing left running."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from threading import Thread

import pytest

from ops.cli.process.interrupts import ONE_PRESS_S
from ops.status.status import read_status
from store.settings import Settings
from tests.support.fault_proxy import Weather, set_weather
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.pictures import many_jpegs
from tests.support.stream_run import photos_told

MakeSettings = Callable[..., Settings]
ROOT = Path(__file__).parents[3]
LINE = "fruits: interrupted.\n"
MARK = "FRUITS_TEST_RUN"


class Command:
    """A command of ours that runs, and what it and all that it started show of themselves."""

    def __init__(self, process: "subprocess.Popen[str]", mark: str) -> None:
        self.process = process
        self._mark = mark

    def press(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self) -> list[Path]:
        """All that it started and that lives, whoever their parent is now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_ours = f"{self._mark}".encode() in (folder / "environ").read_bytes()
                if is_ours and (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    found.append(folder)
        return found

    def wait_for(self, file: str, words: str) -> None:
        """Until one of its processes shows some words in a file of /proc, like `maps` or `cmdline`."""
        gives_up_at_s = time.monotonic() + 90
        while not any(words in _content(folder / file) for folder in self.processes()):
            assert time.monotonic() < gives_up_at_s, f"no {words} came up"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def ended(self) -> tuple[int, str, str]:
        """Its exit code, what it wrote and what it said; nothing that it started lives any longer."""
        output, said = self.process.communicate(timeout=60)
        assert [(_content(left / "cmdline"), _content(left / "stat")) for left in self.processes()] == []
        return self.process.returncode, output, said


@contextmanager
def _fruits(*arguments: str) -> Iterator[Command]:
    mark = f"{MARK}={uuid.uuid4().hex}"
    environment = {**os.environ, MARK: mark.partition("=")[2], "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    command = Command(process, mark)
    try:
        yield command
    finally:
        for folder in command.processes():
            with suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)
        process.communicate()


def _content(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _drop(settings: Settings, count: int) -> None:
    landing = settings.places().landing.directory
    landing.mkdir(parents=True, exist_ok=True)
    for number, body in enumerate(many_jpegs(count, 1600, 1200)):
        (landing / f"{number}.jpg").write_bytes(body)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--watch"),
        ("refit",),
        ("demo",),
        ("stream",),
    ],
    ids=" ".join,
)
def test_a_command_that_still_imports_ends_with_one_line(
    local_settings: MakeSettings, arguments: tuple[str, ...]
) -> None:
    with _fruits(*arguments, "--home", local_settings().home) as command:
        command.wait_for("maps", "pydantic_core")
        command.press()
        assert command.ended() == (130, "", LINE)


def test_a_command_in_the_background_of_a_script_is_not_meant(local_settings: MakeSettings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "status", "--json", "--home", local_settings().home],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == 0
    assert process.communicate()[0].startswith('{"healthy": true')


def test_weights_that_are_compiled_leave_no_home_and_no_compiler(tmp_path: Path) -> None:
    with _fruits("weights", "untrained:3", "--home", str(tmp_path / "home")) as command:
        command.wait_for("maps", "tensorflow")
        command.press()
        code, output, said = command.ended()
    assert (code, output) == (130, "")
    assert said == f"Fetching and compiling the network's weights; this home keeps the result.\n{LINE}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("file", "words"), [("cmdline", "launcher.Main"), ("maps", "libnetty")])
def test_spark_that_starts_is_ended_with_its_command(local_settings: MakeSettings, file: str, words: str) -> None:
    settings = local_settings()
    with _fruits("refit", "--home", settings.home) as command:
        command.wait_for(file, words)
        command.press()
        assert command.ended() == (130, "", LINE)


@pytest.mark.processes
def test_a_query_that_computes_is_ended(local_settings: MakeSettings) -> None:
    settings = local_settings()
    commit_features(settings.places(), 1, date(2026, 10, 3), feature_vectors(3, 1))
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
    with _fruits("query", endless, "--home", settings.home) as command:
        command.wait_for("maps", "duckdb")
        time.sleep(1)
        command.press()
        assert command.ended() == (130, "", LINE)


def test_a_watch_on_a_terminal_is_ended_and_shows_the_cursor_again(local_settings: MakeSettings) -> None:
    home = local_settings().home
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):
            while some := os.read(ours, 1024):
                shown.extend(some)

    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "status", "--watch", "--home", home],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: _take_terminal(theirs),
    )
    os.close(theirs)
    reader = Thread(target=read)
    reader.start()
    gives_up_at_s = time.monotonic() + 60
    while b"Healthy" not in shown:
        assert time.monotonic() < gives_up_at_s and process.poll() is None, shown
        time.sleep(0.05)
    os.write(ours, b"\x03")
    assert process.wait(30) == 130
    reader.join(10)
    os.close(ours)
    lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode()).splitlines()
    assert lines[-1] == "fruits: interrupted."
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def _take_terminal(terminal: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_a_second_press_ends_what_waits_in_a_library(s3_settings: MakeSettings, proxy: str) -> None:
    settings = s3_settings(s3_endpoint=proxy)
    set_weather(proxy, Weather(stall=1.0, stall_s=25.0, match=r"^GET .*home\.json"))
    with _fruits("status", "--home", settings.home, "--s3-endpoint", proxy) as command:
        command.wait_for("maps", "obstore")
        time.sleep(2)
        pressed_at_s = time.monotonic()
        command.press()
        time.sleep(2 * ONE_PRESS_S)
        command.press()
        assert command.ended() == (130, "", LINE)
    assert time.monotonic() - pressed_at_s < 5


@pytest.mark.processes
def test_a_stream_that_starts_ends_at_once_and_tells_its_end(local_settings: MakeSettings) -> None:
    settings = local_settings()
    with _fruits("stream", "--home", settings.home) as command:
        command.wait_for("cmdline", "deploy.SparkSubmit")
        command.press()
        code, _, said = command.ended()
    assert (code, said) == (130, LINE)
    stream = read_status(settings.places(), verify=False).stream
    assert stream is not None
    assert (stream.state, stream.error) == ("stopped", None)


@pytest.mark.processes
def test_a_running_stream_finishes_at_the_first_press_and_ends_at_the_second(local_settings: MakeSettings) -> None:
    settings = local_settings()
    _drop(settings, 40)
    with _fruits("stream", "--home", settings.home, "--settle", "0s", "--master", "local[2,4]") as command:
        command.wait_for("maps", "litert")
        command.press()
        output, said = command.process.communicate(timeout=60)
        assert (command.process.returncode, said) == (0, "")
    finished = read_status(settings.places(), verify=True)
    assert (finished.unfinished_batches, finished.broken) == ([], [])
    assert finished.tables[0].rows == photos_told(output)

    (settings.places().landing.directory / "late").mkdir()
    for number, body in enumerate(many_jpegs(200, 2400, 1800)):
        (settings.places().landing.directory / f"late/{number}.jpg").write_bytes(body)
    with _fruits("stream", "--home", settings.home, "--settle", "0s", "--master", "local[2,4]") as command:
        command.wait_for("maps", "litert")
        command.press()
        time.sleep(2 * ONE_PRESS_S)
        assert command.process.poll() is None
        command.press()
        code, _, said = command.ended()
    assert (code, said) == (130, LINE)
    assert read_status(settings.places(), verify=True).broken == []


@pytest.mark.processes
def test_a_demo_finishes_what_is_in_flight_and_leaves_nothing_running(local_settings: MakeSettings) -> None:
    settings = local_settings()
    with _fruits("demo", "--home", settings.home, "--photos", "24", "--master", "local[2,4]") as command:
        command.wait_for("maps", "litert")
        command.press()
        code, _, said = command.ended()
    assert (code, said) == (130, LINE)
    assert read_status(settings.places(), verify=True).broken == []
