"""Gives a home its featurizer: compiled once, kept until told otherwise."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from bootstrap.weights import CompiledNetwork, compile_weights, fingerprint_of
from features.errors import FeaturizerConflict
from features.home import Home
from features.registry import FeaturizerMeta, current_featurizer, describe_featurizer, publish_featurizer

Connection = tuple[str | None, str | None]


def install_featurizer(home: Home, weights: str, new_featurizer: bool, say: Callable[[str], None]) -> FeaturizerMeta:
    """Make sure the home has a featurizer made from `weights`, and return what is known of it.

    A home that has one keeps it with `auto`, and when the weights are the same. Replay changes nothing.
    Raises FeaturizerConflict when the weights differ and `new_featurizer` does not say so, WeightsUnavailable,
    InvalidWeights.
    """
    connection = (home.root.s3_endpoint, home.root.s3_region)
    fingerprint = fingerprint_of(weights, *connection)
    current = current_featurizer(home)
    if current is not None:
        standing = describe_featurizer(home, current)
        if weights == "auto" or fingerprint == standing.fingerprint:
            return standing
        if not new_featurizer:
            raise FeaturizerConflict(
                f"This home uses featurizer {standing.id} (from {standing.source}); {weights} gives another one, "
                "and their features cannot be compared. Add --new-featurizer to switch, or leave --weights out."
            )
    say("Fetching and compiling the network's weights; this home keeps the result.")
    compiled = _compile(weights, connection, say)
    meta = publish_featurizer(home, compiled.network, compiled.source, compiled.fingerprint)
    say(f"Featurizer {meta.id}, from {meta.source}.")
    return meta


def _compile(weights: str, connection: Connection, say: Callable[[str], None]) -> CompiledNetwork:
    # In a process of its own: TensorFlow would keep half a gigabyte in the driver for as long as the stream runs.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        compiled, said = pool.submit(_compile_here, weights, connection).result()
    for line in said:
        say(line)
    return compiled


def _compile_here(weights: str, connection: Connection) -> tuple[CompiledNetwork, list[str]]:
    said: list[str] = []
    return compile_weights(weights, said.append, *connection), said
