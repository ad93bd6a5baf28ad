"""Fit the PCA anew on every feature row of one featurizer, and publish it as the next version."""

import math
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module

import numpy as np
from pyspark import SparkContext

from batch.days import list_days
from batch.refit.naming import Comparison, fit_names
from batch.refit.scree import VarianceThresholds, scree_png, variance_thresholds
from batch.refit.stored_sums import forget_sums
from batch.refit.sums import sum_days
from features.errors import InvalidSetting
from features.pca import TooFewRows, fit, principal_angles_rad
from store.errors import HomeInUse, NothingIngested, StateDamaged, StorageUnavailable
from store.home import Home
from store.models.pca_models import (
    PcaMeta,
    PcaModel,
    begin_switch,
    current_models,
    describe_model,
    drop_names_of,
    load_model,
    next_version,
    publish_model,
    versions,
    write_copies,
)
from store.models.registry import current_featurizer, describe_featurizer, described_featurizers
from store.state.erasures import check_no_erasure_started, check_no_erasure_unfinished
from store.tables.handles import committed_batch, open_tables
from store.tables.labels import said_labels
from store.tables.photo_counts import PhotosOfNetwork, photos_of_network
from store.tables.schemas import FEATURE_ROWS

USUAL_COMPONENTS = 64


class NothingToFit(NothingIngested):
    """The home's featurizer has no rows yet to fit a model on: no failure."""


@dataclass(frozen=True)
class RefitOptions:
    """How many components to keep: that many, or as few as explain a share of the variance; and from how many rows.

    A label is named if it has `min_label_rows`. With `force`, a version that names worse becomes the next one, too.
    `featurizer` is whose rows to fit on, if not that of `network_to_fit`.
    """

    components: int | None
    variance: float | None
    min_rows: int
    min_label_rows: int = 10
    force: bool = False
    featurizer: str | None = None


@dataclass(frozen=True)
class NetworkToFit:
    """The featurizer on whose rows a refit fits; `newer` is the home's newest, if photos still lack rows of that."""

    featurizer: str
    newer: PhotosOfNetwork | None = None


@dataclass(frozen=True)
class Refit:
    """A new model, what it was fitted on, and how far its subspace turned from the parent's (ascending, radians).

    `next` is the version that will be served next: this one, unless there is a newer one. `rows_corrected` are under
    another label than their folder's; `rows_followed` of them were read, as something new was said of their day.
    """

    meta: PcaMeta
    published: bool
    next: int | None
    rows_read: int
    rows_stored: int
    angles_rad: tuple[float, ...]
    thresholds: VarianceThresholds
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()
    rows_followed: int = 0
    rows_corrected: int = 0


def network_to_fit(home: Home, asked: str | None = None) -> NetworkToFit:
    """The featurizer asked for, or the home's newest; the served network as long as photos lack rows of the newest.

    Raises NothingToFit before the first stream, InvalidSetting for a featurizer that the home does not have,
    StateDamaged, StorageUnavailable.
    """
    newest = current_featurizer(home)
    if newest is None:
        raise NothingToFit(f"{home.root.uri} has no featurizer, so nothing to fit on yet; run `fruits stream`.")
    if asked is not None:
        known = [meta.id for meta in described_featurizers(home)]
        if asked not in known:
            raise InvalidSetting(f"{home.root.uri} has no featurizer {asked}; it has {', '.join(known)}.")
        return NetworkToFit(asked)
    served = current_models(home).featurizer or newest
    if served == newest:
        return NetworkToFit(newest)
    newer = photos_of_network(home, newest)
    return NetworkToFit(served, newer) if newer.lacking else NetworkToFit(newest)


def components_to_keep(home: Home, featurizer: str, components: int | None, variance: float | None) -> int | None:
    """How many components to keep of a featurizer's features: those asked for, or the usual number.

    None where a share of the variance is asked for. Raises InvalidSetting, before any row is read, for more than there
    are features.
    """
    length = describe_featurizer(home, featurizer).length
    if components is not None and components > length:
        raise InvalidSetting(f"{components} components are impossible; choose from 1 to {length}.")
    return components or (None if variance else min(USUAL_COMPONENTS, length))


