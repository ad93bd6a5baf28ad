"""How sure a classifier may be: its shrinkage and temperature, chosen on photos that came after its fit.

A random part of the photos of the fit would not do: photos of one afternoon resemble each other, so that too little
shrinkage and too low a temperature look best (calibration error 0.15 instead of 0.07, and a fifth of ordinary photos
counted as strange; 81 kinds of groceries).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.classifier import SHRINKAGE, TEMPERATURE, Classifier, LeftOut, Within, squared_distances

# Fewer photos choose by chance.
FEWEST_ROWS = 300
SHRINKAGES = (0.05, 0.1, 0.2, 0.3, 0.5)
TEMPERATURES = tuple(2.0 ** (step / 4) for step in range(33))
# Enough to tell one in a thousand from one in a hundred.
MOST_DISTANCES = 1_000
ECE_BINS = 10


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Labelled rows that a fit has not seen: `vectors` (n, d) float32 with a label each."""

    vectors: NDArray[np.float32]
    labels: Sequence[str]


def calibrate(within: Within, held_out: HeldOut, fewest_rows: int = FEWEST_ROWS) -> Classifier:
    """The classifier whose confidences fit the held-out rows best, by their likelihood; it knows how strange they are.

    Rows of labels that it cannot name say nothing of its confidence. With too few others it is not calibrated.
    """
    place_of = {label: place for place, label in enumerate(within.labels)}
    places = np.array([place_of.get(label, -1) for label in held_out.labels], np.int64)
    has_name = places >= 0
    if has_name.sum() < fewest_rows:
        return within.classifier()
    least, shrinkage, temperature, nearest = np.inf, SHRINKAGE, TEMPERATURE, np.zeros(0, np.float32)
    for tried, distances in _distances_by_shrinkage(within, held_out.vectors):
        best, loss = _best_temperature(distances[has_name], places[has_name])
        if loss < least:
            least, shrinkage, temperature, nearest = loss, tried, best, distances.min(axis=1)
    fitted = within.classifier(shrinkage, temperature)
    return replace(fitted, strange_distances=quantiles(nearest), calibrated=True)


def with_known_rows(classifier: Classifier, vectors: NDArray[np.float32], left_out: LeftOut) -> Classifier:
    """The classifier, with rows (n, d) of its own fit to compare strange ones with: each as if it had been left out."""
    distances = squared_distances(classifier, vectors, left_out).min(axis=1)
    return replace(classifier, strange_distances=quantiles(distances[np.isfinite(distances)]))


def quantiles(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most 1,000 of some distances (n,), ascending, that stand for all."""
    ascending = np.sort(distances)
    if len(ascending) <= MOST_DISTANCES:
        return ascending
    return np.asarray(ascending[np.linspace(0, len(ascending) - 1, MOST_DISTANCES).round().astype(int)], np.float32)


def _distances_by_shrinkage(
    within: Within, vectors: NDArray[np.float32]
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Each shrinkage, with the squared distances of rows (n, d) to each label, (n, c), that it gives.

    Along the directions of the spread, another shrinkage only weighs each direction anew: one decomposition and one
    product with the rows do for all of them.
    """
    variances, directions = np.linalg.eigh(within.spread)
    ball = variances.mean()
    rows = (vectors - within.mean.astype(np.float32)) @ directions.astype(np.float32)
    means = (within.means - within.mean) @ directions
    squares = rows**2
    for shrinkage in SHRINKAGES:
        weights = 1 / ((1 - shrinkage) * variances + shrinkage * ball)
        crossed = rows @ (means * weights).T.astype(np.float32)
        distances = (squares @ weights.astype(np.float32))[:, None] - 2 * crossed + (means**2 @ weights)
        yield shrinkage, np.maximum(distances, 0).astype(np.float32)


def _best_temperature(distances: NDArray[np.float32], places: NDArray[np.int64]) -> tuple[float, float]:
    """The temperature at which the right labels are likeliest, and the mean of their negative log likelihoods."""
    halves = -distances.astype(np.float64) / 2
    halves -= halves.max(axis=1, keepdims=True)
    right = halves[np.arange(len(places)), places]
    losses = [
        float((np.log(np.exp(halves / temperature).sum(axis=1)) - right / temperature).mean())
        for temperature in TEMPERATURES
    ]
    best = int(np.argmin(losses))
    return TEMPERATURES[best], losses[best]


def calibration_error(confidences: NDArray[np.floating[Any]], is_right: NDArray[np.bool_]) -> float:
    """How far confidences (n,) and the share of right answers (n,) are apart, on average: the ECE, in 10 equal bins.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015).
    """
    bins = np.minimum((confidences * ECE_BINS).astype(int), ECE_BINS - 1)
    return sum(
        abs(float(confidences[bins == one].sum()) - float(is_right[bins == one].sum())) for one in np.unique(bins)
    ) / max(1, len(confidences))
