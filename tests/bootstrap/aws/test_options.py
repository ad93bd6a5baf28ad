"""What a stage's stream runs with: a new stage reduces, and one that exists keeps its rule until another one is set."""

from datetime import timedelta

import pytest

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.options import keeps_copies, remembered_parameters, stream_options
from bootstrap.aws.stack import Stack
from bootstrap.aws.template import read_template
from store.settings import Settings, load_settings

# Nobody asks it: a stack without a cluster has no last stream.
CLOUD = Cloud("dev", "eu-west-3", "123456789012", "administrator")
REDUCED = ("--clean", "reduce", "--clean-after", "7d")
ARCHIVED = ("--clean", "archive", "--clean-after", "1h")


def _stack(**parameters: str) -> Stack:
    return Stack("UPDATE_COMPLETE", {"Stage": "dev"} | parameters, {})


def _deployed(settings: Settings, stack: Stack | None) -> tuple[tuple[str, ...], Stack]:
    """The options, and the stack as the deployment leaves it."""
    options = stream_options(CLOUD, settings, stack)
    before = stack.parameters if stack else {}
    return options, _stack(**(before | remembered_parameters(settings, stack, options)))


def test_a_new_stage_keeps_originals_for_a_week_and_copies_for_13_months() -> None:
    options, stack = _deployed(load_settings(), None)
    assert options == REDUCED
    assert keeps_copies(options)
    assert (stack.parameters["Clean"], stack.parameters["CleanAfter"]) == ("reduce", "7d")
    assert stack.parameters["CopyDays"] == "395"
    # Killed before there was a cluster, or taken down by `fruits destroy`: the next deployment goes on.
    assert _deployed(load_settings(), stack) == (options, stack)


def test_a_stage_of_the_last_release_keeps_its_archive() -> None:
    options, stack = _deployed(load_settings(), _stack())
    assert options == ARCHIVED
    assert not keeps_copies(options)
    assert "CopyDays" not in stack.parameters
    assert _deployed(load_settings(), stack) == (options, stack)


@pytest.mark.parametrize(
    ("set_", "options"),
    [
        ({"clean": "archive"}, ARCHIVED),
        ({"clean": "keep"}, ("--clean", "keep", "--clean-after", "1h")),
        ({"clean": "archive", "copies": True}, (*ARCHIVED, "--copies")),
        ({"clean_after": "30d"}, ("--clean", "reduce", "--clean-after", "2592000000ms")),
    ],
)
def test_a_new_stage_takes_what_is_set_and_remembers_it(set_: dict[str, object], options: tuple[str, ...]) -> None:
    found, stack = _deployed(load_settings(**set_), None)
    assert found == options
    assert ("CopyDays" in stack.parameters) == keeps_copies(options)
    rule = options[:4]
    assert stream_options(CLOUD, load_settings(), stack) == rule


def test_another_rule_has_its_own_time_unless_one_is_set() -> None:
    assert stream_options(CLOUD, load_settings(clean="reduce"), _stack()) == REDUCED
    both = load_settings(clean="reduce", clean_after="2h")
    assert stream_options(CLOUD, both, _stack()) == ("--clean", "reduce", "--clean-after", "7200000ms")


def test_how_long_copies_stay_changes_only_when_it_is_set() -> None:
    longer = load_settings(keep_copies="400d")
    _, stack = _deployed(longer, _stack(CopyDays="0"))
    assert stack.parameters["CopyDays"] == "400"
    assert _deployed(load_settings(), stack)[1].parameters["CopyDays"] == "400"
    part = remembered_parameters(longer.model_copy(update={"keep_copies": timedelta(hours=30)}), None, REDUCED)
    assert part["CopyDays"] == "2"


def test_the_stack_remembers_as_a_stage_of_the_last_release_had_it() -> None:
    parameters = read_template().sections["Parameters"]
    assert (parameters["Clean"]["Default"], parameters["CleanAfter"]["Default"]) == (ARCHIVED[1], ARCHIVED[3])
