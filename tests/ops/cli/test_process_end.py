"""The command's process ends with its own exit code, and Python does not take itself apart under its libraries."""

import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, sys, threading, time
from ops.cli.process.process_end import run_and_end

class TakenApart:
    def __del__(self, write=__import__("os").write): write(1, b"taken apart")

held = TakenApart()

def main():
    atexit.register(print, "handler")
    threading.Thread(target=lambda: (time.sleep(0.5), print("thread"))).start()
    print("answer")
    sys.exit(CODE)

run_and_end(main)
"""


def _ended(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM.replace("CODE", code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("code", [0, 3])
def test_threads_and_exit_handlers_are_waited_for_and_nothing_is_taken_apart(code: int) -> None:
    ended = _ended(str(code))
    assert (ended.returncode, ended.stdout) == (code, "answer\nthread\nhandler\n"), ended.stderr


def test_words_for_an_exit_code_are_shown_as_ever() -> None:
    ended = _ended("'What went wrong.'")
    assert (ended.returncode, ended.stderr) == (1, "What went wrong.\n")
