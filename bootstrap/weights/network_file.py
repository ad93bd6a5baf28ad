"""Files that are networks of their own: a .keras file of Keras, or a .tflite that is compiled already."""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bootstrap.weights.network import keras_quietly, without_chatter
from bootstrap.weights.preprocessing import Preprocessing, affine
from bootstrap.weights.source import LEAST_PX, MOST_PX
from bootstrap.weights.weights_file import first_line
from features.errors import InvalidWeights

if TYPE_CHECKING:
    import keras

Shapes = Sequence[tuple[int | None, ...]]

# A sum of so many features takes 67 MB, and their PCA a minute.
MOST_FEATURES = 4096

# What a description may name. Keras refuses code itself in its safe mode; this does not depend on how well.
_MODULES = (
    *("layers", "models", "initializers", "regularizers", "constraints", "activations", "random"),
    *(f"src.{name}" for name in ("layers", "models", "ops", "applications", "random", "dtype_policies")),
)
# They hold code, pickled or not, or read other files.
_WITH_CODE = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")
_WITH_FILES = ("StringLookup", "IntegerLookup", "TextVectorization")


def load_model(name: str, body: bytes) -> "keras.Model":
    """The network of a .keras file that has one picture in and one vector out; no code in the file is run.

    Raises InvalidWeights, which says what is wrong with the file.
    """
    _check_description(name, body)
    keras = keras_quietly()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name)
        path.write_bytes(body)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # h5py, zipfile and Keras raise a dozen kinds on files that are not what they seem
            raise InvalidWeights(f"{name} cannot be read as a network: {first_line(error)}.") from error
    takes, gives = ([tuple(tensor.shape) for tensor in tensors] for tensors in (model.inputs, model.outputs))
    _check_shapes(name, takes, gives)
    return model


