"""A network of Keras's, compiled once to the flatbuffer that executors run, in float32 or in int8."""

import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bootstrap.weights.preprocessing import Preprocessing, preprocess
from bootstrap.weights.source import FIRST, Network
from features.errors import InvalidSetting, InvalidWeights
from features.featurizer import INPUT_PX, Featurizer

if TYPE_CHECKING:
    import keras

# How far a compiled network may be from Keras, of a vector's norm. Others than MobileNetV2 round more differently in
# their activations: with untrained weights, which blow rounding up, some gave 5e-4.
TOLERANCE = 1e-4
TOLERANCE_OF_OTHERS = 2e-3
SMALLEST_FEATURE = 1e-6
SMALLEST_DIFFERENCE = 1e-3
SMALLEST_COSINE = 0.95
VERIFIED_PICTURES = 4
VERIFIED_AT_ONCE = 8

# Most of MobileNetV2's error in int8 would come from the first depthwise convolution and the few channels after it.
FLOAT_LAYERS = ("Conv1", "expanded_conv")

CHATTER = (
    b"I0000 ",
    b"INFO: ",
    b"WARNING: All log messages before absl::InitializeLog()",
    b"To enable the following",
    b"fully_quantize: ",
)


def build(network: Network = FIRST) -> "keras.Model":
    """A network of Keras's without its top, with average pooling: (n, input_px, input_px, 3) to (n, length) float32.

    The pixels are those of its preprocessing. Its weights are random. Source of the first one: Sandler et al.,
    "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. Raises InvalidSetting for a size that the
    network is not built for.
    """
    return build_with(network, weights=None)


def build_with(network: Network, weights: str | None) -> "keras.Model":
    """As `build`, with the weights that Keras has under a name; it may raise anything when it cannot fetch them."""
    builder = getattr(keras_quietly().applications, network.application.builder)
    shape = (network.input_px, network.input_px, 3)
    try:
        with warnings.catch_warnings():
            # It says so where ImageNet weights are used for pictures of another size, which is what was asked for.
            warnings.simplefilter("ignore", UserWarning)
            model = builder(include_top=False, pooling="avg", weights=weights, input_shape=shape)
    except ValueError as error:
        raise InvalidSetting(f"Keras builds no {network}: {str(error).partition(chr(10))[0]}") from error
    # Keras numbers the layers it has to name itself; the number would reach the flatbuffer, and change its digest.
    model.layers[-1].name = "average"
    return model


def compile_network(model: "keras.Model", preprocessing: Preprocessing = "tf") -> bytes:
    """The LiteRT flatbuffer of the model with its preprocessing: pixels in uint8 to features in float32.

    The same weights give the same bytes, in any process with the same TensorFlow. Raises InvalidWeights for a network
    that the converter cannot do.
    """
    with _converting(""):
        return bytes(_converter(model, preprocessing).convert())


