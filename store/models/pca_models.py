"""The PCA models of a home: immutable versions, and the pointer that says which one is served and which comes next."""

import io
import math
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import numpy as np

from features.classifier import Classifier, pack_classifier, unpack_classifier
from features.pca import Pca
from store.errors import AnotherRefit, StateDamaged, UnknownModel
from store.home import Home
from store.models.registry import current_featurizer
from store.objects.document import Document
from store.objects.operations import keys_below, overwrite, read_if_exists, write_once
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import PROJECTION_ROWS

_ARRAYS = "v{:06d}/model.npz"
_SCREE = "v{:06d}/scree.png"
_PCA_ARRAYS = ("mean", "components", "explained_variance", "explained_variance_ratio")
_CLASSIFIER = "classifier"
_ARRAYS_KEY = re.compile(r"v(\d{6,})/model\.npz")
_ANY_KEY = re.compile(r"v(\d{6,})/.*")
NAMES_ERASED = "Photos that it was fitted on were erased; refit."
# The served and the next one: with 1,000 labels each holds 17 MB.
_MODELS_KEPT = 2


@dataclass(frozen=True)
class PcaMeta:
    """What is known of one version.

    `explained` is the share of the variance that the kept components explain; `drift_rad` the largest principal angle
    between their subspace and the parent's; `nonce` identifies the refit that made the version. `last_batch` is the
    newest batch whose rows were in the fit, and `labels_until` the time of the newest of people's statements, None
    without any: what was said later does not change under which label a row was in the fit. `labels` is how many
    labels the version names; 0, with the reason in `no_names`, when it has no classifier.
    """

    version: int
    featurizer: str
    rows: int
    components: int
    explained: float
    fitted_at: datetime
    parent: int | None
    drift_rad: float | None
    nonce: str
    last_batch: int | None = None
    labels: int = 0
    no_names: str = "It was fitted before versions named fruit; refit."
    calibrated: bool = False
    held_back: str | None = None
    """Why the version did not become the next one, if it names fruit worse than another."""
    labels_until: datetime | None = None


@dataclass(frozen=True, eq=False)
class PcaModel:
    """One version with its arrays; without a classifier it projects rows and names none."""

    meta: PcaMeta
    pca: Pca
    classifier: Classifier | None = None


@dataclass(frozen=True)
class Current:
    """The version that `current_projections` shows, and the one that takes its place once every row has it.

    `nonce` identifies one switch among several to the same version: a batch between them may lack the version.
    `featurizer` is the served network, whose rows the views show: the served version's, or the first one before any
    version is; None before a home has one.
    """

    serving: int | None = None
    next: int | None = None
    nonce: str | None = None
    featurizer: str | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(version for version in (self.serving, self.next) if version is not None)


_META = Document(PcaMeta, "v{:06d}/meta.json", remedy="restore it")
# In a folder of its own and on one line, so that Athena reads it as a table of one row.
_POINTER = Document(Current, "current/CURRENT.json", remedy="restore it", indent=None)


def next_version(home: Home) -> int:
    """The number after the highest that was ever begun, even if its model is gone; the first is 1."""
    begun = (_ANY_KEY.fullmatch(key) for key in keys_below(home.pca_models))
    projected = (file.partition["pca_version"] for file in data_files(open_table(home, PROJECTION_ROWS)))
    numbers = (*(int(match[1]) for match in begun if match), *projected, *current_models(home).versions)
    return max(numbers, default=0) + 1


def publish_model(home: Home, model: PcaModel) -> None:
    """Store a new version, once, as one object. Raises AnotherRefit when another refit took it, StorageUnavailable."""
    stored = write_once(home.pca_models, _ARRAYS.format(model.meta.version), _pack(model))
    if _unpack(stored, home, model.meta.version).meta.nonce != model.meta.nonce:
        raise AnotherRefit(
            f"Another refit published version {model.meta.version} while this one was at work; nothing of this one is "
            "left. Run it again if rows came since."
        )


def write_copies(home: Home, meta: PcaMeta, scree_png: bytes) -> None:
    """Write copies that people can read beside a version's arrays; nothing depends on them. Replay writes the same."""
    _META.write(home.pca_models, meta, meta.version)
    overwrite(home.pca_models, _SCREE.format(meta.version), scree_png)