def load_compiled(name: str, body: bytes, preprocessing: Preprocessing) -> bytes:
    """The network of a .tflite file, with its preprocessing and for pictures of bytes: what an executor runs.

    A network that takes bytes has its preprocessing inside. Raises InvalidWeights, which says what is wrong.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with without_chatter():
            interpreter = Interpreter(model_content=body, num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidWeights(f"{name} cannot be read as a network: {first_line(error)}.") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    takes, gives = ([tuple(map(int, tensor["shape"])) for tensor in tensors] for tensors in (inputs, outputs))
    _check_shapes(name, takes, gives)
    kind = inputs[0]["dtype"]
    if kind not in (np.uint8, np.float32) or outputs[0]["dtype"] != np.float32:
        raise InvalidWeights(
            f"{name} takes {kind.__name__} and gives {outputs[0]['dtype'].__name__}; a network takes a picture in "
            "uint8 or float32 and gives a vector in float32. Convert it with such an input and output."
        )
    if kind == np.float32:
        return _for_bytes(body, preprocessing)
    if preprocessing != "raw":
        raise InvalidWeights(
            f"{name} takes bytes, so its preprocessing is inside; leave {preprocessing}: out before the file."
        )
    return body


def _check_description(name: str, body: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            description = json.loads(archive.read("config.json"))
        objects = list(_objects(description))
    except Exception as error:
        raise InvalidWeights(f"{name} cannot be read as a network: {first_line(error)}.") from error
    for kind, module in objects:
        if kind in _WITH_CODE or kind == "__lambda__":
            raise InvalidWeights(f"{name} holds code, in {kind}, which is not run; build the network without it.")
        is_known = module is None or module == "builtins" or module == "keras" or module.startswith(_PREFIXES)
        if not is_known or not kind.isidentifier() or kind in _WITH_FILES:
            where = f"{module}.{kind}" if module else kind
            raise InvalidWeights(
                f"{name} needs {where}, which is no layer that Keras makes a network of pictures of; build the network "
                "without it."
            )


_PREFIXES = tuple(f"keras.{module}" for module in _MODULES)


def _objects(description: Any) -> Iterator[tuple[str, str | None]]:
    """The classes and functions that a description names, each with its module."""
    if isinstance(description, dict):
        if "class_name" in description:
            module = description.get("module")
            yield str(description["class_name"]), None if module is None else str(module)
        # It is not read: a network is loaded without its training.
        for value in (value for key, value in description.items() if key != "compile_config"):
            yield from _objects(value)
    elif isinstance(description, list):
        for value in description:
            yield from _objects(value)


def _check_shapes(name: str, takes: Shapes, gives: Shapes) -> None:
    match takes:
        case [(None | 1, int() as height_px, int() as width_px, 3)] if height_px == width_px:
            if not LEAST_PX <= height_px <= MOST_PX:
                raise InvalidWeights(
                    f"{name} takes pictures of {height_px} pixels a side; use a network for {LEAST_PX} to {MOST_PX}."
                )
        case _:
            raise InvalidWeights(
                f"{name} takes {_told(takes)}; use a network that takes one square picture in colour, as (None, 224, "
                "224, 3)."
            )
    match gives:
        case [(None | 1, int() as length)]:
            if not 2 <= length <= MOST_FEATURES:
                raise InvalidWeights(
                    f"{name} gives {length:,} numbers for a picture; use a network that gives 2 to {MOST_FEATURES:,}."
                )
        case _:
            raise InvalidWeights(
                f"{name} gives {_told(gives)}; use a network that gives one vector for a picture, as (None, 1280): one "
                "output, and an average over the picture at the end."
            )


def _told(shapes: Shapes) -> str:
    return " and ".join(map(str, shapes)) or "nothing"


def _for_bytes(body: bytes, preprocessing: Preprocessing) -> bytes:
    """A compiled network of float32 pictures with the steps before it that make such pictures of bytes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(body))
    graph = model.subgraphs[0]
    [pictures] = graph.inputs
    shape = graph.tensors[pictures].shape

    def add_tensor(name: str, shape: Any, kind: int, numbers: np.ndarray[Any, Any] | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), shape, kind, 0
        if numbers is not None:
            held = schema.BufferT()
            held.data = np.frombuffer(numbers.tobytes(), np.uint8)
            model.buffers.append(held)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(code: str, options: Any, inputs: list[int], output: int) -> Any:
        number, kind = getattr(schema.BuiltinOperator, code), schema.OperatorCodeT()
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = number, number, 1
        model.operatorCodes.append(kind)
        made = schema.OperatorT()
        made.opcodeIndex = len(model.operatorCodes) - 1
        made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        made.builtinOptions, made.inputs, made.outputs = options, inputs, [output]
        return made

    wants, of_bytes = affine(preprocessing), schema.TensorType.UINT8
    float32 = schema.TensorType.FLOAT32
    entry = add_tensor("pixels", shape, of_bytes)
    steps: list[tuple[str, Any, int | None]] = []
    cast, gather = schema.CastOptionsT(), schema.GatherOptionsT()
    cast.inDataType, cast.outDataType, gather.axis = of_bytes, float32, 3
    steps.append(("CAST", cast, None))
    if wants.is_bgr:
        order = add_tensor("pixels_bgr", [3], schema.TensorType.INT32, np.array([2, 1, 0], np.int32))
        steps.append(("GATHER", gather, order))
    if (wants.factors != 1).any():
        steps.append(("MUL", schema.MulOptionsT(), add_tensor("pixels_factors", [3], float32, wants.factors)))
    if wants.offsets.any():
        steps.append(("ADD", schema.AddOptionsT(), add_tensor("pixels_offsets", [3], float32, wants.offsets)))
    before, place = [], entry
    for number, (code, options, constant) in enumerate(steps, start=1):
        output = pictures if number == len(steps) else add_tensor(f"pixels_{number}", shape, float32)
        before.append(operator(code, options, [place] if constant is None else [place, constant], output))
        place = output
    graph.operators = [*before, *graph.operators]
    graph.inputs = [entry]
    # They name the tensor that was the input.
    model.signatureDefs = None
    builder = flatbuffers.Builder(len(body) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
