"""The arithmetic of PCA: moments of rows that add up, the components they give, and rows projected on them."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import FruitsError, InvalidSetting


class NotFinite(FruitsError):
    """A row to be summed up has a NaN or an infinity, which would spoil all components."""


class TooFewRows(FruitsError):
    """The rows, or the differences between them, do not suffice for the components asked for."""


# Products of fewer rows cost more for each row: on one core 63 GFLOPS at 1250 of them, 79 at 2500, 83 at 5000.
BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of rows: all that PCA needs to know of them; moments of disjoint rows add up.

    The scatter is the sum over rows of (x - mean)(x - mean)^T. It is symmetric, and `triangle` holds its rows from the
    diagonal on, one after the other. `mean` is (d,) and `triangle` (d (d + 1) / 2,), both float64; (0,) for no rows.
    """

    rows: int
    mean: NDArray[np.float64]
    triangle: NDArray[np.float64]

    @property
    def scatter(self) -> NDArray[np.float64]:
        """The whole scatter, (d, d) float64, made anew."""
        scatter = np.zeros((len(self.mean), len(self.mean)))
        if not self.rows:
            return scatter
        for place, part in _rows_of_triangle(self.triangle, len(self.mean)):
            scatter[place, place:] = part
        return scatter + np.triu(scatter, 1).T


@dataclass(frozen=True, eq=False)
class Pca:
    """The k directions in which rows differ most, and how much of the variance each direction explains.

    All float64: `mean` is (d,); `components` (k, d) with orthonormal rows, largest variance first;
    `explained_variance` (d,) of all d directions, descending, at least 0; `explained_variance_ratio` (d,) sums to 1.
    """

    rows: int
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    explained_variance: NDArray[np.float64]
    explained_variance_ratio: NDArray[np.float64]


def moments_of(chunks: Iterable[NDArray[np.floating[Any]]], columns: int) -> Moments:
    """The moments of all rows of all chunks, in one pass.

    Chunks are (n, columns) of any float dtype and any n, also 0; no rows at all give zeros. Products are float64. Each
    block of rows is centred on its own mean before it is multiplied. So an offset far larger than the spread costs no
    digits, and a column that never changes has a scatter of exactly 0. Raises NotFinite when a value is NaN or
    infinite, and ValueError for chunks of another width. Source: Chan, Golub, LeVeque, "Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances" (1979).
    """
    summed = MomentsSum(columns)
    for chunk in chunks:
        summed.add(chunk)
    return summed.result()


