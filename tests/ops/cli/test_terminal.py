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
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]
# Runs commands in turn, each with an output and an exit code of its own.
_PROGRAM = """
import json, os, sys
from ops.cli.main import main
for number, arguments in enumerate(json.loads(sys.argv[1])):
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv[1:], kept = arguments, sys.argv[1:]
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        open(f"{kept[1]}/{number}.code", "w").write(f"{ended.code}")
    sys.argv[1:] = kept
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = str(tmp_path_factory.mktemp("terminal") / "home")
    create_tables(load_settings(home=home).places())
    return home


@pytest.mark.parametrize("environment", _NOT_UTF8)
def test_a_terminal_gets_escapes_for_what_it_lacks_and_a_program_gets_utf8(
    environment: dict[str, str], home: str, tmp_path: Path
) -> None:
    query = ["query", "--home", home]
    commands = [
        [*query, _SQL],
        ["status", "--home", home],
        ["--help"],
        ["query"],
        [*query, "SELECT pêche FROM photos"],
        [*query, "--format", "json", _SQL],
        [*query, "--format", "csv", _SQL],
    ]
    # As a shell hands it over: in UTF-8, whatever Python takes it for.
    program = [sys.executable, "-c", _PROGRAM, json.dumps(commands, ensure_ascii=False), str(tmp_path)]
    subprocess.run(program, env=os.environ | environment, cwd=ROOT, check=True)
    shown, status, explained, listed, failed, lines, csv = (
        tuple((tmp_path / f"{number}.{name}").read_bytes() for name in ("code", "out", "err"))
        for number in range(len(commands))
    )
    assert (shown[0], shown[2]) == (b"0", b"")
    assert b"\\U0001f351" in shown[1]
    for answer, words in ((status, b"p"), (explained, b"query"), (listed, b"nearest")):
        assert b"Unicode" not in answer[2]
        assert words in answer[1]
    assert failed[0] == b"1"
    assert b"Binder Error" in failed[2]
    assert json.loads(lines[1].decode()) == {"label": "pêche 🍑"}
    assert csv[1] == "label\npêche 🍑\n".encode()


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_reader_that_leaves_hears_nothing(form: str, home: str) -> None:
    # More than a pipe holds.
    command = [
        sys.executable,
        "-m",
        "ops",
        "query",
        "--home",
        home,
        "--format",
        form,
        "SELECT repeat('kiwi', 30) AS label FROM range(1500)",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
