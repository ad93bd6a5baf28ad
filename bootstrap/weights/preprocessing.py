"""What a network does first with the numbers 0 to 255 of a picture; the arithmetic becomes a part of the network."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

# `tf`, `torch` and `caffe` as Keras names them; `unit` is 0 to 1, and `raw` leaves the numbers as they are.
Preprocessing = Literal["raw", "unit", "tf", "torch", "caffe"]
PREPROCESSINGS: tuple[Preprocessing, ...] = get_args(Preprocessing)

_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_CAFFE_MEAN = np.array([103.939, 116.779, 123.68])


class Affine(NamedTuple):
    """A preprocessing as `pixels * factors + offsets`, (3,) float32 each, after the channels were turned to BGR."""

    factors: NDArray[np.float32]
    offsets: NDArray[np.float32]
    is_bgr: bool


def preprocess(pixels: Any, preprocessing: Preprocessing = "tf") -> Any:
    """Numbers 0 to 255 (n, h, w, 3) in float32 as a network wants them, for arrays and tensors alike.

    Source: keras.applications.imagenet_utils.preprocess_input.
    """
    match preprocessing:
        case "raw":
            return pixels
        case "unit":
            return pixels / 255.0
        case "tf":
            return pixels / 127.5 - 1.0
        case "torch":
            return (pixels / 255.0 - _MEAN.astype(np.float32)) / _DEVIATION.astype(np.float32)
        case "caffe":
            return pixels[..., ::-1] - _CAFFE_MEAN.astype(np.float32)


def affine(preprocessing: Preprocessing) -> Affine:
    """The same arithmetic in numbers, for a network that is compiled already."""
    one = np.ones(3)
    factors, offsets = {
        "raw": (one, 0 * one),
        "unit": (one / 255, 0 * one),
        "tf": (one / 127.5, -one),
        "torch": (1 / (255 * _DEVIATION), -_MEAN / _DEVIATION),
        "caffe": (one, -_CAFFE_MEAN),
    }[preprocessing]
    return Affine(factors.astype(np.float32), offsets.astype(np.float32), preprocessing == "caffe")