class MomentsSum:
    """Moments that grow by chunks, as `moments_of` says."""

    def __init__(self, columns: int) -> None:
        self._summed = merge_moments((), columns)
        self._block = np.empty((0, columns))
        self._filled = 0

    def add(self, chunk: NDArray[np.floating[Any]]) -> None:
        """Add the rows of a chunk (n, columns). Raises NotFinite and ValueError."""
        columns = len(self._summed.mean)
        if chunk.ndim != 2 or chunk.shape[1] != columns:
            raise ValueError(f"a chunk of shape {chunk.shape} does not have {columns} columns")
        if len(chunk) and not len(self._block):
            self._block = np.empty((BLOCK_ROWS, columns))
        while len(chunk):
            piece, chunk = np.split(chunk, [BLOCK_ROWS - self._filled])
            self._block[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            if self._filled == BLOCK_ROWS:
                self._add_block()

    def result(self) -> Moments:
        """The moments of all rows so far. Raises NotFinite."""
        if self._filled:
            self._add_block()
        return self._summed

    def _add_block(self) -> None:
        of_block = _moments_of_block(self._block[: self._filled])
        self._summed, self._filled = merge_moments((self._summed, of_block), len(self._summed.mean)), 0


def _moments_of_block(block: NDArray[np.float64]) -> Moments:
    """The moments of some rows, which are centred in place."""
    first = block[0].copy()
    # From the first row on, the sums are as small as the spread, and exactly 0 where all rows are alike.
    with np.errstate(invalid="ignore"):
        block -= first
        from_first = block.mean(axis=0)
    if not np.isfinite(from_first).all():
        raise NotFinite(f"One of {len(block)} rows has a NaN or an infinity; find it and take it out.")
    block -= from_first
    # NumPy hands a matrix times its own transpose to syrk, at half the cost.
    scatter = block.T @ block
    triangle = np.concatenate([row[place:] for place, row in enumerate(scatter)])
    return Moments(len(block), first + from_first, triangle)


def merge_moments(parts: Iterable[Moments], columns: int) -> Moments:
    """The moments of the rows of all parts, up to rounding; no parts give zeros. Source: as `moments_of`."""
    rows, mean, triangle, is_ours = 0, np.zeros(columns), np.zeros(0), False
    for part in parts:
        if not rows:
            rows, mean, triangle = part.rows, part.mean, part.triangle
        elif part.rows:
            difference, all_rows = part.mean - mean, rows + part.rows
            mean = mean + difference * (part.rows / all_rows)
            triangle, is_ours = triangle if is_ours else triangle.copy(), True
            triangle += part.triangle
            # Its outer square is what the scatters of both groups of rows lack.
            shift = difference * math.sqrt(rows * part.rows / all_rows)
            for place, row in _rows_of_triangle(triangle, columns):
                row += shift[place] * shift[place:]
            rows = all_rows
    return Moments(rows, mean, triangle)


def subtract_moments(whole: Moments, part: Moments) -> Moments:
    """The moments of the rows that are in `whole` and not in `part`, up to rounding of the whole."""
    rest = whole.rows - part.rows
    if not part.rows or not rest:
        return whole if rest else merge_moments((), len(whole.mean))
    mean = whole.mean + (whole.mean - part.mean) * (part.rows / rest)
    triangle = whole.triangle - part.triangle
    shift = (part.mean - mean) * math.sqrt(rest * part.rows / whole.rows)
    for place, row in _rows_of_triangle(triangle, len(mean)):
        row -= shift[place] * shift[place:]
    return Moments(rest, mean, triangle)


def _rows_of_triangle(triangle: NDArray[np.float64], columns: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Views of the rows of a symmetric matrix from the diagonal on, each with its number."""
    return enumerate(np.split(triangle, np.cumsum(range(columns, 1, -1))))


def pack_moments(moments: Moments) -> bytes:
    """Moments as bytes of an npz file. The same moments give the same bytes."""
    body = io.BytesIO()
    np.savez(body, rows=np.int64(moments.rows), mean=moments.mean, triangle=moments.triangle)
    return body.getvalue()


def unpack_moments(body: bytes) -> Moments:
    """The moments that `pack_moments` was given, to the last bit. Raises ValueError for other bytes."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            rows, mean, triangle = int(archive["rows"]), archive["mean"], archive["triangle"]
        if triangle.shape != (len(mean) * (len(mean) + 1) // 2 if rows else 0,):
            raise ValueError(f"a triangle of {triangle.shape} for {len(mean)} columns")
    # NumPy and zipfile raise a dozen unrelated kinds of errors for damaged bytes.
    except Exception as error:
        raise ValueError(f"these {len(body)} bytes are not packed moments: {error}") from error
    return Moments(rows, mean, triangle)


def fit(
    moments: Moments, components: int | None, variance: float | None, parent: NDArray[np.float64] | None = None
) -> Pca:
    """The PCA of the rows behind the moments; `align_signs` chooses the signs by the parent's components (k', d).

    Give either `components`, how many, or `variance`, the share in (0, 1] that as few components as possible explain.
    The same moments on the same machine give the same result. Raises InvalidSetting when neither or both are given or
    they are out of range, and TooFewRows when there are not more rows than components or all are alike.
    """
    columns = len(moments.mean)
    if (components is None) == (variance is None):
        raise InvalidSetting("Give either a number of components or a share of variance.")
    if components is not None and not 1 <= components <= columns:
        raise InvalidSetting(f"{components} components are impossible; choose from 1 to {columns}.")
    if variance is not None and not 0 < variance <= 1:
        raise InvalidSetting(f"A share of {variance} of the variance is impossible; choose above 0 and up to 1.")
    fewest = components or 1
    if moments.rows <= fewest:
        raise TooFewRows(
            f"{fewest} components need at least {fewest + 1} rows, there are {moments.rows}; "
            "fit again when there are more, or ask for fewer components."
        )
    ascending, vectors = np.linalg.eigh(moments.scatter / (moments.rows - 1))
    explained = np.maximum(ascending[::-1], 0)
    if not explained.any():
        raise TooFewRows(f"All {moments.rows} rows are alike; fit again when there are others.")
    ratio = explained / explained.sum()
    kept = components if variance is None else _fewest_components(ratio, variance, moments.rows)
    return Pca(moments.rows, moments.mean, align_signs(vectors.T[::-1][:kept], parent), explained, ratio)


def _fewest_components(ratio: NDArray[np.float64], variance: float, rows: int) -> int:
    # Directions without variance have rounding errors for eigenvalues, so 1.0 would be reached late or never.
    rounding = len(ratio) * np.finfo(np.float64).eps
    return min(int(np.searchsorted(np.cumsum(ratio), variance - rounding)) + 1, rows - 1)


def align_signs(components: NDArray[np.float64], parent: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The components (k, d) with signs chosen so that a refit does not mirror what analysts look at.

    An eigenvector has no sign of its own. It gets the direction of the parent's component (k', d) that it resembles
    most, by absolute dot product. Without a parent, or where all dot products are 0, its first coordinate of largest
    magnitude becomes positive.
    """
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    signed = np.where(largest < 0, -components, components)
    if parent is None:
        return signed
    dots = signed @ parent.T
    closest = np.take_along_axis(dots, np.abs(dots).argmax(axis=1, keepdims=True), axis=1)
    return np.where(closest < 0, -signed, signed)


def project(
    pca_mean: NDArray[np.float64], components: NDArray[np.float64], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The coordinates of rows (n, d) along components (k, d): (n, k).

    All is float64 until the result: in float32 a large mean would swallow the spread, and a strong component would
    blur the weak ones.
    """
    projected: NDArray[np.float64] = (rows - pca_mean) @ components.T
    return projected.astype(np.float32)


def principal_angles_rad(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The angles between the spaces spanned by the rows of a (k1, d) and of b (k2, d), ascending, (min(k1, k2),).

    Rows must be linearly independent. Small angles come from sines and large ones from cosines, so both have all
    digits. Source: Björck & Golub, "Numerical Methods for Computing Angles Between Linear Subspaces" (1973), as in
    Knyazev & Argentati, "Principal Angles between Subspaces in an A-Based Scalar Product" (2002).
    """
    small, large = sorted((np.linalg.qr(a.T)[0], np.linalg.qr(b.T)[0]), key=lambda basis: basis.shape[1])
    inside = large.T @ small
    cosines = np.linalg.svd(inside, compute_uv=False)
    sines = np.linalg.svd(small - large @ inside, compute_uv=False)[::-1]
    from_sines, from_cosines = np.arcsin(np.minimum(sines, 1)), np.arccos(np.minimum(cosines, 1))
    return np.where(cosines**2 >= 0.5, from_sines, from_cosines)
