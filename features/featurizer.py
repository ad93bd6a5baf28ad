"""The network as executors run it: pixels in, features out, without TensorFlow."""

import re
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidWeights

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

INPUT_PX = 224
FEATURES = 1280
# In what arithmetic a network runs.
Precision = Literal["float32", "int8"]
# How the pixels that a network sees are made of a photo: from the draft that a JPEG is decoded to, or from a copy.
DRAFT = "draft"
_COPY = re.compile(r"copy-(\d+)-q85")


def pixels_by_copies(copy_px: int) -> str:
    """How to call pixels made from JPEGs of quality 85 with a short side of `copy_px` to twice that."""
    return f"copy-{copy_px}-q85"


def copy_px_of(pixels: str) -> int | None:
    """The size of the copies that pixels are made from; None for pixels that are made without."""
    match = _COPY.fullmatch(pixels)
    return int(match[1]) if match else None


class Featurizer:
    """A compiled network (LiteRT flatbuffer) on one thread; XNNPACK does the arithmetic.

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
        self._input, self._output = _input_and_output(self._interpreter)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network sees in each picture.

        pixels: (n, 224, 224, 3), upright sRGB, 0 to 255; n may be 0.
        Returns (n, 1280) in 0 to 6, since the last layer averages a ReLU6. A picture's features do not depend on
        the others, to the bit. Raises ValueError for another shape or type.
        """
        if pixels.shape[1:] != (INPUT_PX, INPUT_PX, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"Expected (n, {INPUT_PX}, {INPUT_PX}, 3) uint8, got {pixels.shape} {pixels.dtype}.")
        features = np.empty((len(pixels), FEATURES), np.float32)
        # One picture at a time: activations then stay in the core's cache. Measured on one core, images/s:
        # 176 alone, 174 by 2, 170 by 4, 161 by 8, 147 by 16, 139 by 32. Changing the size costs 2 to 10 ms a picture.
        for row in range(len(pixels)):
            self._interpreter.set_tensor(self._input, pixels[row : row + 1])
            self._interpreter.invoke()
            features[row] = self._interpreter.get_tensor(self._output)[0]
        return features


def _input_and_output(interpreter: "Interpreter") -> tuple[int, int]:
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    takes = [(tuple(tensor["shape"]), tensor["dtype"]) for tensor in inputs]
    gives = [(tuple(tensor["shape"]), tensor["dtype"]) for tensor in outputs]
    if takes != [((1, INPUT_PX, INPUT_PX, 3), np.uint8)] or gives != [((1, FEATURES), np.float32)]:
        raise InvalidWeights(f"A network of other inputs or outputs: it takes {takes} and gives {gives}.")
    return inputs[0]["index"], outputs[0]["index"]
