"""The network as executors run it: pixels in, features out, without TensorFlow; and how its pixels are made."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidWeights

# MobileNetV2's, which is the network of a featurizer that says nothing else.
INPUT_PX = 224
FEATURES = 1280
# In what arithmetic a network runs.
Precision = Literal["float32", "int8"]
# The least side a JPEG is decoded to for a network of 224 pixels; for others it grows as they do, since what counts is
# how much finer than the network's own pixels the picture still is. Cosine of its features and those of full decoding,
# the smallest of 14 to 56 photos: 0.997 at 306 pixels, 0.995 at 283, 0.976 at the network's own 224. Of 40 others, for
# networks of 96, 160 and 320 pixels: 0.999, 0.997 and 0.999, where 224 had 0.994.
_DRAFT_PX = 300
# The newest of a home, the served one, and that of the version that is served next.
_MOST_CACHED = 3
_COPY = re.compile(r"copy-(\d+)-q85")


@dataclass(frozen=True)
class Recipe:
    """Pixels for a network of `input_px` a side: from the photo, or from its copy.

    A copy is a JPEG of quality 85 with a short side of `copy_px` to twice that, smaller photos as large as they are.
    """

    input_px: int = INPUT_PX
    copy_px: int | None = None

    @property
    def pixels(self) -> str:
        """The name that a featurizer's description has for it; features of other pixels are another featurizer's."""
        return "draft" if self.copy_px is None else f"copy-{self.copy_px}-q85"

    @property
    def least_px(self) -> int:
        """The least side that a JPEG is decoded to."""
        return draft_px(self.input_px) if self.copy_px is None else self.copy_px


# MobileNetV2's, from the photo itself.
DRAFT = Recipe()


def recipe_of(pixels: str, input_px: int) -> Recipe:
    """The recipe that a featurizer's description names. Raises ValueError for a name that no release has given."""
    match = _COPY.fullmatch(pixels)
    if match is None and pixels != "draft":
        raise ValueError(f"Unknown pixels {pixels!r}.")
    return Recipe(input_px, int(match[1]) if match else None)


def draft_px(input_px: int) -> int:
    """The side that is enough for a network of this input: 300 pixels for 224."""
    return -(-input_px * _DRAFT_PX // INPUT_PX)


class Featurizer:
    """A compiled network (LiteRT flatbuffer) on one thread; XNNPACK does the arithmetic.

    It takes pictures of `input_px` pixels a side and gives `length` numbers for each; the network says both.
    Raises InvalidWeights when the bytes are no network, or one of other inputs or outputs. Not for use by several
    threads at once: a worker process keeps one.
    """

    def __init__(self, network: bytes) -> None:
        # Here, because many processes know what a featurizer is and only executors run one.
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=network, num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InvalidWeights(f"These {len(network)} bytes are not a compiled network: {error}.") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.input_px, self.length = _sizes(inputs, outputs)
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network sees in each picture.

        pixels: (n, input_px, input_px, 3), upright sRGB, 0 to 255; n may be 0.
        Returns (n, length). A picture's features do not depend on the others, to the bit. Raises ValueError for
        another shape or type.
        """
        side_px = self.input_px
        if pixels.shape[1:] != (side_px, side_px, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"Expected (n, {side_px}, {side_px}, 3) uint8, got {pixels.shape} {pixels.dtype}.")
        features = np.empty((len(pixels), self.length), np.float32)
        # One picture at a time: activations then stay in the core's cache. Measured on one core, images/s:
        # 176 alone, 174 by 2, 170 by 4, 161 by 8, 147 by 16, 139 by 32. Changing the size costs 2 to 10 ms a picture.
        for row in range(len(pixels)):
            self._interpreter.set_tensor(self._input, pixels[row : row + 1])
            self._interpreter.invoke()
            features[row] = self._interpreter.get_tensor(self._output)[0]
        return features


_cached: dict[str, Featurizer] = {}


def cached_featurizer(id: str, network: Callable[[], bytes]) -> Featurizer:
    """The featurizer of this id, which this process keeps with the last ones used. Raises as `Featurizer`."""
    # Spark drops a worker's copy of a broadcast when a task without it comes between; ours stays.
    featurizer = _cached.pop(id, None) or Featurizer(network())
    # The last one used comes last.
    _cached[id] = featurizer
    for old in list(_cached)[:-_MOST_CACHED]:
        del _cached[old]
    return featurizer


def _sizes(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> tuple[int, int]:
    """The side of the pictures that a network takes, and how many numbers it gives for one."""
    takes = [(tuple(map(int, tensor["shape"])), tensor["dtype"]) for tensor in inputs]
    gives = [(tuple(map(int, tensor["shape"])), tensor["dtype"]) for tensor in outputs]
    match takes, gives:
        case [((1, height_px, width_px, 3), np.uint8)], [((1, length), np.float32)] if height_px == width_px:
            return height_px, length
    raise InvalidWeights(f"A network of other inputs or outputs: it takes {_told(takes)} and gives {_told(gives)}.")


def _told(tensors: list[tuple[tuple[int, ...], type]]) -> str:
    return " and ".join(f"{shape} {kind.__name__}" for shape, kind in tensors)
