"""A home that is none, or cannot be read or written, is one sentence; one in which nothing was ingested is fine."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from features.errors import InvalidSetting
from ops.cli.main import app
from store.aws import session
from store.errors import AccessDenied, BucketMissing, HomeMissing, HomeNotWritable
from store.settings import Settings
from store.tables.handles import create_tables
from tests.support.command_run import run_fruits
from tests.support.fault_proxy import Rule, s3_error, set_rules
from tests.support.feature_rows import commit_features, feature_vectors

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MakeSettings = Callable[..., Settings]
ROOT = Path(__file__).parents[3]
MAKE_HOMES = {"stream": ("--drain",), "weights": ("untrained:7",), "demo": ()}
NEEDED = {
    "query": ("SELECT 1",),
    "erase": ("--source", "kiwi/a.jpg", "--yes"),
    "identify": ("kiwi.jpg",),
    "similar": ("kiwi.jpg",),
    "label": ("0582defab0a9", "kiwi"),
    "models show": ("1",),
    "models compare": ("1", "2"),
    "models use": ("1",),
    "rejects show": ("kiwi/a.jpg",),
    "rejects retry": ("--reason", "missing"),
}
DENIED = s3_error("AccessDenied", "Access Denied")


def _commands(group: typer.core.TyperGroup, above: str = "") -> Iterator[str]:
    """All commands that open a home, also those below others, by what one types."""
    for name, command in group.commands.items():
        if any(parameter.name == "home" for parameter in command.params):
            yield f"{above}{name}"
        if isinstance(command, typer.core.TyperGroup):
            yield from _commands(command, f"{name} ")


def _all() -> list[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return list(_commands(group))


READERS = [command for command in _all() if command not in MAKE_HOMES]


def _error(command: str, home: str, *more: str) -> BaseException | None:
    arguments = [*command.split(), *NEEDED.get(command, MAKE_HOMES.get(command, ())), "--home", home, *more]
    answer = CliRunner().invoke(app, arguments)
    assert answer.stdout == ""
    return answer.exception


def _keys(s3: "S3Client", bucket: str) -> int:
    return s3.list_objects_v2(Bucket=bucket)["KeyCount"]


def test_the_commands_are_those_of_the_app() -> None:
    assert set(MAKE_HOMES) | set(NEEDED) <= set(_all())
    assert {"status", "maintain", "erase", "refit", "models prune", "rejects list"} <= set(READERS)


@pytest.mark.parametrize("kind", ["nothing", "an empty directory", "other things", "a file"])
@pytest.mark.parametrize("command", READERS)
def test_a_directory_that_is_no_home_is_said_and_stays_as_it_is(command: str, kind: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    if kind == "other things":
        (home / "state").mkdir(parents=True)
        (home / "state/terraform.tfstate").write_text("{}")
    elif kind == "an empty directory":
        home.mkdir()
    elif kind == "a file":
        home.write_text("words")
    before = sorted(tmp_path.rglob("*"))
    error = _error(command, str(home))
    assert isinstance(error, HomeMissing), error
    assert str(error) == (
        f"There is no home at file://{home}; check --home, or make one with `fruits stream` or `fruits weights`."
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_prefix_in_which_nothing_is_is_no_home(bucket: str, s3_server: str, s3: "S3Client") -> None:
    for command in READERS:
        error = _error(command, f"s3://{bucket}/typo", "--s3-endpoint", s3_server)
        assert isinstance(error, HomeMissing), (command, error)
    assert _keys(s3, bucket) == 0


def test_a_bucket_that_does_not_exist_is_said(s3_server: str) -> None:
    for command in _all():
        if command != "demo":
            error = _error(command, "s3://nobody-made-this/home", "--s3-endpoint", s3_server)
            assert isinstance(error, BucketMissing), (command, error)
            assert str(error) == "There is no bucket nobody-made-this; create it, or name another one."


def test_a_home_that_may_not_be_read_is_said_with_what_to_grant(s3_settings: MakeSettings, proxy: str) -> None:
    settings = s3_settings()
    set_rules(proxy, Rule("GET", "home", answer=403, body=DENIED, times=-1))
    for command in READERS:
        error = _error(command, settings.home, "--s3-endpoint", proxy)
        assert isinstance(error, AccessDenied), (command, error)
        assert str(error) == (
            f"Access to {settings.home} was refused: Access Denied (AccessDenied). "
            "Use credentials that may read there (s3:ListBucket and s3:GetObject), or grant that to these."
        )


def test_who_may_read_only_the_tables_may_query(s3_settings: MakeSettings, proxy: str) -> None:
    settings = s3_settings(s3_endpoint=proxy)
    create_tables(settings.places())
    set_rules(proxy, Rule("GET", r"home/models/featurizer", answer=403, body=DENIED, times=-1))
    answer = CliRunner().invoke(
        app, ["query", "SELECT 1 AS one", "--format", "csv", "--home", settings.home, "--s3-endpoint", proxy]
    )
    assert (answer.exit_code, answer.stdout.split()) == (0, ["one", "1"]), answer.exception


@pytest.mark.parametrize("lost", ["models", "state", "models and state"])
def test_a_home_that_lost_something_is_one_still(lost: str, local_settings: MakeSettings) -> None:
    settings = local_settings()
    commit_features(settings.places(), 1, date(2026, 10, 3), feature_vectors(2, 1))
    for folder in lost.split(" and "):
        subprocess.run(["rm", "-rf", f"{settings.home}/{folder}"], check=True)
    answer = CliRunner().invoke(app, ["query", "SELECT 1 AS one", "--format", "csv", "--home", settings.home])
    assert (answer.exit_code, answer.stdout.split()) == (0, ["one", "1"]), answer.exception


@pytest.mark.parametrize("command", MAKE_HOMES)
@pytest.mark.parametrize("place", ["below a file", "/proc/fruits", "/sys/fruits"])
def test_a_directory_that_cannot_be_written_is_noticed_before_anything_begins(
    command: str, place: str, tmp_path: Path
) -> None:
    home = place
    if place == "below a file":
        (tmp_path / "file").write_text("words")
        home = f"{tmp_path}/file/home"
    answer = CliRunner().invoke(app, [command, *MAKE_HOMES[command], "--home", home])
    assert isinstance(answer.exception, HomeNotWritable), answer.exception
    assert answer.output == ""
    if place == "below a file":
        assert str(answer.exception).endswith(f"because {tmp_path}/file is no directory; choose another.")
    assert not Path(home).exists()


@pytest.mark.parametrize("command", ["stream", "weights"])
def test_a_bucket_that_may_not_be_written_is_noticed_before_anything_begins(
    command: str, bucket: str, proxy: str, s3: "S3Client"
) -> None:
    # The rule replaces the answer of a request that is carried out, so nothing may have been written even so.
    set_rules(proxy, Rule("PUT", bucket, answer=403, body=DENIED, times=-1))
    error = _error(command, f"s3://{bucket}/home", "--s3-endpoint", proxy)
    assert isinstance(error, HomeNotWritable), error
    assert "s3:PutObject" in str(error)
    assert _keys(s3, bucket) == 0


def test_a_landing_that_cannot_be_made_is_noticed_before_spark_starts(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["stream", "--home", f"{tmp_path}/home", "--landing", "/proc/landing"])
    assert isinstance(answer.exception, HomeNotWritable), answer.exception
    assert list(tmp_path.iterdir()) == []


def test_a_demo_on_s3_is_refused_before_it_makes_anything(
    bucket: str, s3_server: str, s3: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_S3_ENDPOINT", s3_server)
    error = _error("demo", f"s3://{bucket}/home")
    assert isinstance(error, InvalidSetting), error
    assert _keys(s3, bucket) == 0


NOT_INGESTED = [
    "reproject",
    "refeaturize",
    "maintain",
    "models prune",
    "stop",
    "query arrivals",
    "report",
    "rejects",
    "rejects list",
]
NOT_INGESTED += ["rejects retry --reason missing", "models", "erase --source kiwi/a.jpg --yes"]


@pytest.mark.parametrize("command", NOT_INGESTED)
def test_a_home_in_which_nothing_was_ingested_is_no_failure(command: str, local_settings: MakeSettings) -> None:
    answer = run_fruits(*command.split(), "--home", local_settings().home)
    assert answer.returncode == 0, answer.stderr
    [said] = (answer.stdout + answer.stderr).splitlines()
    assert any(word in said for word in ("yet", "Nothing to drop", "no version", "No stream is running"))


@pytest.mark.processes
def test_a_refit_in_which_nothing_was_ingested_is_no_failure(local_settings: MakeSettings) -> None:
    # A process of its own, for it has a Spark of its own.
    command = [sys.executable, "-m", "ops", "refit", "--reproject", "--home", local_settings().home]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    [said] = answer.stderr.splitlines()
    assert "yet" in said


@pytest.mark.processes
@pytest.mark.parametrize(("options", "returncode"), [(["--if-enough"], 0), ([], 1)])
def test_a_refit_of_too_few_rows_is_a_failure_unless_it_was_to_wait_for_them(
    options: list[str], returncode: int, local_settings: MakeSettings
) -> None:
    settings = local_settings()
    commit_features(settings.places(), 1, date(2026, 11, 1), feature_vectors(3, seed=1))
    command = [sys.executable, "-m", "ops", "refit", "--reproject", *options, "--home", settings.home]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    said = "There are 3 rows and 1,000 are asked for; wait, or lower --min-rows."
    assert answer.returncode == returncode, answer.stderr
    assert said in (answer.stderr if returncode else answer.stdout)


@pytest.mark.parametrize("command", ["status", "status --verify"])
def test_the_status_of_a_home_in_which_nothing_was_ingested_is_healthy(
    command: str, local_settings: MakeSettings
) -> None:
    home = local_settings().home
    answer = run_fruits(*command.split(), "--home", home)
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"Healthy: nothing has run on file://{home} yet and nothing waits.\n")


def test_a_region_is_found_for_a_queue_on_another_host(
    s3_settings: MakeSettings, s3_server: str, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_settings()
    create_tables(settings.places())
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", f"/nowhere/{uuid.uuid4()}")
    # It would remember the region and the file of before.
    session.cache_clear()
    try:
        place = ("--home", settings.home, "--s3-endpoint", s3_server, "--queue", queue_url)
        answer = run_fruits("status", *place)
    finally:
        session.cache_clear()
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "0 messages, 0 in flight" in answer.stdout
