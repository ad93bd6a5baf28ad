"""The featurizers of a home: immutable objects under their ids, and a pointer to the one in use."""

import hashlib
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache

from features.featurizer import DRAFT, FEATURES, INPUT_PX, Precision, Recipe, recipe_of
from store.errors import StateDamaged
from store.home import Home
from store.objects.document import Document
from store.objects.operations import keys_below, read, write_once


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
    people about the pictures that an int8 network was calibrated on. `pixels` names the recipe: features
    of other pixels are another featurizer's.
    """

    id: str = field(kw_only=True)
    source: str = field(kw_only=True)
    fingerprint: str = field(kw_only=True)
    network_sha256: str = field(kw_only=True)
    network_bytes: int = field(kw_only=True)
    compiled_at: datetime = field(kw_only=True)
    precision: Precision = "float32"
    calibrated_on: str | None = None
    pixels: str = DRAFT.pixels

    @property
    def recipe(self) -> Recipe:
        """How the pixels that the network sees are made of a photo."""
        return recipe_of(self.pixels, self.input_px)


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
    copy_px: int | None = None,
) -> FeaturizerMeta:
    """Store a compiled network under the hash of its bytes and its pixels, and make it the home's featurizer.

    Replay finds the objects and writes the pointer again. The pointer is written last, so that a network is never in
    use before all of it is stored.
    """
    digest, pixels = hashlib.sha256(network).hexdigest(), Recipe(kind.input_px, copy_px).pixels
    meta = FeaturizerMeta(
        **{one.name: getattr(kind, one.name) for one in fields(NetworkKind)},
        id=_id_of(digest, pixels),
        source=source,
        fingerprint=fingerprint,
        network_sha256=digest,
        network_bytes=len(network),
        compiled_at=datetime.now(UTC),
        precision=precision,
        calibrated_on=calibrated_on,
        pixels=pixels,
    )
    write_once(home.featurizers, f"{meta.id}/network.tflite", network)
    stored = _META.write_once(home.featurizers, meta, meta.id)
    _CURRENT.write(home.featurizers, {"serving": meta.id})
    return stored


def _id_of(digest: str, pixels: str) -> str:
    # Featurizers of the first recipe keep the ids they always had.
    return (digest if pixels == DRAFT.pixels else hashlib.sha256(f"{digest} {pixels}".encode()).hexdigest())[:12]


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


@lru_cache(maxsize=64)
def known_recipe(home: Home, featurizer: str) -> Recipe:
    """Its recipe, which this process reads once: each batch asks. Raises as `describe_featurizer`."""
    return describe_featurizer(home, featurizer).recipe


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
