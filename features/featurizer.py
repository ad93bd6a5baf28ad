"""The network as executors run it: pixels in, features out, without TensorFlow."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidWeights

# MobileNetV2's, which is the network of a featurizer that says nothing else.
INPUT_PX = 224
FEATURES = 1280
# In what arithmetic a network runs.
Precision = Literal["float32", "int8"]


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
