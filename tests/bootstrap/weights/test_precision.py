"""An int8 featurizer: near the float32 one, calibrated on the home's photos, and never swapped in unasked."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bootstrap.weights import network
from bootstrap.weights.calibration import FEWEST_PHOTOS, PHOTOS, choose_pictures
from bootstrap.weights.featurizer import install_featurizer
from bootstrap.weights.weights import CompiledNetwork, compile_weights, fingerprint_of, initialize
from features.errors import InvalidWeights
from features.featurizer import FEATURES, Featurizer
from ops.cli.main import app
from store.errors import FeaturizerConflict
from store.home import Home
from store.models.registry import (
    FeaturizerMeta,
    Precision,
    current_featurizer,
    describe_featurizer,
    load_network,
    publish_featurizer,
)
from store.settings import load_settings
from tests.support.pictures import encoded, jpeg, pixels, text_file

LIMITS = load_settings().limits

pytestmark = pytest.mark.xdist_group("tensorflow")


@dataclass(frozen=True)
class Switched:
    """A home that went from float32 to int8, and the lines about it."""

    home: Home
    before: FeaturizerMeta
    meta: FeaturizerMeta
    said: list[str]


@pytest.fixture
def in_int8(untrained: CompiledNetwork, tmp_path: Path) -> tuple[Home, FeaturizerMeta]:
    """A home with an int8 featurizer; its network is not quantized, for nothing is computed with it."""
    home = _home(tmp_path)
    fingerprint = fingerprint_of("untrained:7", precision="int8")
    assert fingerprint is not None
    photos = f"{FEWEST_PHOTOS} photos of the landing"
    return home, publish_featurizer(home, untrained.network + b"!", untrained.source, fingerprint, "int8", photos)


@pytest.fixture(scope="module")
def switched(untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Switched:
    home = _home(tmp_path_factory.mktemp("switched"))
    before = publish_featurizer(home, untrained.network, untrained.source, untrained.fingerprint)
    _land(home.landing.directory, FEWEST_PHOTOS)
    (home.landing.directory / "notes.jpg").write_bytes(text_file())
    said: list[str] = []
    meta = install_featurizer(home, "auto", "int8", True, LIMITS, said.append)
    return Switched(home, before, meta, said)


@pytest.mark.processes
def test_int8_features_are_near_those_of_float32(switched: Switched, untrained: CompiledNetwork) -> None:
    pictures = np.stack([pixels(seed, 224, 224) for seed in range(100, 108)])
    expected = Featurizer(untrained.network).features(pictures)
    features = Featurizer(load_network(switched.home, switched.meta.id)).features(pictures)
    assert features.shape == (8, FEATURES)
    assert features.dtype == np.float32
    assert features.min() >= 0
    assert features.max() <= 6
    cosines = (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.mean() > 0.96
    assert not np.array_equal(features, expected)


@pytest.mark.processes
def test_it_is_another_featurizer_of_the_same_weights(switched: Switched) -> None:
    before, meta = switched.before, switched.meta
    assert current_featurizer(switched.home) == meta.id != before.id
    assert (meta.source, meta.precision) == ("untrained:7", "int8")
    assert meta.fingerprint == fingerprint_of("untrained:7", precision="int8") != before.fingerprint
    assert meta.network_bytes < before.network_bytes / 3
    assert describe_featurizer(switched.home, before.id) == before


@pytest.mark.processes
def test_it_is_calibrated_on_the_photos_that_landed(switched: Switched) -> None:
    assert switched.meta.calibrated_on == f"{FEWEST_PHOTOS} photos of the landing"
    assert any("mean cosine" in line for line in switched.said)
    assert not any("drawn" in line for line in switched.said)


@pytest.mark.processes
def test_the_same_photos_give_the_same_bytes_in_another_process(switched: Switched) -> None:
    compiled = compile_weights("untrained:7", print, calibrate=partial(choose_pictures, switched.home, LIMITS))
    assert hashlib.sha256(compiled.network).hexdigest() == switched.meta.network_sha256, "not the same bytes again"


@pytest.mark.parametrize("weights", ["auto", "untrained:7", "untrained:07"])
@pytest.mark.parametrize("precision", ["int8", None])
@pytest.mark.parametrize("new_featurizer", [False, True])
def test_repeating_it_changes_nothing(
    in_int8: tuple[Home, FeaturizerMeta], weights: str, precision: Precision | None, new_featurizer: bool
) -> None:
    home, meta = in_int8
    _land(home.landing.directory, 1)
    said: list[str] = []
    again = install_featurizer(home, weights, precision, new_featurizer, LIMITS, said.append)
    assert (again, said) == (meta, [])
    assert current_featurizer(home) == meta.id


@pytest.mark.parametrize("weights", ["auto", "untrained:7"])
def test_another_precision_is_refused_unless_asked_for(
    in_int8: tuple[Home, FeaturizerMeta], untrained: CompiledNetwork, tmp_path: Path, weights: str
) -> None:
    with pytest.raises(FeaturizerConflict, match=rf"\(int8, from untrained:7\); {weights} in float32 gives another"):
        install_featurizer(in_int8[0], weights, "float32", False, LIMITS, print)
    home = _home(tmp_path / "float32")
    publish_featurizer(home, untrained.network, untrained.source, untrained.fingerprint)
    with pytest.raises(FeaturizerConflict, match=rf"{weights} in int8 gives another one.* Add --new-featurizer"):
        install_featurizer(home, weights, "int8", False, LIMITS, print)


def test_auto_does_not_quantize_weights_that_the_home_never_used(untrained: CompiledNetwork, tmp_path: Path) -> None:
    source = tmp_path / "mine.weights.h5"
    source.write_bytes(b"as they are today")
    home = _home(tmp_path)
    publish_featurizer(home, untrained.network, source.as_uri(), hashlib.sha256(b"as they were").hexdigest())
    with pytest.raises(FeaturizerConflict, match=r"mine\.weights\.h5, which holds other weights today; name the"):
        install_featurizer(home, "auto", "int8", True, LIMITS, print)


@pytest.mark.parametrize("landed", [0, FEWEST_PHOTOS - 1])
def test_with_too_few_photos_pictures_are_drawn_and_it_says_so(tmp_path: Path, landed: int) -> None:
    home = _home(tmp_path)
    _land(home.landing.directory, landed)
    said: list[str] = []
    calibration = choose_pictures(home, LIMITS, said.append)
    assert calibration.description == f"{PHOTOS} drawn pictures"
    assert calibration.pictures.shape == (PHOTOS, 224, 224, 3)
    (line,) = said
    assert f"there are {landed}. Photos of your own" in line


def test_photos_that_were_archived_are_found(tmp_path: Path) -> None:
    home = _home(tmp_path)
    _land(home.archive.directory, FEWEST_PHOTOS)
    assert choose_pictures(home, LIMITS, print).description == f"{FEWEST_PHOTOS} photos of the archive"


def test_a_choice_of_many_photos_is_bounded_spread_and_the_same_again(tmp_path: Path) -> None:
    home = _home(tmp_path)
    for label in range(4):
        for number in range(30):
            path = home.landing.directory / f"{label}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(np.full((8, 8, 3), label, np.uint8), "PNG"))
    calibration = choose_pictures(home, LIMITS, print)
    assert len(calibration.pictures) == PHOTOS
    assert set(calibration.pictures[:, 0, 0, 0].tolist()) == {0, 1, 2, 3}
    assert np.array_equal(calibration.pictures, choose_pictures(home, LIMITS, print).pictures)


def test_a_network_far_from_its_weights_is_refused(untrained: CompiledNetwork) -> None:
    other = network.build()
    initialize(other, seed=8)
    with pytest.raises(InvalidWeights, match=r"mean cosine of 0\.\d{3}, where 0\.95 is the least\); use --precision"):
        network.verify_quantized(other, untrained.network, network.sample_pictures(2, seed=1))


def test_a_home_from_before_there_was_int8_is_float32(untrained: CompiledNetwork, tmp_path: Path) -> None:
    home = _home(tmp_path)
    meta = publish_featurizer(home, untrained.network, untrained.source, untrained.fingerprint)
    path = home.featurizers.directory / meta.id / "meta.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({name: known[name] for name in known if name not in ("precision", "calibrated_on")}))
    assert describe_featurizer(home, meta.id) == meta
    assert install_featurizer(home, "untrained:7", "float32", False, LIMITS, print) == meta


def test_the_command_tells_precision_and_calibration(in_int8: tuple[Home, FeaturizerMeta]) -> None:
    home, meta = in_int8
    answer = CliRunner().invoke(app, ["weights", "--precision", "int8", "--home", home.root.uri])
    assert answer.exit_code == 0, answer.output
    assert f"{meta.id}, int8, from untrained:7, calibrated on {FEWEST_PHOTOS} photos" in " ".join(answer.stdout.split())
    refused = CliRunner().invoke(app, ["weights", "--precision", "float32", "--home", home.root.uri])
    assert isinstance(refused.exception, FeaturizerConflict)


def _home(folder: Path) -> Home:
    return load_settings(home=str(folder / "home")).places()


def _land(folder: Path, photos: int) -> None:
    for seed in range(photos):
        path = folder / f"{('kiwi', 'lime')[seed % 2]}/{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
