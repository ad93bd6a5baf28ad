"""A model is published once and whole; the pointer moves as if nobody else wrote it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from features.errors import AnotherRefit, FruitsError, StateDamaged, UnknownModel
from features.home import Home
from features.objects import keys_below, overwrite
from features.pca import Pca, fit, moments_of
from features.pca_models import (
    Current,
    PcaMeta,
    PcaModel,
    begin_switch,
    current_models,
    describe_model,
    finish_switch,
    load_model,
    next_version,
    publish_model,
    versions,
    versions_to_project,
)
from features.settings import Settings

MakeSettings = Callable[..., Settings]
PICTURE = b"a picture"


@pytest.fixture(params=["disk", "s3"])
def home(request: pytest.FixtureRequest) -> Home:
    make: MakeSettings = request.getfixturevalue("local_settings" if request.param == "disk" else "s3_settings")
    return make().places()


@pytest.fixture(scope="module")
def pca() -> Pca:
    rows = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    return fit(moments_of([rows], 8), 3, None)


def _model(pca: Pca, version: int, nonce: str = "ours", featurizer: str = "abc") -> PcaModel:
    fitted_at = datetime(2026, 10, 3, tzinfo=UTC)
    return PcaModel(PcaMeta(version, featurizer, pca.rows, 3, 0.9, fitted_at, None, None, nonce), pca)


def test_a_published_model_is_read_back_to_the_bit(home: Home, pca: Pca) -> None:
    model = _model(pca, next_version(home))
    publish_model(home, model, PICTURE)
    there = load_model(home, 1)
    assert there.meta == model.meta == describe_model(home, 1)
    for name in ("mean", "components", "explained_variance", "explained_variance_ratio"):
        np.testing.assert_array_equal(getattr(there.pca, name), getattr(pca, name))
    assert (versions(home), next_version(home)) == ([1], 2)


def test_people_can_read_what_is_known_of_a_model(local_settings: MakeSettings, pca: Pca) -> None:
    home = local_settings().places()
    publish_model(home, _model(pca, 7), PICTURE)
    folder = home.pca_models.directory / "v000007"
    assert json.loads((folder / "meta.json").read_text())["components"] == 3
    assert (folder / "scree.png").read_bytes() == PICTURE


def test_of_refits_that_publish_at_once_one_wins_and_the_others_say_so(home: Home, pca: Pca) -> None:
    start = threading.Barrier(4)

    def race(name: str) -> str | None:
        start.wait()
        try:
            publish_model(home, _model(pca, 1, name), name.encode())
        except AnotherRefit as error:
            assert "Another refit published version 1" in str(error)
            return None
        return name

    with ThreadPoolExecutor(4) as pool:
        [winner] = filter(None, pool.map(race, "abcd"))
    assert load_model(home, 1).meta.nonce == winner
    assert sorted(keys_below(home.pca_models)) == ["v000001/meta.json", "v000001/model.npz", "v000001/scree.png"]


def test_a_replayed_publication_is_recognised(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 1), PICTURE)
    publish_model(home, _model(pca, 1), PICTURE)
    assert versions(home) == [1]


def test_a_model_whose_copies_a_kill_left_out_is_whole(local_settings: MakeSettings, pca: Pca) -> None:
    home = local_settings().places()
    publish_model(home, _model(pca, 1), PICTURE)
    (home.pca_models.directory / "v000001/meta.json").unlink()
    assert describe_model(home, 1).nonce == "ours"


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04", b"no arrays at all"])
def test_a_damaged_model_is_refused(home: Home, body: bytes) -> None:
    overwrite(home.pca_models, "v000001/model.npz", body)
    with pytest.raises(StateDamaged, match=r"model\.npz cannot be read; restore it, or refit"):
        load_model(home, 1)


def test_an_unknown_model_is_refused_with_those_there_are(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 2), PICTURE)
    with pytest.raises(UnknownModel, match=r"has no PCA model 5; it has 2\."):
        describe_model(home, 5)


def test_a_switch_goes_from_next_to_served(home: Home, pca: Pca) -> None:
    assert current_models(home) == Current()
    assert begin_switch(home, 1) == Current(None, 1)
    assert finish_switch(home, 1) == finish_switch(home, 1) == Current(1, None)
    assert begin_switch(home, 2) == begin_switch(home, 2) == Current(1, 2)
    assert current_models(home).versions == (1, 2)
    assert begin_switch(home, 1) == Current(1, None)


def test_a_version_that_was_overtaken_is_not_served(home: Home) -> None:
    begin_switch(home, 1)
    begin_switch(home, 2)
    with pytest.raises(AnotherRefit, match=r"Version 1 is not the next one any more \(2 is\)"):
        finish_switch(home, 1)
    assert current_models(home) == Current(None, 2)


def test_a_slow_refit_does_not_undo_the_switch_to_a_newer_version(home: Home) -> None:
    begin_switch(home, 9, newer_only=True)
    assert begin_switch(home, 8, newer_only=True) == Current(None, 9)
    assert begin_switch(home, 10, newer_only=True) == Current(None, 10)


def test_rows_are_projected_with_the_versions_of_their_featurizer_only(home: Home, pca: Pca) -> None:
    publish_model(home, _model(pca, 1, featurizer="abc"), PICTURE)
    publish_model(home, _model(pca, 2, featurizer="xyz"), PICTURE)
    begin_switch(home, 1)
    finish_switch(home, 1)
    begin_switch(home, 2)
    assert versions_to_project(home, "abc") == (1,)
    assert versions_to_project(home, "xyz") == (2,)


def test_a_damaged_pointer_is_refused(local_settings: MakeSettings) -> None:
    home = local_settings().places()
    begin_switch(home, 1)
    Path(home.pca_models.directory / "CURRENT.json").write_text("{")
    with pytest.raises(StateDamaged, match=r"CURRENT\.json cannot be read"):
        begin_switch(home, 2)


def test_no_change_of_the_pointer_is_lost_when_many_change_it_at_once(home: Home) -> None:
    start = threading.Barrier(4)

    def switch(version: int) -> Current | FruitsError:
        start.wait()
        begin_switch(home, version)
        try:
            return finish_switch(home, version)
        except AnotherRefit as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(switch, [1, 2, 3, 4]))
    last = current_models(home)
    served = [end.serving for end in ends if isinstance(end, Current)]
    assert served
    assert last.serving in served
    assert last.next is None or last.next not in served
