"""How sure a classifier may be: its shrinkage and temperature, chosen on photos that came after its fit.

A random part of the photos of the fit would not do: photos of one afternoon resemble each other, so that too little
shrinkage and too low a temperature look best (calibration error 0.15 instead of 0.07, and a fifth of ordinary photos
counted as strange; 81 kinds of groceries).
"""

from collections.abc import Sequence
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
    turned = _turn(within, held_out.vectors)
    least, shrinkage, temperature, nearest = np.inf, SHRINKAGE, TEMPERATURE, np.zeros(0, np.float32)
    for tried in SHRINKAGES:
        distances = turned.squared_distances(tried)
        best, loss = _best_temperature(distances[has_name], places[has_name])
        if loss < least:
            least, shrinkage, temperature, nearest = loss, tried, best, distances.min(axis=1)
    fitted = within.classifier(shrinkage, temperature, turned.precision(shrinkage))
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


@dataclass(frozen=True, eq=False)
class _Turned:
    """Rows (n, d) and the labels' means (c, d), turned to the directions (d, d) in which the spread has no covariance.

    There another shrinkage only weighs each direction anew, so that one decomposition and one product with the rows do
    for all of them. All float32: what is chosen here are two numbers.
    """

    variances: NDArray[np.float32]
    directions: NDArray[np.float32]
    rows: NDArray[np.float32]
    means: NDArray[np.float32]

    def squared_distances(self, shrinkage: float) -> NDArray[np.float32]:
        """The squared distance of each row to each label (n, c), so shrunk."""
        weights = self._weights(shrinkage)
        crossed = self.rows @ (self.means * weights).T
        distances = (self.rows**2 @ weights)[:, None] - 2 * crossed + self.means**2 @ weights
        return np.asarray(np.maximum(distances, 0), np.float32)

    def precision(self, shrinkage: float) -> NDArray[np.float32]:
        """The inverse of the shrunk spread (d, d)."""
        roots = self.directions * np.sqrt(self._weights(shrinkage))
        # NumPy hands a matrix times its own transpose to syrk, at half the cost.
        return np.asarray(roots @ roots.T, np.float32)

    def _weights(self, shrinkage: float) -> NDArray[np.float32]:
        weights = 1 / ((1 - shrinkage) * np.maximum(self.variances, 0) + shrinkage * self.variances.mean())
        return np.asarray(weights, np.float32)


def _turn(within: Within, vectors: NDArray[np.float32]) -> _Turned:
    variances, directions = np.linalg.eigh(within.spread.astype(np.float32))
    rows = (vectors - within.mean.astype(np.float32)) @ directions
    return _Turned(variances, directions, rows, (within.means - within.mean).astype(np.float32) @ directions)


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
