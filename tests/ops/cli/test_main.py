"""The command: help that shows how, errors in one sentence, settings with one spelling."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from deltalake import DeltaTable
from typer.testing import CliRunner

import ops.cli.main
from features.errors import InvalidSetting
from ops.cli.main import app
from store.errors import AnotherStreamRunning, StateDamaged
from store.settings import Settings, load_settings
from store.tables.handles import create_tables
from tests.support.pictures import jpeg
from tests.support.stream_run import Run

MakeSettings = Callable[..., Settings]
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, typer.core.TyperGroup)
COMMANDS = list(GROUP.commands)


def _fruits(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run([sys.executable, "-m", "ops", *arguments], capture_output=True, text=True, env=env, cwd=cwd)


def test_a_profile_and_a_bucket_are_all_a_command_needs(
    s3_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_settings()
    create_tables(settings.places())
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[analyst]\naws_access_key_id = A\naws_secret_access_key = S\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)

    found = _fruits(
        *("query", "SELECT count(*) AS photos FROM photos", "--format", "csv"),
        *("--home", settings.home, "--s3-endpoint", str(settings.s3_endpoint)),
        HOME=str(tmp_path),
        AWS_PROFILE="analyst",
    )

    assert (found.returncode, found.stdout.split()) == (0, ["photos", "0"]), found.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(command: str) -> None:
    answer = CliRunner().invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert "Example" in answer.output
    assert f"fruits {command}" in answer.output


@pytest.mark.parametrize("command", ["show", "use"])
def test_a_version_that_is_none_is_said(command: str, local_settings: MakeSettings) -> None:
    answer = _fruits("models", command, "3", "--home", local_settings().home)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "has no PCA model 3; it has none" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("query", "SELECT 1"), "There is no home at "),
        (("stream", "--trigger", "soon"), "trigger: write a number and a unit"),
        (("stream", "--settle", "a while"), "settle: write a number and a unit"),
        (("stream", "--key-pattern", "(?P<fruit>.)"), "named groups are label and subject"),
        (("stream", "--key-pattern", "("), "not a regular expression"),
        (("stream", "--clean", "burn"), "clean: "),
        (("stream", "--max-files", "0"), "max_files: "),
        (("stream", "--home", "ftp://x/y"), "is not supported; use a directory, file:// or s3://"),
        (("stream", "--home", "s3://"), "names no bucket"),
        (("weights", "nonsense"), "nonsense"),
        (("refit", "--components", "0"), "components: "),
        (("refit", "--variance", "1.5"), "variance: "),
        (("weights", "untrained:x"), "seed"),
    ],
)
def test_an_error_is_one_sentence_without_a_traceback(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    answer = _fruits(*arguments, cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith("fruits: ")
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    answer = _fruits("query", "SELECT 1", "--debug", cwd=tmp_path)
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr


@pytest.mark.parametrize("debugging", [False, True])
@pytest.mark.parametrize(
    ("error", "code"), [(AnotherStreamRunning("One."), 3), (StateDamaged("Two."), 1), (OSError(), 1)]
)
def test_the_exit_code_tells_the_kind_of_failure_also_with_its_traceback(
    error: Exception, code: int, debugging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("ops.cli.main.app", fail)
    monkeypatch.setattr("ops.cli.main.DEBUGGING", threading.Event())
    if debugging:
        ops.cli.main.DEBUGGING.set()
    with pytest.raises(SystemExit) as ended:
        ops.cli.main.main()
    assert ended.value.code == code


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().max_files == Settings.model_fields["max_files"].default
    Path("fruits.toml").write_text('max_files = 1\ntrigger = "5s"\nmax_bytes = "2GiB"\n')
    assert (load_settings().max_files, load_settings().max_bytes) == (1, 2 * 2**30)
    monkeypatch.setenv("FRUITS_MAX_FILES", "2")
    assert load_settings().max_files == 2
    assert load_settings(max_files=3).max_files == 3
    assert load_settings().trigger.total_seconds() == 5


def test_a_misspelt_setting_in_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fruits.toml").write_text("max_flies = 1\n")
    with pytest.raises(InvalidSetting, match="max_flies"):
        load_settings()
    Path("fruits.toml").write_text("max_files = = 1\n")
    with pytest.raises(InvalidSetting, match=r"fruits\.toml"):
        load_settings()


def test_another_featurizer_is_refused_unless_asked_for(local_settings: MakeSettings) -> None:
    home = local_settings().home
    refused = _fruits("weights", "untrained:8", "--home", home)
    assert refused.returncode == 1
    assert "Add --new-featurizer to switch" in refused.stderr
    switched = _fruits("weights", "untrained:8", "--new-featurizer", "--home", home)
    assert switched.returncode == 0, switched.stderr
    assert len(list((Path(home) / "models/featurizer").glob("*/network.tflite"))) == 2


def test_query_and_status_as_a_script_uses_them(local_settings: MakeSettings) -> None:
    settings = local_settings()
    create_tables(settings.places())
    answer = _fruits("query", "--home", settings.home, "--format", "json", "SELECT count(*) AS photos FROM features")
    assert json.loads(answer.stdout) == {"photos": 0}
    status = _fruits("status", "--home", settings.home, "--json", "--verify")
    assert status.returncode == 0
    assert json.loads(status.stdout)["broken"] == []


def test_a_broken_promise_is_a_failure(local_settings: MakeSettings, drain: Callable[[Settings], Run]) -> None:
    settings = local_settings()
    home = settings.places()
    home.landing.create()
    (home.landing.directory / "a.jpg").write_bytes(jpeg(seed=1))
    drain(settings)
    DeltaTable(home.features.uri).delete()
    status = _fruits("status", "--home", settings.home, "--verify")
    assert status.returncode == 1
    assert "1 planned objects have no row in features or rejects: lost." in status.stdout