def refit(
    spark: SparkContext,
    home: Home,
    options: RefitOptions,
    dry_run: bool,
    full: bool,
    on_progress: Callable[[int, int], None],
) -> Refit:
    """Fit on the exact second moments of all rows, and make the new version the next one to be served.

    Only new and changed days are read; `full` reads all days. A dry run stores nothing. Replay fits another version.
    Raises NothingToFit, TooFewRows, NotFinite, InvalidSetting, AnotherRefit when another refit published
    first, JobFailed, StorageUnavailable; nothing is published then, unless the message names the version that was.
    Raises HomeInUse when an erasure began meanwhile: a version that was published by then names nothing.
    """
    featurizer = options.featurizer or network_to_fit(home).featurizer
    if not dry_run:
        # The import takes half a second, and Spark's tasks take longer.
        threading.Thread(target=import_module, args=("matplotlib.figure",), name="scree", daemon=True).start()
    version, parent = next_version(home), _parent(home, featurizer)
    erasures = check_no_erasure_unfinished(home)
    tables = open_tables(home)
    days = list_days(home, tables, featurizer)
    # Once, after the tables were opened: what is said from now on is for the next refit.
    said = said_labels(home)
    summed = sum_days(spark, home, featurizer, days, full=full, keep=not dry_run, on_progress=on_progress, said=said)
    try:
        check_no_erasure_started(home, erasures)
    except HomeInUse:
        # The sums that were stored just now may hold their rows.
        forget_sums(home)
        raise
    rows = summed.sums.rows
    if rows == 0:
        raise NothingToFit(
            f"{home.root.uri} has no feature rows of featurizer {featurizer} yet, so nothing to fit on; "
            "run `fruits stream`."
        )
    if rows < options.min_rows:
        raise TooFewRows(f"There are {rows:,} rows and {options.min_rows:,} are asked for; wait, or lower --min-rows.")
    pca = fit(summed.sums.moments, options.components, options.variance, parent.pca.components if parent else None)
    naming = fit_names(spark, home, featurizer, days, summed.counting, options.min_label_rows, said)
    comparison, classifier = naming.comparison, naming.classifier
    angles_rad = principal_angles_rad(parent.pca.components, pca.components) if parent else np.zeros(0)
    meta = PcaMeta(
        version=version,
        featurizer=featurizer,
        rows=pca.rows,
        components=len(pca.components),
        explained=math.fsum(pca.explained_variance_ratio[: len(pca.components)]),
        fitted_at=datetime.now(UTC),
        parent=parent.meta.version if parent else None,
        drift_rad=float(angles_rad[-1]) if parent else None,
        nonce=uuid.uuid4().hex,
        last_batch=committed_batch(tables[FEATURE_ROWS]),
        labels=len(classifier.labels) if classifier else 0,
        no_names=naming.no_names,
        calibrated=classifier is not None and classifier.calibrated,
        held_back=str(comparison) if comparison and comparison.is_worse and not options.force else None,
        labels_until=said.said_until,
    )
    if not dry_run:
        check_no_erasure_started(home, erasures)
        _publish(home, PcaModel(meta, pca, classifier), erasures)
    return Refit(
        meta=meta,
        published=not dry_run,
        next=current_models(home).next,
        rows_read=sum(summed.rows_read.values()),
        rows_stored=sum(summed.rows_stored.values()),
        rows_followed=sum(summed.rows_followed.values()),
        rows_corrected=summed.corrections.rows,
        angles_rad=tuple(map(float, angles_rad)),
        thresholds=variance_thresholds(pca.explained_variance_ratio),
        comparison=comparison,
        notes=naming.notes,
    )


def scree_plot(model: PcaModel) -> bytes:
    """The scree plot of a model, a PNG."""
    meta = model.meta
    title = f"PCA version {meta.version}: {meta.rows:,} rows of featurizer {meta.featurizer}, {meta.fitted_at:%Y-%m-%d}"
    return scree_png(model.pca.explained_variance_ratio, meta.components, title)


def _publish(home: Home, model: PcaModel, erasures: int) -> None:
    publish_model(home, model)
    try:
        write_copies(home, model.meta, scree_plot(model))
        _check_no_erasure_missed_it(home, model, erasures)
        if model.meta.held_back is None:
            begin_switch(home, model.meta.version, newer_only=True)
    except StorageUnavailable as error:
        version = model.meta.version
        raise StorageUnavailable(f"Version {version} is published, see `fruits models`, but: {error}") from error


def _check_no_erasure_missed_it(home: Home, model: PcaModel, erasures: int) -> None:
    # An erasure that begins from now on finds the version. One that began before may have looked for versions already.
    try:
        check_no_erasure_started(home, erasures)
    except HomeInUse:
        if model.classifier is not None:
            drop_names_of(home, model)
        raise


def _parent(home: Home, featurizer: str) -> PcaModel | None:
    """The newest version of the same featurizer: between others, directions mean nothing."""
    for version in reversed(versions(home)):
        try:
            if describe_model(home, version).featurizer == featurizer:
                return load_model(home, version)
        except StateDamaged:
            # A damaged version is nobody's parent; a command that names it says that it is damaged.
            continue
    return None
