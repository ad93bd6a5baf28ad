"""What fruit is it: a linear discriminant classifier of equal priors, fitted from sums that add up.

All labels share one covariance, that of the rows within their labels. A row belongs to the label whose mean is nearest
by the squared Mahalanobis distance D(x, c) = (x - m_c)^T Q (x - m_c). The confidence is the softmax of -D / (2 T) over
the labels. Sources: Fisher, "The Use of Multiple Measurements in Taxonomic Problems" (1936); Hastie, Tibshirani,
Friedman, "The Elements of Statistical Learning" (2009), 4.3; the temperature T: Guo et al., "On Calibration of Modern
Neural Networks" (2017).
"""

import io
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import FruitsError
from features.label_sums import ENOUGH_SUBJECTS, MOST_LABELS, RowSums, pack_texts, unpack_texts

# Where nothing that came later calibrates: of 81 kinds of groceries these were best on photos taken elsewhere.
SHRINKAGE = 0.2
TEMPERATURE = 20.0
TOP = 3


class TooFewLabels(FruitsError):
    """The labels do not suffice to tell one from the other."""


@dataclass(frozen=True, eq=False)
class Within:
    """The named labels, and how rows spread around the mean of their own label.

    `counts` is (c,) int64, `means` (c, d) and `mean`, of all labelled rows, (d,). `spread` (d, d) is W / (n - C), of
    all labels, also of those that are too rare to be named; `divisor` is n - C. All float64.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    mean: NDArray[np.float64]
    divisor: int
    spread: NDArray[np.float64]
    has_others: bool

    def classifier(
        self,
        shrinkage: float = SHRINKAGE,
        temperature: float = TEMPERATURE,
        precision: NDArray[np.floating[Any]] | None = None,
    ) -> "Classifier":
        """The classifier of this spread, shrunk towards a ball: Q^-1 = (1 - s) W / (n - C) + s tr / p I.

        `precision` is Q, if it is known already.
        """
        if precision is None:
            columns = len(self.mean)
            ball = np.trace(self.spread) / columns * np.eye(columns)
            precision = np.linalg.inv((1 - shrinkage) * self.spread + shrinkage * ball)
        centred = self.means - self.mean
        weights = centred @ precision
        return Classifier(
            self.labels,
            self.counts,
            self.mean.astype(np.float32),
            precision.astype(np.float32),
            weights.astype(np.float32),
            (weights @ centred.T).astype(np.float32),
            self.divisor,
            shrinkage,
            temperature,
        )


@dataclass(frozen=True, eq=False)
class Classifier:
    """What names rows: float32, so that a worker holds few megabytes of it.

    `mean`, of all labelled rows, is (d,), `precision` (d, d) is Q; `weights` (c, d) are the labels' means from `mean`,
    times Q, and `gram` (c, c) these times the means. `strange_distances`, ascending, are the distances of photos that
    it had not seen to their nearest label; `calibrated` says that these came after the fit, and that the shrinkage and
    the temperature were chosen on them.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    mean: NDArray[np.float32]
    precision: NDArray[np.float32]
    weights: NDArray[np.float32]
    gram: NDArray[np.float32]
    divisor: int
    shrinkage: float
    temperature: float
    strange_distances: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    calibrated: bool = False


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Which rows of the fit to name as if they had not been in it.

    `places` (n,) are the places of their labels in the classifier, -1 for rows that were not in the fit; `copies` (n,)
    say how many rows of the fit have the same bytes and label: these are left out together.
    """

    places: NDArray[np.int64]
    copies: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Names:
    """What a classifier says of n rows: the TOP nearest labels, how sure it is of each, and how strange the rows are.

    `places` (n, t) are places in the classifier's labels, nearest first, `confidences` (n, t) float32 their share of
    the softmax; `distances` (n,) float32 are squared, to the nearest label; `novelties` (n,) float32 the share of
    photos not seen before that were less strange, NaN where there were none to compare with.
    """

    places: NDArray[np.int64]
    confidences: NDArray[np.float32]
    distances: NDArray[np.float32]
    novelties: NDArray[np.float32]


def pack_classifier(classifier: Classifier) -> bytes:
    """A classifier as bytes of an npz file. The same classifier gives the same bytes."""
    body = io.BytesIO()
    arrays = {item.name: getattr(classifier, item.name) for item in fields(classifier) if item.name != "labels"}
    np.savez(body, labels=pack_texts(classifier.labels), **arrays)
    return body.getvalue()


def unpack_classifier(body: bytes) -> Classifier:
    """The classifier that `pack_classifier` was given, to the last bit. Raises ValueError for other bytes."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            labels = unpack_texts(arrays.pop("labels"), len(arrays["counts"]))
            numbers = {name: arrays.pop(name).item() for name in _NUMBERS}
            return Classifier(labels, **arrays, **numbers)
    # NumPy and zipfile raise a dozen unrelated kinds of errors for damaged bytes.
    except Exception as error:
        raise ValueError(f"these {len(body)} bytes are no packed classifier: {error}") from error


