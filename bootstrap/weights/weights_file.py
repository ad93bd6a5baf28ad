"""Loads the arrays of a weights file of Keras into the network."""

import io
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidWeights

if TYPE_CHECKING:
    import keras


class OtherNetwork(InvalidWeights):
    """A weights file is whole and holds the arrays of another network."""


def load_file(model: "keras.Model", name: str, body: bytes, network: str = "MobileNetV2 1.0") -> None:
    """Put the arrays of a weights file into the model; nothing else in the file is read, and no code in it is run.

    name: ends in .weights.h5, .keras or .h5 (legacy HDF5, by Keras 2 or 3), which is the format.
    A top is left out; in a legacy file so is a model around the network.
    Raises InvalidWeights when the file is damaged, OtherNetwork when it is of another network than `network`; the
    model's weights are then undefined.
    """
    legacy = name.endswith(".h5") and not name.endswith(".weights.h5")
    try:
        if not (legacy and _load_by_name(model, body)):
            _load_by_order(model, name, body)
    except (ValueError, UserWarning) as error:
        raise OtherNetwork(
            f"{name} holds another network: some arrays of {network} are missing or have other shapes."
        ) from error
    except Exception as error:  # h5py, zipfile and Keras raise a dozen kinds on files that are not what they seem
        raise InvalidWeights(f"{name} cannot be read as a weights file: {first_line(error)}.") from error


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


def first_line(error: Exception) -> str:
    """The first line of what a library says of an error, without the number of the operating system."""
    return re.sub(r"\[Errno -?\d+\] ", "", str(error).strip().partition("\n")[0]) or type(error).__name__
