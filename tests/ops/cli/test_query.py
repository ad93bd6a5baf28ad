"""`fruits query` by name: the list, the SQL, parameters as flags, and one sentence for what cannot be asked."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.errors import InvalidSetting
from ops.cli.main import app
from ops.query.named_queries import named_queries, named_query
from store.settings import load_settings
from store.tables.handles import create_tables

RUNNER = CliRunner()


@pytest.mark.parametrize("arguments", [[], ["--list"], ["arrivals", "--list"]])
def test_the_list_names_each_query_with_its_parameters(arguments: list[str]) -> None:
    rows = [
        json.loads(line) for line in RUNNER.invoke(app, ["query", *arguments, "--format", "json"]).stdout.splitlines()
    ]
    assert {row["query"]: row["what it answers"] for row in rows} == {
        each.name: each.answers for each in named_queries()
    }
    nearest = next(row for row in rows if row["query"] == "nearest")
    assert nearest["parameters"] == "--image VARCHAR [--k 10]"
    to_label = next(row for row in rows if row["query"] == "to_label")
    assert to_label["parameters"] == "[--since '28 days ago'] [--random] [--limit 100]"


def test_show_prints_the_file_and_asks_for_no_parameter() -> None:
    answer = RUNNER.invoke(app, ["query", "nearest", "--show"])
    assert answer.stdout == named_query("nearest").sql


def test_parameters_are_flags_in_both_spellings(tmp_path: Path) -> None:
    create_tables(load_settings(home=str(tmp_path)).places())
    for arguments in (["--image", "0", "--k", "2"], ["--k=2", "--image=0"]):
        answer = RUNNER.invoke(app, ["query", "nearest", *arguments, "--home", str(tmp_path), "--format", "csv"])
        assert answer.exception is None
        assert answer.stdout == "neighbour,label,distance,copies,source,image_id\n"
        assert answer.stderr.startswith("No photo has such an image_id in the served PCA version")


def test_a_switch_takes_no_value(tmp_path: Path) -> None:
    create_tables(load_settings(home=str(tmp_path)).places())
    for arguments in (["--random", "--limit", "2"], ["--limit=2", "--random"], ["--random=false"], []):
        answer = RUNNER.invoke(app, ["query", "to_label", *arguments, "--home", str(tmp_path), "--format", "csv"])
        assert answer.exception is None
        assert answer.stdout == "image_id,label,origin,predicted,confidence,novelty,source,ingest_date\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["narest"], "No query is named narest, and it is no SQL; did you mean nearest?"),
        (["Arrivals"], "did you mean arrivals?"),
        (["zzz"], "there are accuracy, arrivals, centroids,"),
        (["nearest"], "nearest needs --image: the image_id of the photo, or its first characters."),
        (["nearest", "--imgae", "0"], "nearest has no parameter --imgae; it has --image and --k."),
        (["nearest", "--image"], "--image has no value: write --image VALUE."),
        (["nearest", "--image", "0", "--image=1"], "--image is given twice; give it once."),
        (["nearest", "--image", "0", "--k", "many"], "--k must be a whole number from 1 to 2147483647, not 'many'."),
        (["arrivals", "--since", "soon"], "--since must be a day like 2026-10-31 or '7 days ago', not 'soon'."),
        (["to_label", "--random", "yes"], "'yes' is one word too many"),
        (["to_label", "--random=yes"], "--random must be true or false, not 'yes'."),
        (["to_label", "--random", "--random"], "--random is given twice; give it once."),
        (["SELECT", "1"], "No query is named SELECT"),
        (["arrivals", "today"], "'today' is one word too many: quote SQL as a whole"),
        (["SELECT 1", "--since", "2026-10-31"], "SQL takes no --since"),
        (["--image", "0", "nearest"], "A query begins with its name or is SQL, not --image"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(arguments: list[str], sentence: str) -> None:
    answer = RUNNER.invoke(app, ["query", *arguments])
    assert isinstance(answer.exception, InvalidSetting)
    assert sentence in str(answer.exception)