def quantize_network(model: "keras.Model", pictures: NDArray[np.uint8], preprocessing: Preprocessing = "tf") -> bytes:
    """The LiteRT flatbuffer of the model in int8 arithmetic, with the inputs and outputs of the float32 one.

    pictures: (n, input_px, input_px, 3), 0 to 255, n at least 1; each layer's outputs for them set the range of its
    int8 numbers.
    Weights are quantized by channel. The first layers, the average, and depthwise convolutions of stride 1 stay in
    float32. The same weights and pictures give the same bytes with the same TensorFlow on the same kind of machine.
    Raises InvalidWeights for a network that the converter cannot do.
    """
    keras = keras_quietly()
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    def calibration() -> Iterator[list[NDArray[np.uint8]]]:
        return ([picture[None]] for picture in pictures)

    converter = _converter(model, preprocessing)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    with without_chatter(), warnings.catch_warnings(), _converting(" in int8; use --precision float32"):
        # It runs an interpreter that TensorFlow has deprecated.
        warnings.simplefilter("ignore", UserWarning)
        # Among the public interfaces only this one leaves single layers in float32.
        debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=calibration)
        # A depthwise convolution does little arithmetic, and XNNPACK's in float32 is up to twice as fast as in int8.
        # With a stride its input is four times its output, and converting that to float32 would take up the gain.
        depthwise = [layer for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
        prefixes = (*FLOAT_LAYERS, *(layer.name for layer in depthwise if layer.strides == (1, 1)))
        tensors = Interpreter(model_content=debugger.calibrated_model).get_tensor_details()
        debugger.options = tf.lite.experimental.QuantizationDebugOptions(
            # The preprocessing, and the average, which in int8 could not exceed the largest one met in calibration.
            denylisted_ops=["MUL", "SUB", "MEAN"],
            denylisted_nodes=[tensor["name"] for tensor in tensors if tensor["name"].startswith(prefixes)],
        )
        return bytes(debugger.get_nondebug_quantized_model())


def check(model: "keras.Model", preprocessing: Preprocessing = "tf") -> NDArray[np.float32]:
    """The features (4, length) that Keras itself gives for the drawn pictures of a seed.

    Raises InvalidWeights when they are not finite, next to nothing, or the same for different pictures.
    """
    pictures = sample_pictures(VERIFIED_PICTURES, seed=1, input_px=input_px_of(model))
    return check_features(_keras_features(model, pictures, preprocessing))


def check_features(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features (n, length) of different pictures, if they can be those of a trained network.

    Raises InvalidWeights when they are not finite, next to nothing, or the same.
    """
    if not np.isfinite(features).all():
        raise InvalidWeights("These weights give features that are not finite numbers; use other weights.")
    largest = np.abs(features).max()
    if largest < SMALLEST_FEATURE:
        raise InvalidWeights(
            f"These weights give features of at most {largest:.0e}, as a network does that was never trained "
            "nor calibrated; use other weights."
        )
    norms = np.linalg.norm(features, axis=1)
    if np.linalg.norm(features[1:] - features[:-1], axis=1).min() < SMALLEST_DIFFERENCE * norms.max():
        raise InvalidWeights("These weights give the same features for different pictures; use other weights.")
    return features


def check_compiled(network: bytes) -> None:
    """Try a compiled network on drawn pictures. Raises InvalidWeights as `check_features` and `Featurizer` do."""
    with without_chatter():
        featurizer = Featurizer(network)
        check_features(featurizer.features(sample_pictures(VERIFIED_PICTURES, seed=1, input_px=featurizer.input_px)))


def verify(
    model: "keras.Model", network: bytes, preprocessing: Preprocessing = "tf", tolerance: float = TOLERANCE
) -> None:
    """Check the model, and compare the compiled network with it on drawn pictures.

    Raises InvalidWeights as `check`, and when features differ between the two by more than `tolerance` of a vector's
    norm.
    """
    expected = check(model, preprocessing)
    with without_chatter():
        pictures = sample_pictures(VERIFIED_PICTURES, seed=1, input_px=input_px_of(model))
        compiled = Featurizer(network).features(pictures)
    difference = (np.linalg.norm(compiled - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()
    if not difference <= tolerance:
        raise InvalidWeights(f"The compiled network differs from Keras by {difference:.1e} of a vector's norm.")


def verify_quantized(
    model: "keras.Model", network: bytes, pictures: NDArray[np.uint8], preprocessing: Preprocessing = "tf"
) -> float:
    """The mean cosine between the features of the quantized network and those of Keras on the same pictures.

    Raises InvalidWeights when it is below 0.95.
    """
    batches = (pictures[start : start + VERIFIED_AT_ONCE] for start in range(0, len(pictures), VERIFIED_AT_ONCE))
    expected = np.concatenate([_keras_features(model, batch, preprocessing) for batch in batches])
    with without_chatter():
        quantized = Featurizer(network).features(pictures)
    cosine = float(cosines(expected, quantized).mean())
    if not cosine >= SMALLEST_COSINE:
        raise InvalidWeights(
            f"In int8 these weights give other features than in float32 (a mean cosine of {cosine:.3f}, where "
            f"{SMALLEST_COSINE} is the least); use --precision float32."
        )
    return cosine


def cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosine (n,) of each vector (n, d) with the other of its row; 0 where one of them is next to nothing."""
    norms = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    found: NDArray[np.float32] = (some * others).sum(axis=1) / np.maximum(norms, SMALLEST_FEATURE**2)
    return found


def sample_pictures(count: int, seed: int, input_px: int = INPUT_PX) -> NDArray[np.uint8]:
    """Pictures (count, input_px, input_px, 3), 0 to 255, with what photos have: smooth light, edged shapes, grain."""
    random = np.random.default_rng(seed)
    down, right = np.mgrid[0:input_px, 0:input_px][..., None] / input_px
    pictures = np.empty((count, input_px, input_px, 3), np.uint8)
    for picture in pictures:
        slope_down, slope_right = random.uniform(-150, 150, (2, 3))
        light = random.uniform(60, 200, 3) + slope_down * (down - 0.5) + slope_right * (right - 0.5)
        for _ in range(random.integers(1, 8)):
            centre_down, centre_right = random.uniform(0, 1, 2)
            outside = np.hypot(down - centre_down, right - centre_right) - random.uniform(0.05, 0.4)
            cover = 1 / (1 + np.exp(np.clip(outside * random.uniform(20, 200), -50, 50)))
            light = light * (1 - cover) + random.uniform(0, 255, 3) * cover
        picture[:] = np.clip(light + random.normal(0, random.uniform(2, 25), light.shape), 0, 255)
    return pictures


def input_px_of(model: "keras.Model") -> int:
    """The side of the pictures that a model takes."""
    return int(model.inputs[0].shape[1])


def keras_quietly() -> ModuleType:
    """Keras on TensorFlow, imported at the first call: it takes seconds, and no quick command needs it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with without_chatter():
        keras = importlib.import_module("keras")
    # It warns of what the conversion of each network does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.config.disable_interactive_logging()
    return keras


@contextmanager
def without_compiled_modules() -> Iterator[None]:
    """TensorFlow imports modules that it wrote into the temporary folder; Python keeps nothing of them meanwhile."""
    keras_quietly()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def _converting(how: str) -> Iterator[None]:
    """Tell in one sentence that the converter cannot do a network."""
    try:
        yield
    except Exception as error:  # whatever its native passes raise, in many lines
        raise InvalidWeights(
            f"TensorFlow's converter cannot compile this network{how}: {str(error).strip().partition(chr(10))[0]}"
        ) from error


def _converter(model: "keras.Model", preprocessing: Preprocessing) -> Any:
    keras_quietly()
    import tensorflow as tf

    # As constants: converted from variables, by way of a saved model, the same network takes three times as long.
    trainable = [variable.numpy() for variable in model.trainable_variables]
    others = [variable.numpy() for variable in model.non_trainable_variables]

    def features(pixels: tf.Tensor) -> tf.Tensor:
        inputs = tf.cast(preprocess(tf.cast(pixels, tf.float32), preprocessing), model.inputs[0].dtype)
        return model.stateless_call(trainable, others, inputs, training=False)[0]

    takes = tf.TensorSpec((None, input_px_of(model), input_px_of(model), 3), tf.uint8, name="pixels")
    graph = tf.function(features, input_signature=[takes], autograph=False).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([graph], tf.Module())


def _keras_features(
    model: "keras.Model", pictures: NDArray[np.uint8], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    pixels = preprocess(pictures.astype(np.float32), preprocessing)
    return np.asarray(model(pixels.astype(model.inputs[0].dtype), training=False))


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hold back the informational lines of native libraries, which no setting silences; pass on all others."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            written.seek(0)
            for line in written:
                if not line.startswith(CHATTER):
                    os.write(2, line)
