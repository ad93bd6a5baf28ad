"""The models of a home: immutable objects under their ids, and a pointer to the one in use."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from features.precision import Precision
from store.errors import StateDamaged
from store.home import Home
from store.objects.operations import overwrite, read, read_if_exists, write_once


@dataclass(frozen=True)
class FeaturizerMeta:
    """What is known of a compiled network.

    `fingerprint` tells its weights and its precision without running TensorFlow; `calibrated_on` tells a person which
    pictures an int8 network was calibrated on.
    """

    id: str
    source: str
    fingerprint: str
    network_sha256: str
    network_bytes: int
    compiled_at: datetime
    precision: Precision = "float32"
    calibrated_on: str | None = None


_META = TypeAdapter(FeaturizerMeta)
_ID = TypeAdapter(dict[str, str])


def publish_featurizer(
    home: Home,
    network: bytes,
    source: str,
    fingerprint: str,
    precision: Precision = "float32",
    calibrated_on: str | None = None,
) -> FeaturizerMeta:
    """Store a compiled network under the hash of its bytes and make it the home's featurizer.

    Replay finds the objects there already and points at them again. The pointer is written last, so a half-published
    network is never in use.
    """
    digest = hashlib.sha256(network).hexdigest()
    meta = FeaturizerMeta(
        digest[:12], source, fingerprint, digest, len(network), datetime.now(UTC), precision, calibrated_on
    )
    write_once(home.featurizers, f"{meta.id}/network.tflite", network)
    standing = write_once(home.featurizers, f"{meta.id}/meta.json", _META.dump_json(meta, indent=1))
    overwrite(home.featurizers, "CURRENT.json", _ID.dump_json({"serving": meta.id}))
    return _META.validate_json(standing)


def current_featurizer(home: Home) -> str | None:
    """The id of the featurizer that new plans use, or None before the first was published."""
    body = read_if_exists(home.featurizers, "CURRENT.json")
    return None if body is None else _ID.validate_json(body)["serving"]


def describe_featurizer(home: Home, featurizer: str) -> FeaturizerMeta:
    """What is known of a published featurizer. Raises StateDamaged when it is not there."""
    body = read_if_exists(home.featurizers, f"{featurizer}/meta.json")
    if body is None:
        raise StateDamaged(f"Featurizer {featurizer} is missing below {home.featurizers.uri}; restore it.")
    return _META.validate_json(body)


def load_network(home: Home, featurizer: str) -> bytes:
    """The LiteRT flatbuffer of a featurizer. Raises StateDamaged when its bytes are not the published ones."""
    meta = describe_featurizer(home, featurizer)
    network = read(home.featurizers, f"{featurizer}/network.tflite")
    if hashlib.sha256(network).hexdigest() != meta.network_sha256:
        raise StateDamaged(f"{home.featurizers.uri_of(featurizer)}/network.tflite was changed; restore it.")
    return network
