"""Gives a home its featurizer: compiled once, kept until told otherwise."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bootstrap.weights.calibration import choose_pictures
from bootstrap.weights.weights import CompiledNetwork, compile_weights, fingerprint_of
from features.environment import python_environment, started_with
from features.errors import WeightsUnavailable
from features.image import Limits
from features.interrupts import interrupts_withheld
from features.precision import Precision
from store.errors import FeaturizerConflict
from store.home import Home
from store.home_access import check_is_writable
from store.models.registry import FeaturizerMeta, current_featurizer, describe_featurizer, publish_featurizer

Connection = tuple[str | None, str | None]


def install_featurizer(
    home: Home,
    weights: str,
    precision: Precision | None,
    new_featurizer: bool,
    limits: Limits,
    say: Callable[[str], None],
) -> FeaturizerMeta:
    """Make sure the home has a featurizer made from `weights` in `precision`, and return what is known of it.

    precision: None keeps the one the home has, and is float32 in a new home. An int8 network is calibrated on photos
    of the home within `limits`, or on drawn pictures.
    A home that has a featurizer keeps its weights with `auto`, and all of it when weights and precision are the same.
    Replay changes nothing, whatever has landed since.
    Raises FeaturizerConflict when either differs and `new_featurizer` does not say so, or when `auto` no longer gives
    the weights that the home uses; WeightsUnavailable, also where there is no TensorFlow to compile them with;
    InvalidWeights, HomeNotWritable, StorageUnavailable.
    """
    connection = (home.root.s3_endpoint, home.root.s3_region)
    current = current_featurizer(home)
    standing = None if current is None else describe_featurizer(home, current)
    if precision is None:
        precision = "float32" if standing is None else standing.precision
    fingerprint = fingerprint_of(weights, *connection, precision)
    if standing is not None:
        if fingerprint == standing.fingerprint or (weights == "auto" and precision == standing.precision):
            return standing
        if not new_featurizer:
            raise FeaturizerConflict(
                f"This home uses featurizer {standing.id} ({standing.precision}, from {standing.source}); {weights} "
                f"in {precision} gives another one, and their features cannot be compared. Add --new-featurizer to "
                "switch, or leave --weights and --precision out."
            )
        if weights == "auto":
            weights = _weights_of(standing, connection)
    if importlib.util.find_spec("tensorflow") is None:
        raise WeightsUnavailable(
            f"{home.root.uri} has no such featurizer yet, and there is no TensorFlow here to compile one; run `fruits "
            "weights` for this home where the project is installed with its laptop extra."
        )
    check_is_writable(home.featurizers)
    say("Fetching and compiling the network's weights; this home keeps the result.")
    calibration = choose_pictures(home, limits, say) if precision == "int8" else None
    compiled = _compile(weights, connection, calibration.pictures if calibration else None, say)
    meta = publish_featurizer(
        home,
        compiled.network,
        compiled.source,
        compiled.fingerprint,
        precision,
        calibration.description if calibration else None,
    )
    say(f"Featurizer {meta.id}, from {meta.source}.")
    return meta


def _weights_of(standing: FeaturizerMeta, connection: Connection) -> str:
    if fingerprint_of(standing.source, *connection, standing.precision) != standing.fingerprint:
        raise FeaturizerConflict(
            f"Featurizer {standing.id} was made from {standing.source}, which holds other weights today; name the "
            "weights to use."
        )
    return standing.source


def _compile(
    weights: str, connection: Connection, calibration: NDArray[np.uint8] | None, say: Callable[[str], None]
) -> CompiledNetwork:
    # In a process of its own: TensorFlow would keep half a gigabyte in the driver for as long as the stream runs.
    spawn = multiprocessing.get_context("spawn")
    with started_with(python_environment()), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with interrupts_withheld():
            compiling = pool.submit(_compile_here, weights, connection, calibration)
        try:
            compiled, said = compiling.result()
        except BaseException as error:
            if not isinstance(error, Exception):
                # The pool waits for its process.
                for process in multiprocessing.active_children():
                    process.kill()
            raise
    for line in said:
        say(line)
    return compiled


def _compile_here(
    weights: str, connection: Connection, calibration: NDArray[np.uint8] | None
) -> tuple[CompiledNetwork, list[str]]:
    said: list[str] = []
    return compile_weights(weights, said.append, *connection, calibration), said