def has_scree(home: Home, version: int) -> bool:
    """Whether the scree plot of a version is stored: a refit can be killed before it writes the plot."""
    return read_if_exists(home.pca_models, _SCREE.format(version)) is not None


def scree_uri(home: Home, version: int) -> str:
    """Where the scree plot of a version is."""
    return home.pca_models.uri_of(_SCREE.format(version))


def versions(home: Home) -> list[int]:
    """The numbers of all models, ascending."""
    return sorted(int(match[1]) for key in keys_below(home.pca_models) if (match := _ARRAYS_KEY.fullmatch(key)))


def describe_model(home: Home, version: int) -> PcaMeta:
    """What is known of a version. Raises UnknownModel when there is none, StateDamaged when it cannot be read."""
    # Only a copy: the arrays' own metadata counts where it is missing or damaged.
    copy = _META.read(home.pca_models, version, unreadable_as_missing=True)
    return copy or load_model(home, version).meta


def load_model(home: Home, version: int) -> PcaModel:
    """A version with its arrays. Raises UnknownModel when there is none, StateDamaged when it cannot be read."""
    body = read_if_exists(home.pca_models, _ARRAYS.format(version))
    if body is None:
        there = ", ".join(map(str, versions(home))) or "none"
        raise UnknownModel(f"{home.root.uri} has no PCA model {version}; it has {there}.")
    return _unpack(body, home, version)


_kept_models: dict[tuple[Home, int], tuple[tuple[int, int], PcaModel]] = {}


def cached_model(home: Home, version: int, erasures: tuple[int, int] = (0, 0)) -> PcaModel:
    """The same, kept by this process: a version changes only when an erasure takes its classifier.

    With another progress of `erasures` it is read again, and nothing is kept of what it was.
    """
    kept = _kept_models.pop((home, version), None)
    if kept is None or kept[0] != erasures:
        kept = erasures, load_model(home, version)
    # The last one used comes last.
    _kept_models[home, version] = kept
    for old in list(_kept_models)[:-_MODELS_KEPT]:
        _kept_models.pop(old, None)
    return kept[1]


def drop_names(home: Home, first_batches: Mapping[tuple[str, str], int]) -> list[int]:
    """Take the classifier from every version that was fitted on rows that go; returns which versions lost it now.

    `first_batches` are, by featurizer and label, the lowest batches that lose a row. To be called before the rows go:
    who is killed then finds them again. Replay changes nothing. Raises StateDamaged for a version that cannot be read,
    StorageUnavailable.
    """
    versions_of = {featurizer for featurizer, _ in first_batches}
    dropped: list[int] = []
    for version in versions(home) if first_batches else ():
        meta = describe_model(home, version)
        if not meta.labels or meta.featurizer not in versions_of:
            continue
        model = load_model(home, version)
        if model.classifier is not None and any(
            first_batches.get((meta.featurizer, label), math.inf) <= (model.meta.last_batch or 0)
            for label in model.classifier.labels
        ):
            drop_names_of(home, model)
            dropped.append(version)
        elif model.meta != meta:
            # A kill came between the arrays and their copy.
            _META.write(home.pca_models, model.meta, version)
    return dropped


def served_without_names(home: Home) -> int | None:
    """The served version, if an erasure took its classifier."""
    serving = current_models(home).serving
    is_erased = serving is not None and describe_model(home, serving).no_names == NAMES_ERASED
    return serving if is_erased else None


def drop_names_of(home: Home, model: PcaModel) -> None:
    """Write a version again without its classifier; from then on it projects rows and names none."""
    meta = replace(model.meta, labels=0, no_names=NAMES_ERASED, calibrated=False)
    overwrite(home.pca_models, _ARRAYS.format(meta.version), _pack(PcaModel(meta, model.pca)))
    _META.write(home.pca_models, meta, meta.version)


def current_models(home: Home) -> Current:
    """The pointer as it stands; in a home of a former release, which named no network, with the one that it meant."""
    return _with_featurizer(home, stored_pointer(home))


def stored_pointer(home: Home) -> Current:
    """The same as it is stored, for who may read nothing but the pointer and the tables."""
    return _POINTER.read(home.pca_models) or Current()


