"""The command: help that shows how, errors in one sentence, settings with one spelling."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import ops.cli.main
from features.errors import InvalidSetting
from features.featurizer import FEATURES
from ops.cli.main import app
from store.errors import AnotherStreamRunning, StateDamaged
from store.objects.landing import LandedObject
from store.settings import Settings, load_settings
from store.state.plans import Plan, write_plan
from store.tables.handles import create_tables
from tests.support.command_run import run_fruits
from tests.support.doc_tables import settings_table, with_table
from tests.support.feature_rows import commit_features

MakeSettings = Callable[..., Settings]
ROOT = Path(__file__).parents[3]
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, typer.core.TyperGroup)
COMMANDS = list(GROUP.commands)


def test_a_profile_and_a_bucket_are_all_a_command_needs(
    s3_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_settings()
    create_tables(settings.places())
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[analyst]\naws_access_key_id = A\naws_secret_access_key = S\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)

    # A process of its own: what finds credentials keeps them.
    found = subprocess.run(
        [
            *(sys.executable, "-m", "ops", "query", "SELECT count(*) AS photos FROM photos", "--format", "csv"),
            *("--home", settings.home, "--s3-endpoint", str(settings.s3_endpoint)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "AWS_PROFILE": "analyst", "PYTHONPATH": str(ROOT)},
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
    answer = run_fruits("models", command, "3", "--home", local_settings().home)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "has no PCA model 3; it has none" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("query", "SELECT 1"), "There is no home at "),
        (("stream", "--trigger", "soon"), "trigger: write a number and a unit"),
        (("stream", "--settle", "a while"), "settle: write a number and a unit"),
        (("maintain", "--keep-rows", "900000d"), "keep_rows: write 36500d"),
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
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_fruits(*arguments)
    assert answer.returncode == 1
    assert answer.stderr.startswith("fruits: ")
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_fruits("query", "SELECT 1", "--debug")
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


def test_readme_tells_every_setting_as_the_flags_do() -> None:
    readme = (ROOT / "README.md").read_text()
    assert with_table(readme, "settings", settings_table()) == readme, "run python -m tests.support.doc_tables"


def test_a_refit_keeps_at_most_as_many_components_as_there_are_features(local_settings: MakeSettings) -> None:
    assert load_settings(components=FEATURES).components == FEATURES
    home = local_settings().home
    ended = run_fruits("refit", "--home", home, "--components", str(FEATURES + 1))
    assert ended.returncode
    assert "1281 components are impossible; choose from 1 to 1280." in " ".join(ended.stderr.split())


def test_another_featurizer_is_refused_unless_asked_for(local_settings: MakeSettings) -> None:
    refused = run_fruits("weights", "untrained:8", "--home", local_settings().home)
    assert refused.returncode == 1
    assert "Add --new-featurizer to switch" in refused.stderr


@pytest.mark.processes
@pytest.mark.xdist_group("tensorflow")
def test_another_featurizer_is_compiled_if_asked_for(local_settings: MakeSettings) -> None:
    home = local_settings().home
    switched = run_fruits("weights", "untrained:8", "--new-featurizer", "--home", home)
    assert switched.returncode == 0, switched.stderr
    assert len(list((Path(home) / "models/featurizer").glob("*/network.tflite"))) == 2


def test_a_demo_where_it_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ops.demo.demo", None)
    answer = run_fruits("demo")
    assert answer.returncode == 1
    assert answer.stderr.startswith("fruits: `fruits demo` runs on a laptop: a node of a cluster has no code that")


def test_query_and_status_as_a_script_uses_them(local_settings: MakeSettings) -> None:
    settings = local_settings()
    create_tables(settings.places())
    answer = run_fruits("query", "--home", settings.home, "--format", "json", "SELECT count(*) AS photos FROM features")
    assert json.loads(answer.stdout) == {"photos": 0}
    status = run_fruits("status", "--home", settings.home, "--json", "--verify")
    assert status.returncode == 0
    assert json.loads(status.stdout)["broken"] == []


def test_a_broken_promise_is_a_failure(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path)).places()
    now = datetime.now(UTC)
    lost = LandedObject("kiwi/a.jpg", 1000, "e", now)
    write_plan(home, Plan(1, "nonce", now, now.date(), home.landing.source, "", "abc", (lost,)))
    commit_features(home, 1, now.date(), np.zeros((0, FEATURES), np.float32))
    status = run_fruits("status", "--home", str(tmp_path), "--verify")
    assert status.returncode == 1
    assert "1 planned objects have no row in features or rejects: lost." in status.stdout
