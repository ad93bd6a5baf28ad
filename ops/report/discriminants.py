"""The directions that tell labels apart best, among those that PCA coordinates can show."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.models.pca_models import PcaModel

_AXES = 2


@dataclass(frozen=True, eq=False)
class Discriminants:
    """Two directions in PCA space: a photo's coordinates (k,) times `axes` (k, 2), plus `offset` (2,), float64.

    Along each the rows of one label spread by 1, and the labels' means are as far apart as can be; 0 is the mean of all
    labels. `shares` are the parts of what parts the labels in PCA space.
    """

    axes: NDArray[np.float64]
    offset: NDArray[np.float64]
    shares: tuple[float, float]

    def places(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Where photos with these PCA coordinates (n, k) lie: (n, 2)."""
        found: NDArray[np.float64] = points.astype(np.float64) @ self.axes + self.offset
        return found


def discriminants(model: PcaModel) -> Discriminants | None:
    """The two leading ones of a version's classifier; None when it names fewer than three labels, or none.

    The classifier's own directions need all features of a photo, which a page does not read. So its covariance and
    its labels' means are projected into PCA space, where Fisher's criterion is solved: these are the best directions
    that PCA coordinates can show, and no row is read for them. Labels count alike, as the classifier has it.
    """
    classifier, pca = model.classifier, model.pca
    if classifier is None or len(classifier.labels) <= _AXES or len(pca.components) < _AXES:
        return None
    components = pca.components.astype(np.float64)
    # The covariance, the inverse of the precision, times the components.
    spread = np.linalg.solve(classifier.precision.astype(np.float64), components.T)
    within = components @ spread
    means = classifier.weights.astype(np.float64) @ spread
    centre = means.mean(axis=0)
    # Where rows of one label spread by 1 in all directions, the best ones are the principal ones of the means.
    lower = np.linalg.cholesky((within + within.T) / 2)
    whitened = np.linalg.solve(lower, (means - centre).T)
    directions, spreads, _ = np.linalg.svd(whitened, full_matrices=False)
    # A direction and its opposite are as good; the same version shall not be mirrored from page to page.
    leading = directions[:, :_AXES]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(_AXES)])
    axes = np.linalg.solve(lower.T, leading)
    parted = spreads**2 / max(float(np.sum(spreads**2)), np.finfo(np.float64).tiny)
    middle = components @ (classifier.mean.astype(np.float64) - pca.mean.astype(np.float64)) + centre
    return Discriminants(axes, -middle @ axes, (float(parted[0]), float(parted[1])))
