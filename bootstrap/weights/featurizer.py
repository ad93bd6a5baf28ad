"""Gives a home its featurizer, which is compiled once."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from bootstrap.weights.calibration import choose_pictures
from bootstrap.weights.weights import Calibrate, CompiledNetwork, compile_weights, fingerprint_of
from features.environment import interrupts_withheld, python_environment, started_with
from features.errors import InvalidWeights, WeightsUnavailable
from features.featurizer import INPUT_PX, Precision, draft_px
from features.image import Limits
from store.errors import FeaturizerConflict
from store.home import Home
from store.home_access import check_is_writable
from store.models.pca_models import name_served_featurizer
from store.models.registry import (
    FeaturizerMeta,
    current_featurizer,
    describe_featurizer,
    load_network,
    publish_featurizer,
)

Connection = tuple[str | None, str | None]


def install_featurizer(
    home: Home,
    weights: str,
    precision: Precision | None,
    new_featurizer: bool,
    limits: Limits,
    echo: Callable[[str], None],
    with_copies: bool = False,
    copy_px: int | None = None,
) -> FeaturizerMeta:
    """Make sure the home has a featurizer made from `weights` in `precision`, and return its description.

    weights: `auto` keeps the weights that the home has. precision: None keeps the home's; float32 in a new home.
    An int8 network is calibrated on photos of the home within `limits`, or on drawn pictures.
    with_copies: features are made from copies, of `copy_px`; None keeps the home's, or takes what is enough for the
    network, 300 at least. Without, a home keeps the pixels it has.
    Replay changes nothing, whatever has landed since.
    Raises FeaturizerConflict when weights, precision or pixels differ without `new_featurizer`, or when the source of
    the home's weights holds others today; WeightsUnavailable, also where there is no TensorFlow to compile them with;
    InvalidWeights, HomeNotWritable, StorageUnavailable.
    """
    connection = (home.root.s3_endpoint, home.root.s3_region)
    id = current_featurizer(home)
    current = None if id is None else describe_featurizer(home, id)
    if current is not None:
        # A home of a former release names none; with a newer network in it, nobody could tell which one is served.
        name_served_featurizer(home)
    if precision is None:
        precision = "float32" if current is None else current.precision
    fingerprint = fingerprint_of(weights, *connection, precision)
    if current is not None:
        if fingerprint == current.fingerprint or (weights == "auto" and precision == current.precision):
            copy_px = _copy_px(current, current.input_px, with_copies, copy_px)
            if copy_px == current.recipe.copy_px:
                return current
            return _with_pixels(home, current, copy_px, new_featurizer, echo)
        if not new_featurizer:
            raise FeaturizerConflict(
                f"This home uses featurizer {current.id} ({current.precision}, from {current.source}); {weights} "
                f"in {precision} gives another one, and their features cannot be compared. Add --new-featurizer to "
                "switch, or leave --weights and --precision out."
            )
        if weights == "auto":
            weights = current.source
            if fingerprint_of(weights, *connection, current.precision) != current.fingerprint:
                raise FeaturizerConflict(
                    f"Featurizer {current.id} was made from {weights}, which holds other weights today; name the "
                    "weights to use."
                )
    if importlib.util.find_spec("tensorflow") is None:
        raise WeightsUnavailable(
            f"{home.root.uri} has no such featurizer yet, and there is no TensorFlow here to compile one; run `fruits "
            "weights` for this home where the project is installed with its laptop extra."
        )
    check_is_writable(home.featurizers)
    echo("Fetching and compiling the network's weights; this home keeps the result.")
    calibrate = partial(choose_pictures, home, limits) if precision == "int8" else None
    compiled = _compile(weights, connection, calibrate, echo)
    meta = publish_featurizer(
        home,
        compiled.network,
        compiled.source,
        compiled.fingerprint,
        precision,
        compiled.calibrated_on,
        compiled.kind,
        _copy_px(current, compiled.kind.input_px, with_copies, copy_px),
    )
    name_served_featurizer(home)
    echo(f"Featurizer {meta.id}, from {meta.source}.")
    return meta


def _copy_px(current: FeaturizerMeta | None, input_px: int, with_copies: bool, copy_px: int | None) -> int | None:
    known = None if current is None else current.recipe.copy_px
    if not with_copies or (copy_px is None and known):
        return known
    # Copies of less would be too small for a network of the usual size, and by then their photos may be gone.
    return copy_px or draft_px(max(input_px, INPUT_PX))


def _with_pixels(
    home: Home, current: FeaturizerMeta, copy_px: int | None, new_featurizer: bool, echo: Callable[[str], None]
) -> FeaturizerMeta:
    """The same network for other pixels."""
    told = _in_words(copy_px)
    if not new_featurizer:
        raise FeaturizerConflict(
            f"This home uses featurizer {current.id}, which makes features from {_in_words(current.recipe.copy_px)}; "
            f"from {told} they are another featurizer's, and the two cannot be compared. Add --new-featurizer to "
            "switch, or leave --copies, --copy-px and --clean reduce out."
        )
    check_is_writable(home.featurizers)
    meta = publish_featurizer(
        home,
        load_network(home, current.id),
        current.source,
        current.fingerprint,
        current.precision,
        current.calibrated_on,
        current,
        copy_px,
    )
    echo(f"Featurizer {meta.id}, the network of {current.id} with pixels from {told}.")
    return meta


def _in_words(copy_px: int | None) -> str:
    return "photos themselves" if copy_px is None else f"copies of {copy_px} pixels"


def _compile(
    weights: str, connection: Connection, calibrate: Calibrate | None, echo: Callable[[str], None]
) -> CompiledNetwork:
    # In another process: TensorFlow would keep half a gigabyte in the driver for as long as the stream runs.
    spawn = multiprocessing.get_context("spawn")
    with started_with(python_environment()), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with interrupts_withheld():
            compiling = pool.submit(_compile_here, weights, connection, calibrate)
        try:
            compiled, lines = compiling.result()
        except BrokenProcessPool as error:
            raise InvalidWeights(
                f"The process that compiled {weights} was ended, for want of memory or by a damaged network; try a "
                "smaller network, or another file."
            ) from error
        except BaseException as error:
            if not isinstance(error, Exception):
                # The pool waits for its process.
                for process in multiprocessing.active_children():
                    process.kill()
            raise
    for line in lines:
        echo(line)
    return compiled


def _compile_here(
    weights: str, connection: Connection, calibrate: Calibrate | None
) -> tuple[CompiledNetwork, list[str]]:
    lines: list[str] = []
    return compile_weights(weights, lines.append, *connection, calibrate), lines
