"""The featurizers of a home: immutable objects under their ids, and a pointer to the one in use."""

import hashlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from features.featurizer import FEATURES, INPUT_PX, Precision
from store.errors import StateDamaged
from store.home import Home
from store.objects.document import Document
from store.objects.operations import keys_below, read, write_once

# How the pixels that a network sees are made of a photo. "draft": the decoder reduces a JPEG to a draft, of 300 pixels
# for a network of 224, and that is resized bicubically (`features.image.decode`).
PixelRecipe = Literal["draft"]


@dataclass(frozen=True)
class NetworkKind:
    """What a network takes and gives, and where it comes from: a name of Keras's applications, or `file`.

    It takes (n, input_px, input_px, 3) uint8 and gives (n, length) float32. `preprocessing` tells what it does first
    with the numbers 0 to 255. The defaults are those of all featurizers whose description says none of this.
    """

    network: str = "mobilenet_v2"
    input_px: int = INPUT_PX
    length: int = FEATURES
    preprocessing: str = "tf"


@dataclass(frozen=True)
class FeaturizerMeta(NetworkKind):
    """What is known of a compiled network.

    `fingerprint` identifies its weights and its precision without running TensorFlow; `calibrated_on` is a note for
    people about the pictures that an int8 network was calibrated on. `pixels` names how pixels are made of a photo.
    """

    id: str = field(kw_only=True)
    source: str = field(kw_only=True)
    fingerprint: str = field(kw_only=True)
    network_sha256: str = field(kw_only=True)
    network_bytes: int = field(kw_only=True)
    compiled_at: datetime = field(kw_only=True)
    precision: Precision = "float32"
    calibrated_on: str | None = None
    pixels: PixelRecipe = "draft"


_META = Document(FeaturizerMeta, "{}/meta.json", remedy="restore it")
_CURRENT = Document(dict[str, str], "CURRENT.json", remedy="restore it", indent=None)


def publish_featurizer(
    home: Home,
    network: bytes,
    source: str,
    fingerprint: str,
    precision: Precision = "float32",
    calibrated_on: str | None = None,
    kind: NetworkKind = NetworkKind(),
) -> FeaturizerMeta:
    """Store a compiled network under the hash of its bytes and make it the home's featurizer.

    Replay finds the objects and writes the pointer again. The pointer is written last, so that a network is never in
    use before all of it is stored.
    """
    digest = hashlib.sha256(network).hexdigest()
    meta = FeaturizerMeta(
        **asdict(kind),
        id=digest[:12],
        source=source,
        fingerprint=fingerprint,
        network_sha256=digest,
        network_bytes=len(network),
        compiled_at=datetime.now(UTC),
        precision=precision,
        calibrated_on=calibrated_on,
    )
    write_once(home.featurizers, f"{meta.id}/network.tflite", network)
    stored = _META.write_once(home.featurizers, meta, meta.id)
    _CURRENT.write(home.featurizers, {"serving": meta.id})
    return stored


def current_featurizer(home: Home) -> str | None:
    """The id of the featurizer that new plans use, or None before the first was published."""
    current = _CURRENT.read(home.featurizers)
    return current["serving"] if current else None


def describe_featurizer(home: Home, featurizer: str) -> FeaturizerMeta:
    """What is known of a published featurizer. Raises StateDamaged when it is not there."""
    meta = _META.read(home.featurizers, featurizer)
    if meta is None:
        raise StateDamaged(f"Featurizer {featurizer} is missing below {home.featurizers.uri}; restore it.")
    return meta


def described_featurizers(home: Home) -> list[FeaturizerMeta]:
    """What is known of all featurizers that were ever published in the home, by their ids."""
    names = sorted({key.partition("/")[0] for key in keys_below(home.featurizers) if key.endswith("/meta.json")})
    return [describe_featurizer(home, name) for name in names]


def load_network(home: Home, featurizer: str) -> bytes:
    """The LiteRT flatbuffer of a featurizer. Raises StateDamaged when its bytes are not the published ones."""
    meta = describe_featurizer(home, featurizer)
    network = read(home.featurizers, f"{featurizer}/network.tflite")
    if hashlib.sha256(network).hexdigest() != meta.network_sha256:
        raise StateDamaged(f"{home.featurizers.uri_of(featurizer)}/network.tflite was changed; restore it.")
    return network
