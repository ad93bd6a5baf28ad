"""The cheapest way that keeps a promise: it holds what was promised, and no other way costs less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bootstrap.aws.cost import Workload, estimate
from bootstrap.aws.keeping import Keeping
from bootstrap.aws.prices import load_prices
from bootstrap.aws.promises import Promise, Way, ways_to_keep
from features.errors import InvalidSetting
from ops.cli.aws.cost import money
from ops.cli.main import app

PRICES = load_prices()
MILLION = Workload(1e6)


def _cheapest(promise: Promise, workload: Workload = MILLION) -> Way:
    return next(way for way in ways_to_keep(promise, workload, PRICES) if not way.needs_rule)


@pytest.mark.parametrize(
    ("promise", "settings"),
    [
        (Promise(0, 0), 'clean = "delete"'),
        (Promise(0, 395), 'clean = "reduce", keep_copies = "395d"'),
        (Promise(7, 395), 'clean = "reduce", clean_after = "7d", keep_copies = "395d"'),
        (Promise(30, 30), 'clean = "delete", clean_after = "30d"'),
    ],
)
def test_the_cheapest_way_is_told_in_settings(promise: Promise, settings: str) -> None:
    assert _cheapest(promise).settings == settings


def test_a_new_stage_keeps_what_the_default_promises_in_the_cheapest_way() -> None:
    assert _cheapest(Promise(7, 395)).keeping == Keeping()
    assert _cheapest(Promise(7, 395)).dollars == estimate(MILLION, PRICES).dollars


@given(st.sampled_from([0, 1, 7, 30, 90, 400]), st.sampled_from([0, 30, 395]), st.floats(1, 1e8))
def test_every_way_holds_the_promise_and_the_cheapest_comes_first(
    originals: float, features: float, photos: float
) -> None:
    ways = ways_to_keep(Promise(originals, features), Workload(photos), PRICES)
    assert [way.dollars for way in ways] == sorted(way.dollars for way in ways)
    assert len({way.settings for way in ways}) == len(ways)
    for way in ways:
        has_original_days = max(way.keeping.original_days, way.keeping.archive_days)
        assert has_original_days >= originals
        assert max(has_original_days, way.keeping.copy_days) >= features
        assert way.needs_rule == (" in Standard-IA" in way.settings or " in Glacier IR" in way.settings)


def test_the_command_says_the_cheapest_way_in_one_sentence_above_the_others() -> None:
    flags = ["--photos-per-day", "1000000", "--promise-originals", "7d", "--promise-features", "395d"]
    shown = CliRunner().invoke(app, ["cost", *flags], env={"COLUMNS": "200"}).stdout
    cheapest = _cheapest(Promise(7, 395))
    assert f"costs ${money(cheapest.dollars)} a month at least, with {cheapest.settings}." in shown
    assert all(
        f"{way.settings}{' *' * way.needs_rule} " in shown for way in ways_to_keep(Promise(7, 395), MILLION, PRICES)
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--promise-originals", "7"], "--promise-originals: write a number and a unit"),
        (["--promise-features", "13mo"], "--promise-features: write a number and a unit"),
    ],
)
def test_a_promise_that_is_no_duration_is_refused(flags: list[str], sentence: str) -> None:
    refused = CliRunner().invoke(app, ["cost", "--photos-per-day", "1", *flags])
    assert isinstance(refused.exception, InvalidSetting)
    assert sentence in str(refused.exception)