_NUMBERS = ("divisor", "shrinkage", "temperature", "calibrated")


def within_labels(sums: RowSums, min_rows: int) -> Within:
    """The labels with enough rows, and the spread of all labelled rows within their labels.

    A label is named if it has `min_rows` rows and, where any row of the home says who took it, three different people
    took them: a folder called after a person must not become an answer. Raises TooFewLabels, with a sentence.
    """
    labels = sums.labels
    if not labels.rows:
        raise TooFewLabels("No photo has a label.")
    has_subjects = bool((labels.subjects >= 0).any())
    is_named = labels.counts >= min_rows
    if has_subjects:
        is_named &= (labels.subjects >= 0).sum(axis=1) >= ENOUGH_SUBJECTS
    if is_named.sum() < 2:
        people = f", by {ENOUGH_SUBJECTS} different people" if has_subjects else ""
        raise TooFewLabels(
            f"{is_named.sum()} of {len(labels.labels):,} labels has {min_rows} photos{people}; two are needed."
        )
    counts = np.append(labels.counts, labels.other_rows)
    all_sums = np.vstack([labels.sums, labels.other_sum])[counts > 0]
    counts = counts[counts > 0]
    mean = sums.labelled.mean
    total = sums.labelled.scatter
    between = (all_sums - counts[:, None] * mean) / np.sqrt(counts)[:, None]
    divisor = sums.labelled.rows - len(counts)
    scatter = total - between.T @ between
    # What all labels agree in is a rounding error, and has no direction.
    rounding = np.finfo(np.float64).eps * len(mean) * max(np.trace(total), np.finfo(np.float64).tiny)
    if divisor < 1 or np.trace(scatter) <= rounding:
        raise TooFewLabels("All photos of a label are alike, so nothing says how much photos of one fruit differ.")
    return Within(
        labels=tuple(label for label, named in zip(labels.labels, is_named, strict=True) if named),
        counts=labels.counts[is_named],
        means=labels.sums[is_named] / labels.counts[is_named][:, None],
        mean=mean,
        divisor=divisor,
        spread=scatter / divisor,
        has_others=len(labels.labels) >= MOST_LABELS and labels.other_rows > 0,
    )


