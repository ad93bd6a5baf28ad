"""A model is published once and whole; the pointer moves as if nobody else wrote it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from features.errors import FruitsError
from features.pca import Pca, fit, moments_of
from store.errors import AnotherRefit, StateDamaged, UnknownModel
from store.home import Home
from store.models.pca_models import (
    Current,
    PcaMeta,
    PcaModel,
    begin_switch,
    check_no_other_switch,
    current_models,
    describe_model,
    featurizers_in_use,
    finish_switch,
    load_model,
    next_version,
    publish_model,
    versions,
    versions_to_project,
    write_copies,
)
from store.objects.operations import keys_below, overwrite, read
from store.settings import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def pca() -> Pca:
    rows = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    return fit(moments_of([rows], 8), 3, None)


def _model(pca: Pca, version: int, nonce: str = "ours", featurizer: str = "abc") -> PcaModel:
    fitted_at = datetime(2026, 10, 3, tzinfo=UTC)
    return PcaModel(PcaMeta(version, featurizer, pca.rows, 3, 0.9, fitted_at, None, None, nonce), pca)


def test_a_published_model_is_read_back_to_the_bit(home: Home, pca: Pca) -> None:
    model = _model(pca, next_version(home))
    publish_model(home, model)
    there = load_model(home, 1)
    assert there.meta == model.meta == describe_model(home, 1)
    for name in ("mean", "components", "explained_variance", "explained_variance_ratio"):
        np.testing.assert_array_equal(getattr(there.pca, name), getattr(pca, name))
    assert (versions(home), next_version(home)) == ([1], 2)


def test_people_can_read_what_is_known_of_a_model(local_settings: MakeSettings, pca: Pca) -> None:
    home = local_settings().places()
    publish_model(home, _model(pca, 7))
    write_copies(home, _model(pca, 7).meta, b"a picture")
    folder = home.pca_models.directory / "v000007"
    assert json.loads((folder / "meta.json").read_text())["components"] == 3
    assert (folder / "scree.png").read_bytes() == b"a picture"


def test_of_refits_that_publish_at_once_one_wins_and_the_others_say_so(home: Home, pca: Pca) -> None:
    start = threading.Barrier(4)

    def race(name: str) -> str | None:
        start.wait()
        try:
            publish_model(home, _model(pca, 1, name))
        except AnotherRefit as error:
            assert "Another refit published version 1" in str(error)
            return None
        return name

    with ThreadPoolExecutor(4) as pool:
        [winner] = filter(None, pool.map(race, "abcd"))
    assert load_model(home, 1).meta.nonce == winner
    assert list(keys_below(home.pca_models)) == ["v000001/model.npz"]


def test_a_replayed_publication_is_recognised(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 1))
    publish_model(home, _model(pca, 1))
    assert versions(home) == [1]


@pytest.mark.parametrize("copy", [None, b"", b"{}"])
def test_a_model_is_whole_whatever_became_of_its_copies(home: Home, pca: Pca, copy: bytes | None) -> None:
    publish_model(home, _model(pca, 1))
    if copy is not None:
        overwrite(home.pca_models, "v000001/meta.json", copy)
    assert describe_model(home, 1).nonce == "ours"


def test_every_damaged_byte_of_a_model_is_noticed_or_harmless(local_settings: MakeSettings, pca: Pca) -> None:
    home = local_settings().places()
    publish_model(home, _model(pca, 1))
    body = read(home.pca_models, "v000001/model.npz")
    for at in range(0, len(body), 7):
        damaged = body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :]
        overwrite(home.pca_models, "v000001/model.npz", damaged)
        with suppress(StateDamaged):
            np.testing.assert_array_equal(load_model(home, 1).pca.components, pca.components)


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04", b"no arrays at all"])
def test_a_damaged_model_is_refused(home: Home, body: bytes) -> None:
    overwrite(home.pca_models, "v000001/model.npz", body)
    with pytest.raises(StateDamaged, match=r"model\.npz cannot be read; restore it, or refit"):
        load_model(home, 1)


def test_an_unknown_model_is_refused_with_those_there_are(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 2))
    with pytest.raises(UnknownModel, match=r"has no PCA model 5; it has 2\."):
        describe_model(home, 5)


def test_a_switch_goes_from_next_to_served(home: Home, pca: Pca) -> None:
    assert current_models(home).versions == ()
    first = begin_switch(home, 1)
    assert (first.serving, first.next) == (None, 1)
    assert finish_switch(home, first, "abc") == finish_switch(home, first, "abc")
    assert current_models(home).versions == (1,)
    second = begin_switch(home, 2)
    assert begin_switch(home, 2) == second
    assert current_models(home).versions == (1, 2)
    assert begin_switch(home, 1).versions == (1,)


def test_a_version_that_was_overtaken_is_not_served(home: Home) -> None:
    first = begin_switch(home, 1)
    second = begin_switch(home, 2)
    with pytest.raises(AnotherRefit, match="The switch to version 1 gave way to a later one, to version 2"):
        finish_switch(home, first, "abc")
    assert current_models(home) == second


def test_a_switch_that_was_given_up_and_begun_again_is_not_finished_by_the_first_one(home: Home) -> None:
    begin_switch(home, 1)
    paused = begin_switch(home, 2)
    # In between, rows arrived that have version 3 only.
    finish_switch(home, begin_switch(home, 3), "abc")
    again = begin_switch(home, 2)
    with pytest.raises(AnotherRefit, match="gave way to a later one"):
        finish_switch(home, paused, "abc")
    assert current_models(home) == again
    assert finish_switch(home, again, "abc").versions == (2,)


def test_a_switch_that_was_called_off_says_what_is_served(home: Home) -> None:
    finish_switch(home, begin_switch(home, 1), "abc")
    called_off = begin_switch(home, 2)
    begin_switch(home, 1)
    with pytest.raises(AnotherRefit, match=r"Version 2 is not on its way any more: version 1 is served\."):
        finish_switch(home, called_off, "abc")


def test_a_switch_that_begins_while_the_served_version_is_completed_says_so(home: Home) -> None:
    completing = finish_switch(home, begin_switch(home, 1), "abc")
    check_no_other_switch(completing, current_models(home))
    with pytest.raises(AnotherRefit, match="The switch to version 1 gave way to a later one, to version 2"):
        check_no_other_switch(completing, begin_switch(home, 2))


def test_a_slow_refit_does_not_undo_the_switch_to_a_newer_version(home: Home) -> None:
    newer = begin_switch(home, 9, newer_only=True)
    assert begin_switch(home, 8, newer_only=True) == newer
    finish_switch(home, newer, "abc")
    assert begin_switch(home, 8, newer_only=True).versions == (9,)
    assert begin_switch(home, 10, newer_only=True).next == 10


def test_a_number_is_never_given_twice(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 1))
    finish_switch(home, begin_switch(home, 4), "abc")
    assert next_version(home) == 5


def test_rows_are_projected_with_the_versions_of_their_featurizer_only(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 1, featurizer="abc"))
    publish_model(home, _model(pca, 2, featurizer="xyz"))
    finish_switch(home, begin_switch(home, 1), "abc")
    begin_switch(home, 2)
    assert versions_to_project(home, ["abc"]) == (1,)
    assert versions_to_project(home, ["xyz"]) == (2,)
    assert versions_to_project(home, ["xyz", "abc"]) == (1, 2)
    assert featurizers_in_use(home, "xyz") == ("xyz", "abc")


def test_the_pointer_is_one_line_of_json_in_a_folder_of_its_own(home: Home) -> None:
    begun = begin_switch(home, 7)
    assert list(keys_below(home.pca_models)) == ["current/CURRENT.json"]
    line = read(home.pca_models, "current/CURRENT.json")
    assert b"\n" not in line
    assert json.loads(line) == {"serving": None, "next": 7, "nonce": begun.nonce, "featurizer": None}
    finish_switch(home, begun, "abc")
    served = {"serving": 7, "next": None, "nonce": None, "featurizer": "abc"}
    assert json.loads(read(home.pca_models, "current/CURRENT.json")) == served


def test_a_damaged_pointer_is_refused(local_settings: MakeSettings) -> None:
    home = local_settings().places()
    begin_switch(home, 1)
    Path(home.pca_models.directory / "current/CURRENT.json").write_text("{")
    with pytest.raises(StateDamaged, match=r"CURRENT\.json cannot be read"):
        begin_switch(home, 2)


def test_no_change_of_the_pointer_is_lost_when_many_change_it_at_once(home: Home) -> None:
    start = threading.Barrier(4)

    def switch(version: int) -> Current | FruitsError:
        start.wait()
        begun = begin_switch(home, version)
        try:
            return finish_switch(home, begun, "abc")
        except AnotherRefit as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(switch, [1, 2, 3, 4]))
    last = current_models(home)
    served = [end.serving for end in ends if isinstance(end, Current)]
    assert served
    assert last.serving in served
    assert last.next is None or last.next not in served