def featurizers_in_use(home: Home, newest: str, current: Current | None = None) -> tuple[str, ...]:
    """The featurizers that new photos get rows of: the newest first, then those of what is served and comes next."""
    current = current or current_models(home)
    others = {current.featurizer, *(_featurizer_of(home, version) for version in current.versions)} - {newest, None}
    return (newest, *sorted(filter(None, others)))


def versions_to_project(home: Home, featurizers: Collection[str], current: Current | None = None) -> tuple[int, ...]:
    """The versions that rows of these featurizers are projected with: the served and the next one, if of theirs."""
    versions = (current or current_models(home)).versions
    return tuple(version for version in versions if _featurizer_of(home, version) in featurizers)


def name_served_featurizer(home: Home) -> None:
    """Write into the pointer which network is served, for who reads it there, if it does not say so yet."""
    stored = _POINTER.read(home.pca_models)
    if stored is None or stored.featurizer is None:
        _change(home, lambda current: current)


def _with_featurizer(home: Home, current: Current) -> Current:
    if current.featurizer is not None:
        return current
    served = current_featurizer(home) if current.serving is None else _featurizer_of(home, current.serving)
    return replace(current, featurizer=served)


@lru_cache(maxsize=64)
def _featurizer_of(home: Home, version: int) -> str:
    return describe_model(home, version).featurizer


def begin_switch(home: Home, version: int, newer_only: bool = False) -> Current:
    """Make a version the next one: new batches are projected with it, too. The served version ends any switch instead.

    With `newer_only` a higher version stays the next or the served one. Replay changes nothing.
    """
    nonce = uuid.uuid4().hex

    def edit(current: Current) -> Current:
        if version == current.next or (newer_only and max(current.versions, default=0) > version):
            return current
        if version == current.serving:
            return replace(current, next=None, nonce=None)
        return replace(current, next=version, nonce=nonce)

    return _change(home, edit)


def finish_switch(home: Home, begun: Current, featurizer: str) -> Current:
    """Serve the next version of a switch, and with it its network, now that all rows have it.

    Replay changes nothing. Raises AnotherRefit.
    """

    def edit(current: Current) -> Current:
        check_no_other_switch(begun, current)
        return Current(serving=begun.next, featurizer=featurizer)

    return _change(home, edit)


def check_no_other_switch(begun: Current, current: Current) -> None:
    """Raises AnotherRefit unless the switch `begun` is still under way, or is finished."""
    version = begun.versions[-1]
    is_finished = (current.serving, current.next) == (version, None)
    if is_finished or (current.serving, current.next, current.nonce) == (begun.serving, begun.next, begun.nonce):
        return
    if current.next is None:
        raise AnotherRefit(f"Version {version} is not on its way any more: version {current.serving} is served.")
    raise AnotherRefit(
        f"The switch to version {version} gave way to a later one, to version {current.next}; what was projected "
        "stays. Run `fruits reproject` again."
    )


def _change(home: Home, edit: Callable[[Current], Current]) -> Current:
    return _POINTER.change(home.pca_models, lambda current: edit(_with_featurizer(home, current or Current())))


def _pack(model: PcaModel) -> bytes:
    buffer = io.BytesIO()
    arrays = {name: getattr(model.pca, name) for name in _PCA_ARRAYS}
    if model.classifier is not None:
        arrays[_CLASSIFIER] = np.frombuffer(pack_classifier(model.classifier), np.uint8)
    np.savez(buffer, meta=np.frombuffer(_META.dump(model.meta), np.uint8), **arrays)
    return buffer.getvalue()


def _unpack(body: bytes, home: Home, version: int) -> PcaModel:
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            meta = _META.parse(arrays["meta"].tobytes(), _META.key(version))
            pca = Pca(meta.rows, **{name: arrays[name] for name in _PCA_ARRAYS})
            packed = arrays[_CLASSIFIER].tobytes() if _CLASSIFIER in arrays else None
            classifier = unpack_classifier(packed) if packed is not None else None
    # Depending on where bytes are damaged, NumPy and zipfile raise a dozen unrelated kinds.
    except Exception as error:
        uri = home.pca_models.uri_of(_ARRAYS.format(version))
        raise StateDamaged(f"{uri} cannot be read; restore it, or refit and use the new version.") from error
    return PcaModel(meta, pca, classifier)
