"""The classifier of a new version: fitted on all labelled rows, calibrated and compared on those that came last."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import SparkContext

from batch.days import Day, rows_of, vectors_of
from batch.refit.sums import sum_later_rows
from features.calibration import FEWEST_ROWS, MOST_DISTANCES, HeldOut, calibrate, with_known_rows
from features.classifier import Classifier, LeftOut, TooFewLabels, Within, nearest_labels, within_labels
from features.label_sums import MOST_LABELS, RowSummer, RowSums, subtract_sums
from store.errors import StateDamaged, UnknownModel
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, current_models, describe_model, load_model, versions
from store.tables.labels import NOTHING_SAID, SaidLabels

# More tell a confidence no better, and come to the driver.
MOST_ROWS = 5_000
# How long a version counts as a rival after its fit, and by how much a new one may be worse.
RIVALS_KEPT = timedelta(days=28)
WORSE_BY = 0.02
# What is read again of days that were in the served version's fit: 50,000 rows.
MOST_BYTES_BACK = 256 * 2**20
MOST_ALIKE = 5
# One-sided, 95 %.
_SURE = 1.645


@dataclass(frozen=True)
class Comparison:
    """How the new version's twin, fitted without the photos that came last, names them, and the best rival does."""

    rows: int
    accuracy: float
    rival: int
    rival_accuracy: float
    is_worse: bool

    def __str__(self) -> str:
        return (
            f"of the {self.rows:,} labelled photos that came last it names {self.accuracy:.1%} right, "
            f"version {self.rival} {self.rival_accuracy:.1%}"
        )


@dataclass(frozen=True, eq=False)
class Naming:
    """The classifier of a version, or why it has none; and how it compares, if there was enough to compare with.

    `notes` are sentences for whoever looks after the labels.
    """

    classifier: Classifier | None
    no_names: str = ""
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()


def fit_names(
    spark: SparkContext,
    home: Home,
    featurizer: str,
    days: Sequence[Day],
    sums: RowSums,
    min_label_rows: int,
    said: SaidLabels = NOTHING_SAID,
) -> Naming:
    """Fit the classifier on the sums of all days' rows; nothing is stored. Replay gives the same, as of the rows.

    The sums go by the labels that count by `said`, and so do the rows that are held out.
    What came since the served version's fit, the newest days first, calibrates it as soon as that is 300 labelled
    rows; where it is fewer, so do the newest whole days, as long as others are left to fit on. Photos of one afternoon
    resemble each other, so that a random part of them would not do.
    Raises JobFailed, StateDamaged, StorageUnavailable.
    """
    try:
        within = within_labels(sums, min_label_rows)
    except TooFewLabels as reason:
        return Naming(None, str(reason))
    notes = _notes(sums, within)
    served = _served(home, featurizer)
    # Each batch number once.
    for after_batch in dict.fromkeys(((served.last_batch or 0) if served else 0, 0)):
        later = _later_rows(home, featurizer, sums.length, days, after_batch, set(within.labels), said)
        if later is None:
            continue
        rest = subtract_sums(sums, _sums_of(spark, home, featurizer, later, after_batch, said))
        twin = _twin(rest, min_label_rows, later.rows)
        if twin is not None and twin.calibrated:
            fitted = within.classifier(twin.shrinkage, twin.temperature)
            classifier = replace(fitted, strange_distances=twin.strange_distances, calibrated=True)
            comparison = _compare(home, featurizer, twin, later)
            if comparison is None and served and served.labels:
                notes = (*notes, f"Too few labelled photos came since version {served.version} to compare the two.")
            return Naming(classifier, comparison=comparison, notes=notes)
    uncalibrated = (
        f"No {FEWEST_ROWS} photos of known labels came on days after those of other photos, so nothing says how "
        "sure the version may be, and it is compared with no other."
    )
    classifier = _with_newest_rows(home, featurizer, days, within, sums, said)
    return Naming(classifier, notes=(*notes, uncalibrated))


def _notes(sums: RowSums, within: Within) -> tuple[str, ...]:
    notes: list[str] = []
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sums.labels.labels:
        spellings["".join(label.casefold().split())].append(label)
    if alike := [labels for labels in spellings.values() if len(labels) > 1]:
        shown = "; ".join(" and ".join(f'"{label}"' for label in labels) for labels in alike[:MOST_ALIKE])
        more = f"; and {len(alike) - MOST_ALIKE:,} more" if len(alike) > MOST_ALIKE else ""
        notes.append(f"Labels that differ only in case or spaces are different fruit to the version: {shown}{more}.")
    if within.has_others:
        notes.append(f"There are more than {MOST_LABELS:,} labels; only the largest ones can be named.")
    return tuple(notes)


def _served(home: Home, featurizer: str) -> PcaMeta | None:
    """The served version, if it is of this featurizer and can be read: a damaged one must not stop its successor."""
    serving = current_models(home).serving
    with suppress(StateDamaged, UnknownModel):
        meta = describe_model(home, serving) if serving is not None else None
        return meta if meta and meta.featurizer == featurizer else None
    return None


@dataclass(frozen=True, eq=False)
class _Later:
    """The newest days, with the files that hold what is held out, its labelled rows, and the first of its batches."""

    days: Sequence[Day]
    rows: HeldOut
    first_batch: int


