"""Terminals that are not UTF-8 get escapes, not errors; what goes to a program stays exact."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.settings import load_settings
from store.tables.handles import create_tables

ROOT = Path(__file__).parents[3]
_SQL = "SELECT 'pêche 🍑' AS label"
_NOT_UTF8 = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def _fruits(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | environment
    return subprocess.run([sys.executable, "-m", "ops", *arguments], capture_output=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = str(tmp_path_factory.mktemp("terminal") / "home")
    create_tables(load_settings(home=home).places())
    return home


@pytest.mark.parametrize("environment", _NOT_UTF8)
def test_a_terminal_gets_escapes_for_what_it_lacks(environment: dict[str, str], home: str) -> None:
    shown = _fruits(environment, "query", "--home", home, _SQL)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"\\U0001f351" in shown.stdout
    for arguments, words in ((("status", "--home", home), b"p"), (("--help",), b"query"), (("query",), b"nearest")):
        answer = _fruits(environment, *arguments)
        assert b"Unicode" not in answer.stderr
        assert words in answer.stdout
    failed = _fruits(environment, "query", "--home", home, "SELECT pêche FROM photos")
    assert failed.returncode == 1
    assert b"Binder Error" in failed.stderr


@pytest.mark.parametrize("environment", _NOT_UTF8)
def test_what_goes_to_a_program_is_utf8(environment: dict[str, str], home: str) -> None:
    written = _fruits(environment, "query", "--home", home, "--format", "json", _SQL)
    assert json.loads(written.stdout.decode()) == {"label": "pêche 🍑"}
    assert _fruits(environment, "query", "--home", home, "--format", "csv", _SQL).stdout == "label\npêche 🍑\n".encode()


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_reader_that_leaves_hears_nothing(form: str, home: str) -> None:
    command = [sys.executable, "-m", "ops", "query", "--home", home, "--format", form, "SELECT * FROM range(100000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
