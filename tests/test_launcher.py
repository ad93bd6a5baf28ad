"""The command as it is installed: whoever's folder it runs in, quick to explain itself, completed by the shell."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from store.settings import load_settings
from store.tables.handles import create_tables

ROOT = Path(__file__).parents[1]
# As pip writes it.
SCRIPT = f"""\
#!{sys.executable}
import sys
from fruits_launcher import main
if __name__ == '__main__':
    sys.exit(main())
"""
COMMANDS = """
    stream stop weights demo refit identify similar query status report reproject refeaturize cost maintain erase deploy
    destroy submit logs rejects rejects-list rejects-show rejects-retry models models-list models-show models-use
    models-prune
"""
HEAVY = {
    *("pyarrow", "deltalake", "numpy", "pydantic_settings", "boto3", "botocore", "duckdb", "obstore", "PIL", "pyspark"),
    *(
        "sqlglot",
        "yaml",
        "matplotlib",
        "tensorflow",
        "ai_edge_litert",
        "rich.live",
        "rich.progress",
        "store.tables.commits",
    ),
}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "fruits"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


def _run(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}", **environment}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=env)


@pytest.mark.parametrize("by_its_module", [False, True])
def test_a_users_own_modules_are_not_taken_for_ours_or_those_we_use(
    script: Path, tmp_path: Path, by_its_module: bool
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in (
        "features",
        "store",
        "streaming",
        "batch",
        "bootstrap",
        "numpy",
        "typer",
        "rich",
        "pydantic",
        "pyarrow",
    ):
        (own / f"{name}.py").write_text("raise SystemExit('a module of the user')\n")
    create_tables(load_settings(home=str(own / "fruits-data")).places())
    command = [sys.executable, "-m", "ops"] if by_its_module else [str(script)]
    found = _run(*command, "status", "--json", cwd=own, PYTHONPATH=f"{own}{os.pathsep}{ROOT}{os.pathsep}")
    assert json.loads(found.stdout)["home"] == f"file://{own}/fruits-data", found.stderr


def test_a_users_sitecustomize_still_counts_and_ctrl_c_while_it_starts_is_one_line(
    script: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting)\n"
    )
    found = _run(script, "--help", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert (found.returncode, found.stderr) == (130, "fruits: interrupted.\n")


def test_a_working_directory_that_is_gone_is_one_sentence(script: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    found = _run("bash", "-c", f'rmdir "{gone}"; "{script}" status', cwd=gone)
    assert found.returncode == 1
    assert found.stderr.endswith(
        "fruits: The working directory was removed; change to one that exists and run the command again.\n"
    )
    assert "Traceback" not in found.stderr


@pytest.mark.processes
def test_a_name_that_is_not_utf_8_is_one_sentence_also_behind_a_link(script: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)  # noqa: PTH102 - a name of bytes
    env = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    (tmp_path / "link").symlink_to(os.fsdecode(odd))
    for arguments, cwd in ((["--home", odd], None), ([], odd), (["--home", tmp_path / "link"], None)):
        found = subprocess.run([script, "status", *arguments], capture_output=True, text=True, env=env, cwd=cwd)
        assert found.returncode == 1
        assert "caf\\udce9" in found.stderr
        assert "has a name that is not in UTF-8; rename it, or choose another directory.\n" in found.stderr


def test_it_tells_its_version_and_what_features_depend_on(script: Path) -> None:
    first, second = _run(script, "--version").stdout.splitlines()
    assert first == f"fruits {version('fruits-ingestion')}"
    for name in ("ai-edge-litert", "pillow", "pillow-heif"):
        assert f"{name} {version(name)}" in second


def test_what_explains_itself_and_every_commands_help_load_nothing_heavy() -> None:
    explaining = [["--help"], ["--version"], ["--show-completion", "bash"]]
    assert _loaded([*explaining, *([*command.split("-"), "--help"] for command in COMMANDS.split())]) & HEAVY == set()


def test_bash_completes_commands_and_options_once_that_is_installed(script: Path, tmp_path: Path) -> None:
    environment = {"HOME": f"{tmp_path}", "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    installed = _run(script, "--install-completion", "bash", **environment)
    assert installed.returncode == 0, installed.stderr
    completed = (
        'source "$HOME/.bashrc"; complete -p fruits >/dev/null || exit 1\n'
        "for words in 'fruits sta' 'fruits rejects re' 'fruits stream --max-p'; do\n"
        "    COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()\n"
        '    _fruits_completion fruits; echo "${COMPREPLY[@]}"\n'
        "done\n"
    )
    found = _run("bash", "--norc", "-c", completed, **environment)
    assert found.stdout.splitlines() == ["status", "retry", "--max-pixels"], found.stderr


def _loaded(commands: list[list[str]]) -> set[str]:
    """What a process has imported that ran these, by the modules' and their packages' names."""
    code = (
        "import json, sys\n"
        "import fruits_launcher\n"
        "from ops.cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['fruits', *arguments]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ended:\n"
        "        assert not ended.code, arguments\n"
        "print(json.dumps(list(sys.modules)), file=sys.stderr)\n"
    )
    done = _run(sys.executable, "-c", code, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stderr.splitlines()[-1])
    return {*modules, *(name.partition(".")[0] for name in modules)}