def squared_distances(
    classifier: Classifier, rows: NDArray[np.floating[Any]], left_out: LeftOut | None = None
) -> NDArray[np.float32]:
    """The squared distance of rows (n, d) to each label, (n, c); rows that are `left_out` as if not in the fit.

    Without a row x and its copies, m of the n_c rows of its label, the label's mean is m_c - m / (n_c - m) v and the
    spread is W - m n_c / (n_c - m) v v^T, where v = x - m_c. This is one rank-1 update of Q, exact while the divisor
    and the target of the shrinkage stay. A label that has no other row is infinitely far.
    Source: Sherman, Morrison, "Adjustment of an Inverse Matrix" (1950).
    """
    centred = rows.astype(np.float32) - classifier.mean
    turned = np.asarray(centred @ classifier.precision, np.float32)
    squares: NDArray[np.float32] = np.einsum("nd,nd->n", turned, centred)
    crossed = np.asarray(centred @ classifier.weights.T, np.float32)
    distances: NDArray[np.float32] = np.asarray(squares[:, None] - 2 * crossed + np.diag(classifier.gram), np.float32)
    np.maximum(distances, 0, out=distances)
    if left_out is not None and (left_out.places >= 0).any():
        _leave_out(classifier, distances, squares, crossed, left_out)
    return distances


def _leave_out(
    classifier: Classifier,
    distances: NDArray[np.float32],
    squares: NDArray[np.float32],
    crossed: NDArray[np.float32],
    left_out: LeftOut,
) -> None:
    """Change the distances of the rows that are left out, in place; with x and m_c from the mean of all labelled rows,
    `squares` (n,) are x^T Q x, and `crossed` (n, c) m_c^T Q x.
    """
    [rows] = np.nonzero(left_out.places >= 0)
    numbers, places = np.arange(len(rows)), left_out.places[rows]
    count, copies = classifier.counts[places].astype(np.float64), left_out.copies[rows].astype(np.float64)
    rest = count - copies
    own = distances[rows, places].astype(np.float64)
    # v^T Q (x - m_c) of each label.
    of_rows = crossed[rows].astype(np.float64)
    products = (squares[rows] - of_rows[numbers, places])[:, None] - of_rows + classifier.gram[places]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (1 - classifier.shrinkage) / classifier.divisor * copies * count / rest
        # The update takes away less than is there; rounding must not turn the sign.
        update = scale / np.maximum(1 - scale * own, np.finfo(np.float32).eps)
        updated = distances[rows] + update[:, None] * products**2
        updated[numbers, places] = (count / rest) ** 2 * (own + update * own**2)
    is_only = rest <= 0
    updated[is_only] = distances[rows[is_only]]
    updated[is_only, places[is_only]] = np.inf
    distances[rows] = updated


def name_rows(classifier: Classifier, rows: NDArray[np.floating[Any]], left_out: LeftOut | None = None) -> Names:
    """What the classifier says of rows (n, d); rows that are `left_out` as if they had not been in its fit."""
    distances = squared_distances(classifier, rows, left_out)
    top = min(TOP, len(classifier.labels))
    places = np.argsort(distances, axis=1, kind="stable")[:, :top]
    confidences = np.take_along_axis(softmax(distances, classifier.temperature), places, axis=1)
    nearest = np.take_along_axis(distances, places[:, :1], axis=1)[:, 0]
    return Names(places, confidences, nearest, novelties(classifier, nearest))


def nearest_labels(classifier: Classifier, rows: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The places (n,) of the labels that rows (n, d) are nearest to, at a tenth of what `name_rows` costs."""
    crossed = (rows.astype(np.float32) - classifier.mean) @ classifier.weights.T
    nearest: NDArray[np.int64] = np.argmin(np.diag(classifier.gram) - 2 * crossed, axis=1)
    return nearest


def softmax(distances: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float32]:
    """How sure one can be of each label by the squared distances (n, c): (n, c), the rows sum to 1."""
    scores = -distances.astype(np.float64) / (2 * temperature)
    scores -= scores.max(axis=1, keepdims=True)
    weights = np.exp(scores)
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def novelties(classifier: Classifier, distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of photos not seen before that were less strange than these distances (n,); NaN without any."""
    known = classifier.strange_distances
    if not len(known):
        return np.full(len(distances), np.nan, np.float32)
    return (np.searchsorted(known, distances, side="left") / len(known)).astype(np.float32)
