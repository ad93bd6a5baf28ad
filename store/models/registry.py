"""The featurizers of a home: immutable objects under their ids, and a pointer to the one in use."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from features.featurizer import DRAFT, Precision
from store.errors import StateDamaged
from store.home import Home
from store.objects.document import Document
from store.objects.operations import read, write_once


@dataclass(frozen=True)
class FeaturizerMeta:
    """What is known of a compiled network.

    `fingerprint` identifies its weights and its precision without running TensorFlow; `calibrated_on` is a note for
    people about the pictures that an int8 network was calibrated on. `pixels` tells how its pixels are made of a photo:
    features of other pixels are another featurizer's.
    """

    id: str
    source: str
    fingerprint: str
    network_sha256: str
    network_bytes: int
    compiled_at: datetime
    precision: Precision = "float32"
    calibrated_on: str | None = None
    pixels: str = DRAFT


_META = Document(FeaturizerMeta, "{}/meta.json", remedy="restore it")
_CURRENT = Document(dict[str, str], "CURRENT.json", remedy="restore it", indent=None)


def publish_featurizer(
    home: Home,
    network: bytes,
    source: str,
    fingerprint: str,
    precision: Precision = "float32",
    calibrated_on: str | None = None,
    pixels: str = DRAFT,
) -> FeaturizerMeta:
    """Store a compiled network under the hash of its bytes and its pixels, and make it the home's featurizer.

    Replay finds the objects and writes the pointer again. The pointer is written last, so that a network is never in
    use before all of it is stored.
    """
    digest = hashlib.sha256(network).hexdigest()
    id, now = _id_of(digest, pixels), datetime.now(UTC)
    meta = FeaturizerMeta(id, source, fingerprint, digest, len(network), now, precision, calibrated_on, pixels)
    write_once(home.featurizers, f"{meta.id}/network.tflite", network)
    stored = _META.write_once(home.featurizers, meta, meta.id)
    _CURRENT.write(home.featurizers, {"serving": meta.id})
    return stored


def _id_of(digest: str, pixels: str) -> str:
    # Featurizers of the first recipe keep the ids they always had.
    return (digest if pixels == DRAFT else hashlib.sha256(f"{digest} {pixels}".encode()).hexdigest())[:12]


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


def load_network(home: Home, featurizer: str) -> bytes:
    """The LiteRT flatbuffer of a featurizer. Raises StateDamaged when its bytes are not the published ones."""
    meta = describe_featurizer(home, featurizer)
    network = read(home.featurizers, f"{featurizer}/network.tflite")
    if hashlib.sha256(network).hexdigest() != meta.network_sha256:
        raise StateDamaged(f"{home.featurizers.uri_of(featurizer)}/network.tflite was changed; restore it.")
    return network
