"""The compiled network is the Keras network, picture by picture."""

from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from bootstrap.weights import network
from bootstrap.weights.weights import CompiledNetwork, initialize
from features.errors import InvalidWeights
from features.featurizer import FEATURES, Featurizer

if TYPE_CHECKING:
    import keras

pytestmark = pytest.mark.xdist_group("tensorflow")

PICTURES = 11


@pytest.fixture(scope="module")
def featurizer(untrained: CompiledNetwork) -> Featurizer:
    return Featurizer(untrained.network)


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return network.sample_pictures(PICTURES, seed=42)


@pytest.fixture(scope="module")
def model() -> "keras.Model":
    """The weights of `untrained`, in Keras."""
    model = network.build()
    initialize(model, seed=7)
    return model


@pytest.fixture(scope="module")
def expected(model: "keras.Model", pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _features_of_keras(model, pictures)


@pytest.mark.parametrize("count", [0, 1, 8, PICTURES])
def test_any_number_of_pictures_gives_what_keras_gives(
    featurizer: Featurizer, pictures: NDArray[np.uint8], expected: NDArray[np.float32], count: int
) -> None:
    features = featurizer.features(pictures[:count])
    assert features.shape == (count, FEATURES)
    assert features.dtype == np.float32
    differences = np.linalg.norm(features - expected[:count], axis=1)
    assert (differences <= 1e-4 * np.linalg.norm(expected[:count], axis=1)).all()


def test_black_white_and_noise_give_what_keras_gives(featurizer: Featurizer, model: "keras.Model") -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    extremes = np.stack([np.zeros((224, 224, 3)), np.full((224, 224, 3), 255), noise]).astype(np.uint8)
    expected = _features_of_keras(model, extremes)
    differences = np.linalg.norm(featurizer.features(extremes) - expected, axis=1)
    assert (differences <= 1e-4 * np.linalg.norm(expected, axis=1)).all()


def test_a_pictures_features_do_not_depend_on_its_neighbours(
    featurizer: Featurizer, untrained: CompiledNetwork, pictures: NDArray[np.uint8]
) -> None:
    together = featurizer.features(pictures)
    backwards = featurizer.features(np.ascontiguousarray(pictures[::-1]))[::-1]
    alone = np.concatenate([Featurizer(untrained.network).features(picture[None]) for picture in pictures])
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(together, alone)


def test_different_pictures_have_different_features(featurizer: Featurizer, pictures: NDArray[np.uint8]) -> None:
    features = featurizer.features(pictures)
    for row in range(PICTURES):
        distances = np.linalg.norm(np.delete(features, row, axis=0) - features[row], axis=1)
        assert distances.min() > 0.05 * np.linalg.norm(features[row])


def test_earlier_features_are_not_overwritten_by_later_ones(
    featurizer: Featurizer, pictures: NDArray[np.uint8]
) -> None:
    first = featurizer.features(pictures[:1])
    kept = first.copy()
    featurizer.features(pictures[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((1, 160, 160, 3), np.uint8),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((0, 224, 224, 1), np.uint8),
    ],
    ids=["float", "small", "unbatched", "grey"],
)
def test_pixels_of_another_kind_are_refused(featurizer: Featurizer, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"Expected \(n, 224, 224, 3\) uint8"):
        featurizer.features(pixels)


@pytest.mark.parametrize("body", [b"", b"junk", b"\x1c\x00\x00\x00TFL3" + bytes(100)], ids=["empty", "junk", "hollow"])
def test_bytes_that_are_no_network_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidWeights, match="not a compiled network"):
        Featurizer(body)


def test_a_truncated_network_is_refused(untrained: CompiledNetwork) -> None:
    with pytest.raises(InvalidWeights, match="not a compiled network"):
        Featurizer(untrained.network[:-1000])


def test_a_network_of_another_shape_is_refused() -> None:
    import tensorflow as tf

    twice = tf.function(lambda numbers: numbers * 2.0, input_signature=[tf.TensorSpec((1, 4), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([twice.get_concrete_function()], tf.Module())
    with pytest.raises(InvalidWeights, match="other inputs or outputs"):
        Featurizer(converter.convert())


def _features_of_keras(model: "keras.Model", pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Keras's own features, with Keras's own preprocessing."""
    preprocess_input = network.keras_quietly().applications.mobilenet_v2.preprocess_input
    return np.asarray(model(preprocess_input(pictures.astype(np.float32)), training=False))
