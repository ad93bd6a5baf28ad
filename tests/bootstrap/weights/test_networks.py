"""Any network that takes a picture and gives a vector becomes a featurizer that gives what Keras gives."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bootstrap.weights import network
from bootstrap.weights.applications import APPLICATIONS
from bootstrap.weights.network_file import MOST_FEATURES
from bootstrap.weights.preprocessing import PREPROCESSINGS, Preprocessing, affine, preprocess
from bootstrap.weights.source import parse_source
from bootstrap.weights.weights import compile_weights, fetch, fingerprint_of
from features.errors import FruitsError, InvalidSetting, InvalidWeights, WeightsUnavailable
from features.featurizer import Featurizer
from store.models.registry import NetworkKind

if TYPE_CHECKING:
    import keras

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.xdist_group("tensorflow"),
]

PX = 48
LENGTH = 6


def _layers(*layers: "keras.Layer", px: int = PX, channels: int = 3) -> "keras.Model":
    keras = network.keras_quietly()
    return keras.Sequential([keras.Input((px, px, channels)), *layers])


def _small(**options: Any) -> "keras.Model":
    """A picture of 48 pixels in, six numbers out."""
    keras = network.keras_quietly()
    keras.utils.set_random_seed(1)
    return _layers(
        keras.layers.Conv2D(LENGTH, 5, strides=3, activation="relu"), keras.layers.GlobalAveragePooling2D(), **options
    )


def _saved(model: "keras.Model", path: Path) -> Path:
    model.save(path)
    return path


def _as_tflite(model: "keras.Model", path: Path, kind: str = "float32") -> Path:
    import tensorflow as tf

    arrays = [variable.numpy() for variable in model.trainable_variables]

    def features(pixels: tf.Tensor) -> tf.Tensor:
        return model.stateless_call(arrays, [], tf.cast(pixels, tf.float32), training=False)[0]

    takes = tf.TensorSpec((1, *model.inputs[0].shape[1:]), kind, name="pixels")
    graph = tf.function(features, input_signature=[takes], autograph=False).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([graph], tf.Module()).convert())
    return path


def _assert_same(compiled: bytes, expected: Any, pictures: Any) -> None:
    features = Featurizer(compiled).features(pictures)
    assert features.shape == expected.shape
    differences = np.linalg.norm(features - expected, axis=1)
    # Untrained weights blow up rounding; the order of channels or another scale would be far beyond this.
    assert (differences <= 2e-3 * np.linalg.norm(expected, axis=1)).all()


@pytest.mark.parametrize(
    ("name", "px"),
    [
        ("mobilenet", 32),
        ("mobilenet_v3_small", 32),
        pytest.param("vgg16", 32, marks=pytest.mark.processes),
        pytest.param("densenet121", 32, marks=pytest.mark.processes),
        pytest.param("efficientnet_v2_b0", 64, marks=pytest.mark.processes),
        pytest.param("convnext_tiny", 64, marks=pytest.mark.processes),
    ],
)
def test_an_application_gives_what_keras_gives_with_its_own_preprocessing(name: str, px: int) -> None:
    keras = network.keras_quietly()
    source, application = f"untrained:7:{name}@{px}", APPLICATIONS[name]
    ours = fetch(source, print).load().model
    theirs = getattr(keras.applications, application.builder)(
        include_top=False, pooling="avg", weights=None, input_shape=(px, px, 3)
    )
    assert ours is not None
    theirs.set_weights(ours.get_weights())
    folder = re.sub("_small$|121$|_b0$|_tiny$", "", name)
    module = getattr(keras.applications, folder)
    pictures = network.sample_pictures(3, seed=9, input_px=px)
    expected = np.asarray(theirs(module.preprocess_input(pictures.astype(np.float32)), training=False))

    compiled = compile_weights(source, print)

    assert compiled.source == source
    assert compiled.kind == NetworkKind(name, px, expected.shape[1], application.preprocessing)
    _assert_same(compiled.network, expected, pictures)


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_preprocessing_is_that_of_keras(preprocessing: Preprocessing) -> None:
    keras = network.keras_quietly()
    pictures = network.sample_pictures(2, seed=3, input_px=PX).astype(np.float32)
    ours = preprocess(pictures, preprocessing)
    if preprocessing in ("tf", "torch", "caffe"):
        of = {"tf": "mobilenet_v2", "torch": "densenet", "caffe": "vgg16"}[preprocessing]
        theirs = getattr(keras.applications, of).preprocess_input(pictures.copy())
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    factors, offsets, is_bgr = affine(preprocessing)
    turned = pictures[..., ::-1] if is_bgr else pictures
    np.testing.assert_allclose(ours, turned * factors + offsets, rtol=1e-5, atol=1e-4)


def test_all_names_are_keras_own() -> None:
    applications = network.keras_quietly().applications
    assert {application.builder for application in APPLICATIONS.values()} == {
        name for name in dir(applications) if name[0].isupper()
    }


@pytest.mark.parametrize(("head", "preprocessing"), [("", "raw"), ("tf:", "tf"), ("caffe:", "caffe")])
def test_a_keras_file_is_a_network_of_its_own(tmp_path: Path, head: str, preprocessing: Preprocessing) -> None:
    model = _small()
    path = _saved(model, tmp_path / "own.keras")
    said: list[str] = []
    compiled = compile_weights(f"{head}{path}", said.append)
    pictures = network.sample_pictures(3, seed=2, input_px=PX)
    _assert_same(compiled.network, np.asarray(model(preprocess(pictures.astype(np.float32), preprocessing))), pictures)
    assert compiled.kind == NetworkKind("file", PX, LENGTH, preprocessing)
    assert compiled.source == head + path.as_uri()
    assert compiled.fingerprint == fingerprint_of(f"{head}{path}") == fingerprint_of(compiled.source)
    # Nobody said what pixels it wants.
    assert any("It gets pixels of 0 to 255" in line for line in said) == (head == "")


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_a_compiled_file_of_float_pictures_takes_bytes_then(tmp_path: Path, preprocessing: Preprocessing) -> None:
    model = _small()
    path = _as_tflite(model, tmp_path / "own.tflite")
    compiled = compile_weights(f"{preprocessing}:{path}", print)
    pictures = network.sample_pictures(3, seed=2, input_px=PX)
    _assert_same(compiled.network, np.asarray(model(preprocess(pictures.astype(np.float32), preprocessing))), pictures)
    assert compiled.kind == NetworkKind("file", PX, LENGTH, preprocessing)


def test_a_compiled_file_of_bytes_is_taken_as_it_is(tmp_path: Path) -> None:
    path = _as_tflite(_small(), tmp_path / "own.tflite", "uint8")
    compiled = compile_weights(str(path), print)
    assert compiled.network == path.read_bytes()
    assert compiled.fingerprint == fingerprint_of(str(path)) == fingerprint_of(f"raw:{path}")
    with pytest.raises(InvalidWeights, match=r"own\.tflite takes bytes, so its preprocessing is inside; leave tf: out"):
        compile_weights(f"tf:{path}", print)


def _two_outputs() -> "keras.Model":
    keras = network.keras_quietly()
    pixels = keras.Input((PX, PX, 3))
    one = keras.layers.GlobalAveragePooling2D()(pixels)
    return keras.Model(pixels, [one, keras.layers.Dense(2)(one)])


def _two_pictures() -> "keras.Model":
    keras = network.keras_quietly()
    inputs = [keras.Input((PX, PX, 3)), keras.Input((PX, PX, 3))]
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(inputs)))


def _filled(value: float) -> "keras.Model":
    model = _small()
    model.set_weights([np.full(array.shape, value) for array in model.get_weights()])
    return model


def _layer(name: str, *given: Any) -> "keras.Layer":
    return getattr(network.keras_quietly().layers, name)(*given)


BAD: dict[str, tuple[Callable[[], "keras.Model"], str]] = {
    "no picture": (
        lambda: network.keras_quietly().Sequential([network.keras_quietly().Input((8,)), _layer("Dense", 3)]),
        r"takes \(None, 8\); use a network that takes one square picture",
    ),
    "grey": (lambda: _layers(_layer("GlobalAveragePooling2D"), channels=1), r"takes \(None, 48, 48, 1\); use"),
    "small": (lambda: _layers(_layer("GlobalAveragePooling2D"), px=8), "takes pictures of 8 pixels a side; use"),
    "two pictures": (_two_pictures, r"takes \(None, 48, 48, 3\) and \(None, 48, 48, 3\); use"),
    "two outputs": (_two_outputs, r"gives \(None, 3\) and \(None, 2\); use a network that gives one vector"),
    "a map": (lambda: _layers(_layer("Conv2D", 4, 3)), r"gives \(None, 46, 46, 4\); use a network that gives one"),
    "too long": (
        lambda: _layers(_layer("Flatten")),
        "gives 6,912 numbers for a picture; use a network that gives 2 to " + f"{MOST_FEATURES:,}",
    ),
    "no number": (lambda: _filled(float("nan")), "features that are not finite numbers; use other weights"),
    "next to nothing": (lambda: _filled(0.0), "never trained nor calibrated; use other weights"),
    "code": (lambda: _layers(_layer("Lambda", lambda x: x[:, 0, 0])), "holds code, in Lambda, which is not run"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_network_of_pictures_is_refused_in_a_sentence(tmp_path: Path, bad: str) -> None:
    make, sentence = BAD[bad]
    path = _saved(make(), tmp_path / "bad.keras")
    with pytest.raises(InvalidWeights, match=sentence):
        compile_weights(f"raw:{path}", print)


@pytest.mark.parametrize("bad", ["no number", "a map", "two outputs"])
def test_a_compiled_file_is_tried_too(tmp_path: Path, bad: str) -> None:
    path = _as_tflite(BAD[bad][0](), tmp_path / "bad.tflite")
    with pytest.raises(InvalidWeights, match=r"not finite|bad\.tflite gives "):
        compile_weights(str(path), print)


@pytest.mark.parametrize("name", ["bad.keras", "bad.tflite"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"PK\x03\x04" + bytes(90)], ids=["empty", "a page", "cut off"])
def test_a_damaged_network_is_named(tmp_path: Path, name: str, body: bytes) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InvalidWeights, match=rf"^{name} cannot be read as a network: .*\.$"):
        compile_weights(f"raw:{tmp_path / name}", print)


def test_a_description_names_nothing_but_layers(tmp_path: Path) -> None:
    """A file that has Keras call any function of any module, as old releases of it did."""
    whole, path = _saved(_small(), tmp_path / "whole.keras"), tmp_path / "luring.keras"
    lure = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}
    with zipfile.ZipFile(whole) as good, zipfile.ZipFile(path, "w") as luring:
        for name in good.namelist():
            body = good.read(name)
            if name == "config.json":
                description = json.loads(body)
                description["config"]["layers"][1]["config"]["activation"] = lure
                body = json.dumps(description).encode()
            luring.writestr(name, body)
    with pytest.raises(InvalidWeights, match=r"^luring\.keras needs keras\.utils\.function, which is no layer"):
        compile_weights(f"raw:{path}", print)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("untrained:7:resnet", "'resnet' is no network that Keras builds; use one of xception, vgg16"),
        ("efficientnet_v2_b0@8", "is for pictures of no usable size; choose 32 to 1024 pixels"),
        ("untrained:7:xception@32", "Keras builds no xception@32: Input size must be at least"),
        ("efficientnet_v2_b0:photos.tflite", "is no file of weights for efficientnet_v2_b0; use a"),
        ("tf:photos.h5", "names no network of its own; tf: goes before a .keras or .tflite file"),
        ("efficientnet_b0:photos.weights.h5", "Keras builds efficientnet_b0 in two ways"),
    ],
)
def test_another_spelling_is_refused_with_what_to_write(source: str, sentence: str) -> None:
    with pytest.raises(InvalidSetting, match=sentence):
        compile_weights(source, print)


def test_weights_of_an_application_come_from_a_file(tmp_path: Path) -> None:
    loaded = fetch("untrained:7:mobilenet_v3_small@32", print).load().model
    assert loaded is not None
    loaded.save_weights(tmp_path / "photos.weights.h5")
    source = f"mobilenet_v3_small@32:{tmp_path / 'photos.weights.h5'}"
    weights = fetch(source, print)
    again = weights.load().model
    assert again is not None
    assert all(map(np.array_equal, again.get_weights(), loaded.get_weights()))
    assert weights.fingerprint == fingerprint_of(source) == fingerprint_of(weights.source)
    with pytest.raises(InvalidWeights, match=r"holds another network: some arrays of mobilenet are missing"):
        fetch(f"mobilenet:{tmp_path / 'photos.weights.h5'}", print).load()


def test_names_that_need_no_saying_are_the_old_ones() -> None:
    assert fingerprint_of("mobilenet_v2") == fingerprint_of("imagenet")
    assert fingerprint_of("untrained:7:mobilenet_v2@224") == fingerprint_of("untrained:07")
    assert fingerprint_of("untrained:7:mobilenet_v2@96") != fingerprint_of("untrained:7")
    assert parse_source("mobilenet_v2:a.h5") == parse_source("a.h5")


def test_weights_out_of_reach_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_reach(*_: Any, **__: Any) -> None:
        raise OSError("URL fetch failure on https://example.org -- nobody answers")

    keras = network.keras_quietly()
    monkeypatch.setattr(keras.applications, "EfficientNetV2B0", out_of_reach)
    with pytest.raises(WeightsUnavailable, match=r"^Could not download efficientnet_v2_b0 \(nobody answers\); give a"):
        compile_weights("efficientnet_v2_b0", print)


@pytest.mark.processes
def test_other_networks_run_in_int8_too(tmp_path: Path) -> None:
    from bootstrap.weights.calibration import Calibration

    def calibrate(_: Any, px: int) -> Calibration:
        return Calibration(network.sample_pictures(8, seed=0, input_px=px), "drawn")

    compiled = compile_weights("untrained:7:vgg16@32", print, calibrate=calibrate)
    assert compiled.fingerprint.endswith("-int8")
    assert (compiled.kind.input_px, compiled.calibrated_on) == (32, "drawn")
    own = _as_tflite(_small(), tmp_path / "own.tflite")
    with pytest.raises(FruitsError, match="is compiled already; leave --precision int8 out"):
        compile_weights(str(own), print, calibrate=calibrate)