def _later_rows(
    home: Home,
    featurizer: str,
    length: int,
    days: Sequence[Day],
    after_batch: int,
    named: Collection[str],
    said: SaidLabels,
) -> _Later | None:
    """As many of the newest days as have 300 rows of later batches and named labels, and at most 5,000 labelled ones.

    Only files that hold later batches are read. None where that is too few rows, or where no others would be left.
    """
    taken: list[Day] = []
    vectors: list[NDArray[np.float32]] = []
    labels: list[str] = []
    for day in reversed(_days_after(days, after_batch)):
        if after_batch == 0 and taken and sum(one.size_bytes for one in (*taken, day)) > MOST_BYTES_BACK:
            return None
        taken.append(day)
        for rows, found in _labelled_rows(home, featurizer, length, day, after_batch, MOST_ROWS - len(labels), said):
            vectors.append(rows)
            labels += found
        if sum(label in named for label in labels) >= FEWEST_ROWS:
            is_all = after_batch == 0 and len(taken) == len(days)
            lowest = min((file.batches[0] if file.batches else 0) for one in taken for file in one.files)
            held_out = HeldOut(np.concatenate(vectors), labels)
            return None if is_all else _Later(taken, held_out, max(after_batch + 1, lowest))
    return None


def _days_after(days: Sequence[Day], batch: int) -> list[Day]:
    """The days with their files that may hold later batches."""
    later = [
        replace(day, files=tuple(file for file in day.files if file.batches is None or file.batches[1] > batch))
        for day in days
    ]
    return [day for day in later if day.files]


def _labelled_rows(
    home: Home, featurizer: str, length: int, day: Day, after_batch: int, most: int, said: SaidLabels
) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
    # The names of files say nothing of what is in them, so the first ones are as good as any.
    for path in day.paths:
        if most <= 0:
            return
        narrow = rows_of(home, featurizer, path, ["image_id", "label"], after_batch)
        if all(column.null_count == len(column) for column in map(said.labels_of, narrow)):
            continue
        for rows in rows_of(home, featurizer, path, ["image_id", "features", "batch", "label"], after_batch):
            labelled: pa.RecordBatch = rows.filter(pc.is_valid(said.labels_of(rows))).slice(0, most)
            most -= labelled.num_rows
            if labelled.num_rows:
                yield vectors_of(home, length, day.date, path, labelled), said.labels_of(labelled).to_pylist()
            if most <= 0:
                return


def _sums_of(
    spark: SparkContext, home: Home, featurizer: str, later: _Later, after_batch: int, said: SaidLabels
) -> RowSums:
    """The sums of all rows that are held out, at least of the labelled ones: the classifier takes nothing of others."""
    if len(later.rows.labels) >= MOST_ROWS:
        return sum_later_rows(spark, home, featurizer, later.days, after_batch, said)
    summer = RowSummer(later.rows.vectors.shape[1])
    summer.add(later.rows.vectors, later.rows.labels, [None] * len(later.rows.labels))
    return summer.result()


def _twin(rest: RowSums, min_label_rows: int, later: HeldOut) -> Classifier | None:
    try:
        return calibrate(within_labels(rest, min_label_rows), later)
    except TooFewLabels:
        return None


def _with_newest_rows(
    home: Home, featurizer: str, days: Sequence[Day], within: Within, sums: RowSums, said: SaidLabels
) -> Classifier:
    """The classifier, with the newest of its own rows to compare strange ones with."""
    classifier, place_of = within.classifier(), {label: place for place, label in enumerate(within.labels)}
    vectors: list[NDArray[np.float32]] = [np.zeros((0, sums.length), np.float32)]
    places: list[int] = []
    most = min(MOST_DISTANCES, sums.labelled.rows)
    for day in reversed(days):
        if len(places) >= most:
            break
        for rows, labels in _labelled_rows(home, featurizer, sums.length, day, 0, most - len(places), said):
            vectors.append(rows)
            places += [place_of.get(label, -1) for label in labels]
    all_vectors = np.concatenate(vectors)
    # Equal photos have equal features; those that were not read here are not counted.
    keys = [(place, row.tobytes()) for place, row in zip(places, all_vectors, strict=True)]
    copies = Counter(keys)
    left_out = LeftOut(np.array(places, np.int64), np.array([copies[key] for key in keys], np.int64))
    return with_known_rows(classifier, all_vectors, left_out)


def _compare(home: Home, featurizer: str, twin: Classifier, later: _Later) -> Comparison | None:
    """The twin beside the best rival: none of the rivals had any of the rows in its fit."""
    own = _is_right(twin, later.rows)
    rivals = {
        model.meta.version: _is_right(model.classifier, later.rows)
        for model in _rivals(home, featurizer, later.first_batch)
        if model.classifier
    }
    if not rivals:
        return None
    best = max(rivals, key=lambda version: float(rivals[version].mean()))
    lost = rivals[best].astype(float) - own
    least = lost.mean() - _SURE * lost.std(ddof=1) / np.sqrt(len(lost))
    is_worse = bool(lost.mean() > WORSE_BY and least > 0)
    return Comparison(len(own), float(own.mean()), best, float(rivals[best].mean()), is_worse)


def _rivals(home: Home, featurizer: str, first_batch: int) -> Iterator[PcaModel]:
    serving = current_models(home).serving or 0
    for version in versions(home):
        if version > serving:
            return
        with suppress(StateDamaged):
            meta = describe_model(home, version)
            is_recent = datetime.now(UTC) - meta.fitted_at <= RIVALS_KEPT and not meta.held_back
            knows_nothing = meta.last_batch is not None and meta.last_batch < first_batch
            is_rival = meta.labels and meta.featurizer == featurizer and knows_nothing
            if is_rival and (is_recent or version == serving):
                yield load_model(home, version)


def _is_right(classifier: Classifier, later: HeldOut) -> NDArray[np.bool_]:
    said = np.array(classifier.labels)[nearest_labels(classifier, later.vectors)]
    is_right: NDArray[np.bool_] = said == np.array(later.labels)
    return is_right
