"""Moments add up however rows are cut, and the components they give are those of scikit-learn."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.linalg import subspace_angles  # type: ignore[import-untyped]
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.errors import InvalidSetting
from features.pca import (
    BLOCK_ROWS,
    Moments,
    NotFinite,
    Pca,
    TooFewRows,
    align_signs,
    fit,
    merge_moments,
    moments_of,
    pack_moments,
    principal_angles_rad,
    project,
    unpack_moments,
)

Rows = NDArray[np.floating[Any]]

EPSILON = float(np.finfo(np.float64).eps)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@dataclass(frozen=True, eq=False)
class Fitted:
    """Rows like those of the network, our PCA of them with all components, and scikit-learn's."""

    rows: NDArray[np.float32]
    ours: Pca
    oracle: Any


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """3000 rows of 1280 averages of rectified units: 80 causes, each weaker than the one before, and noise."""
    random = np.random.default_rng(5)
    causes = random.normal(size=(3000, 80)) * 0.95 ** np.arange(80)
    driven = causes @ random.normal(size=(80, 1280)) / 4 + random.normal(scale=0.05, size=(3000, 1280))
    rows = np.maximum(driven + random.normal(size=1280), 0).astype(np.float32)
    # On few cores the threads of two BLAS, NumPy's and SciPy's, get in each other's way, and all takes far longer.
    with threadpool_limits(1):
        moments = merge_moments([moments_of(np.array_split(part, 2), 1280) for part in np.array_split(rows, 2)], 1280)
        oracle = PCA(svd_solver="full").fit(rows.astype(np.float64))
        return Fitted(rows, fit(moments, 1280, None), oracle)


def test_mean_and_variances_are_those_of_scikit_learn(fitted: Fitted) -> None:
    ours, oracle = fitted.ours, fitted.oracle
    np.testing.assert_allclose(ours.mean, oracle.mean_, rtol=1e-12)
    largest = oracle.explained_variance_[0]
    np.testing.assert_allclose(ours.explained_variance, oracle.explained_variance_, rtol=0, atol=1e-6 * largest)
    np.testing.assert_allclose(ours.explained_variance_ratio, oracle.explained_variance_ratio_, rtol=0, atol=1e-6)
    assert ours.explained_variance_ratio.sum() == pytest.approx(1, abs=1e-12)


def test_the_first_k_components_span_what_those_of_scikit_learn_span(fitted: Fitted) -> None:
    """For each k whose space is determined by the data.

    Davis & Kahan: a relative error e of the covariance turns the space of the first k components by up to
    e / gap, where gap is (variance k - variance k+1) / variance 1. Both libraries round to about 1e-12, so 1e-4 rad can
    be asked for where gap is at least 1e-8.
    """
    variance = fitted.oracle.explained_variance_
    gaps = (variance[:-1] - variance[1:]) / variance[0]
    determined = np.flatnonzero(gaps >= 1e-8) + 1
    assert len(determined) > 1200
    assert set(range(1, 65)) <= set(determined)
    # The sine of the largest angle is at most the Frobenius norm of our first k times the oracle's other components.
    squares = (fitted.ours.components @ fitted.oracle.components_.T) ** 2
    sums_from_column = squares[:, ::-1].cumsum(axis=1)[:, ::-1]
    sines = np.sqrt([sums_from_column[:k, k].sum() for k in determined])
    assert sines.max() < 1e-4
    for k in (1, 8, 64):
        assert principal_angles_rad(fitted.ours.components[:k], fitted.oracle.components_[:k]).max() < 1e-4


def test_projections_are_those_of_scikit_learn_up_to_the_sign(fitted: Fitted) -> None:
    components = fitted.ours.components[:64]
    projected = project(fitted.ours.mean, components, fitted.rows)
    turned = align_signs(fitted.oracle.components_[:64], components)
    expected = (fitted.rows - fitted.oracle.mean_) @ turned.T
    assert projected.dtype == np.float32
    assert (np.abs(projected - expected).max(axis=0) < 1e-4 * expected.std(axis=0)).all()


@st.composite
def tables(draw: st.DrawFn) -> NDArray[np.float32]:
    """Up to 30 rows of up to 4 columns."""
    shape = draw(st.tuples(st.integers(0, 30), st.integers(1, 4)))
    return draw(arrays.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)))


@st.composite
def tasks(draw: st.DrawFn, rows: Rows) -> list[list[Rows]]:
    """All rows, in any order, dealt out to tasks as chunks of any size, some of them empty."""
    shuffled = rows[draw(st.permutations(range(len(rows))))]
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    chunks = np.split(shuffled, cuts)
    task_of = draw(st.lists(st.integers(0, 2), min_size=len(chunks), max_size=len(chunks)))
    return [[chunk for chunk, owner in zip(chunks, task_of, strict=True) if owner == task] for task in range(3)]


def _assert_same_moments(left: Moments, right: Moments, rows: Rows) -> None:
    """Up to the digits that float64 has for values as large as these."""
    assert left.rows == right.rows
    largest = np.abs(rows).max(axis=0, initial=0).astype(np.float64)
    assert (np.abs(left.mean - right.mean) <= 8 * EPSILON * largest).all()
    spread = np.sqrt(right.scatter.diagonal())
    digits = 32 * EPSILON * (spread + largest * math.sqrt(len(rows)))
    allowed = np.outer(spread + digits, digits)
    assert (np.abs(left.scatter - right.scatter) <= allowed + allowed.T).all()
    assert (left.scatter == left.scatter.T).all()


def _two_passes(rows: Rows) -> Moments:
    """The definition, in the widest floats there are."""
    wide = rows.astype(np.longdouble)
    mean = wide.mean(axis=0) if len(wide) else np.zeros(wide.shape[1], np.longdouble)
    centred = wide - mean
    return _moments(len(rows), mean.astype(np.float64), (centred.T @ centred).astype(np.float64))


def _moments(rows: int, mean: NDArray[np.float64], scatter: NDArray[np.float64]) -> Moments:
    return Moments(rows, mean, scatter[np.triu_indices(len(mean))])


@settings(deadline=None)
@given(st.data(), tables())
def test_any_split_and_order_of_rows_gives_the_same_moments(data: st.DataObject, rows: Rows) -> None:
    columns = rows.shape[1]
    parts = [moments_of(chunks, columns) for chunks in data.draw(tasks(rows))]
    _assert_same_moments(merge_moments(parts, columns), _two_passes(rows), rows)


@pytest.mark.parametrize("cuts", [[], [1, 5000], [BLOCK_ROWS, 2 * BLOCK_ROWS], list(range(0, 9000, 7))])
def test_more_rows_than_are_multiplied_at_once_give_the_same_moments(cuts: list[int]) -> None:
    random = np.random.default_rng(3)
    rows = (random.normal(size=(9000, 3)) * [1, 1e-3, 0] + [1e6, 0, 7]).astype(np.float32)
    rows[6000:, :2] += np.float32(100)
    moments, expected = moments_of(np.split(rows, cuts), 3), _two_passes(rows)
    assert moments.rows == len(rows)
    np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-13)
    spread = np.sqrt(expected.scatter.diagonal())
    assert (np.abs(moments.scatter - expected.scatter) <= 1e-11 * np.outer(spread, spread)).all()


def test_a_value_that_is_no_number_is_refused_wherever_it_stands() -> None:
    rows = np.ones((2 * BLOCK_ROWS + 5, 3), np.float32)
    for place in (0, BLOCK_ROWS - 1, BLOCK_ROWS, len(rows) - 1):
        bad = rows.copy()
        bad[place, 2] = math.inf
        with pytest.raises(NotFinite):
            moments_of(np.array_split(bad, 3), 3)


@settings(deadline=None)
@given(st.data(), tables())
def test_merging_is_associative_and_commutative(data: st.DataObject, rows: Rows) -> None:
    columns = rows.shape[1]
    a, b, c = (moments_of(chunks, columns) for chunks in data.draw(tasks(rows)))
    left = merge_moments([merge_moments([a, b], columns), c], columns)
    _assert_same_moments(left, merge_moments([a, merge_moments([b, c], columns)], columns), rows)
    _assert_same_moments(left, merge_moments([c, b, a], columns), rows)


@settings(deadline=None)
@given(tables())
def test_merging_with_nothing_changes_no_bit(rows: Rows) -> None:
    columns = rows.shape[1]
    some, none = moments_of([rows], columns), moments_of([], columns)
    for parts in ([some], [none, some], [some, none]):
        _assert_equal(merge_moments(parts, columns), some)


def _assert_equal(left: Moments, right: Moments) -> None:
    assert left.rows == right.rows
    np.testing.assert_array_equal(left.mean, right.mean)
    np.testing.assert_array_equal(left.scatter, right.scatter)


@pytest.mark.parametrize("chunks", [[], [np.empty((0, 3), np.float32)]])
def test_no_rows_have_zero_moments(chunks: list[Rows]) -> None:
    zero = _moments(0, np.zeros(3), np.zeros((3, 3)))
    _assert_equal(moments_of(chunks, 3), zero)
    _assert_equal(merge_moments([], 3), zero)


def test_merging_leaves_its_parts_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    parts = [moments_of([rows[:10]], 3), moments_of([rows[10:]], 3)]
    before = [unpack_moments(pack_moments(part)) for part in parts]
    merge_moments(parts, 3)
    for part, copy in zip(parts, before, strict=True):
        _assert_equal(part, copy)


def test_float32_rows_count_as_the_float64_they_are() -> None:
    rows = (np.random.default_rng(0).normal(size=(50, 3)) * 1e3).astype(np.float32)
    _assert_equal(moments_of([rows], 3), moments_of([rows.astype(np.float64)], 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    bad = np.ones((5, 3), np.float32)
    bad[3, 1] = value
    with pytest.raises(NotFinite, match="NaN or an infinity"):
        moments_of([np.ones((5, 3), np.float32), bad], 3)


@pytest.mark.parametrize("shape", [(4, 1), (4, 2), (3,)])
def test_rows_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 columns"):
        moments_of([np.ones(shape, np.float32)], 3)


@settings(deadline=None)
@given(tables())
def test_packed_moments_come_back_to_the_last_bit(rows: Rows) -> None:
    moments = moments_of([rows], rows.shape[1])
    _assert_equal(unpack_moments(pack_moments(moments)), moments)
    assert pack_moments(moments) == pack_moments(moments)


def test_packed_moments_have_one_triangle_of_the_scatter() -> None:
    assert len(pack_moments(moments_of([], 200))) < 0.52 * 200 * 200 * 8


def _npz(**members: Any) -> bytes:
    body = io.BytesIO()
    np.savez(body, **members)
    return body.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"anything",
        pack_moments(moments_of([], 3))[:-30],
        pack_moments(moments_of([], 3)).replace(bytes(24), bytes(23) + b"\x01", 1),
        _npz(mean=np.zeros(3)),
        _npz(rows=1, mean=np.zeros(3), triangle=np.zeros(5)),
        _npz(rows=1, mean=np.array([None] * 3), triangle=np.zeros(6)),
    ],
    ids=["empty", "text", "cut short", "damaged", "other members", "other sizes", "a pickle"],
)
def test_bytes_that_are_no_packed_moments_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not packed moments"):
        unpack_moments(body)


def _fit(rows: Rows, components: int | None = None, variance: float | None = None) -> Pca:
    return fit(moments_of(np.array_split(rows, 3), rows.shape[1]), components, variance)


def _assert_as_scikit_learn(rows: Rows, components: int) -> None:
    """Variances to nearly all digits, and the space of the first components, which must be determined."""
    ours = _fit(rows, components)
    oracle = PCA(svd_solver="full").fit(rows.astype(np.float64))
    expected = np.zeros(rows.shape[1])
    expected[: len(oracle.explained_variance_)] = oracle.explained_variance_
    np.testing.assert_allclose(ours.explained_variance, expected, rtol=0, atol=1e-9 * expected[0])
    np.testing.assert_allclose(ours.mean, oracle.mean_, rtol=1e-13, atol=1e-13)
    assert principal_angles_rad(ours.components, oracle.components_[:components]).max() < 1e-6
    _assert_orthonormal(ours.components)


def _assert_orthonormal(components: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), rtol=0, atol=1e-12)


def _spread_rows(rows: int, scales: Sequence[float]) -> NDArray[np.float64]:
    """Rows with these standard deviations along directions that are not the axes."""
    random = np.random.default_rng(len(scales))
    turn = np.linalg.qr(random.normal(size=(len(scales), len(scales))))[0]
    spread: NDArray[np.float64] = random.normal(size=(rows, len(scales))) * np.asarray(scales) @ turn
    return spread


def test_a_mean_a_million_times_the_spread_costs_no_digits() -> None:
    rows = (_spread_rows(2000, [1.5, 1.2, 1, 0.8, 0.6, 0.5]) + 1e6).astype(np.float32)
    _assert_as_scikit_learn(rows, 3)


def test_projections_survive_a_mean_a_million_times_the_spread() -> None:
    rows = (_spread_rows(500, [1.5, 1.2, 1, 0.8, 0.6, 0.5]) + 1e6).astype(np.float32)
    pca = _fit(rows, 4)
    wide = (rows.astype(np.longdouble) - rows.mean(axis=0, dtype=np.longdouble)) @ pca.components.T
    assert np.abs(project(pca.mean, pca.components, rows) - wide).max() < 1e-6


def test_strong_components_do_not_blur_weak_ones() -> None:
    rows = _spread_rows(500, [1e4, 1e4, 0.1, 0.1]).astype(np.float32)
    pca = _fit(rows, 4)
    wide = (rows.astype(np.longdouble) - pca.mean) @ pca.components.T
    assert np.abs(project(pca.mean, pca.components, rows) - wide)[:, 2:].max() < 1e-6


def test_no_rows_project_to_no_rows() -> None:
    assert project(np.zeros(3), np.eye(3)[:2], np.empty((0, 3), np.float32)).shape == (0, 2)


def test_a_mean_that_drifts_between_chunks_and_tasks_counts_as_variance() -> None:
    chunks = [_spread_rows(100, [3, 2, 1]) + drift * np.array([1, 0, -1]) for drift in (0, 1e3, 1e5, 1e6, 1e6 + 1)]
    parts = [moments_of(chunks[:2], 3), moments_of(chunks[2:], 3)]
    rows = np.concatenate(chunks)
    _assert_same_moments(merge_moments(parts, 3), _two_passes(rows), rows)


def test_constant_columns_take_no_part() -> None:
    rows = np.full((90, 5), 0.1, np.float32)
    rows[:, [0, 3]] = _spread_rows(90, [2, 1])
    pca = _fit(rows, 2)
    assert np.abs(pca.components[:, [1, 2, 4]]).max() < 1e-12
    assert pca.explained_variance[2:].max() < 1e-12
    _assert_as_scikit_learn(rows, 2)


def test_rows_that_occur_twice_count_twice() -> None:
    _assert_as_scikit_learn(np.repeat(_spread_rows(10, [4, 3, 2, 1]), 2, axis=0), 3)


def test_rows_in_a_small_subspace_still_give_orthonormal_components() -> None:
    rows = np.zeros((50, 8))
    rows[:, :3] = _spread_rows(50, [3, 2, 1])
    rows = rows @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    pca = _fit(rows, 8)
    _assert_orthonormal(pca.components)
    assert (pca.explained_variance >= 0).all()
    assert (np.diff(pca.explained_variance) <= 0).all()
    _assert_as_scikit_learn(rows, 3)


def test_fewer_rows_than_columns_are_enough_for_fewer_components() -> None:
    _assert_as_scikit_learn(_spread_rows(6, [5, 4, 3, 2, 1, 1, 1, 1, 1, 1]), 5)


def test_too_few_rows_for_the_components_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 100))
    with pytest.raises(TooFewRows, match="64 components need at least 65 rows, there are 12;"):
        _fit(rows, 64)
    with pytest.raises(TooFewRows):
        _fit(rows, 12)
    assert len(_fit(rows, 11).components) == 11


@pytest.mark.parametrize("rows", [0, 1])
def test_without_two_rows_there_is_no_variance_to_share(rows: int) -> None:
    with pytest.raises(TooFewRows, match=f"at least 2 rows, there are {rows};"):
        _fit(np.ones((rows, 3)), variance=0.9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_rows_that_are_all_alike_are_refused(value: float) -> None:
    parts = [moments_of([np.full((7, 3), value)] * 3, 3), moments_of([np.full((1, 3), value)], 3)]
    with pytest.raises(TooFewRows, match="All 22 rows are alike"):
        fit(merge_moments(parts, 3), 2, None)


@pytest.mark.parametrize(
    ("components", "variance"),
    [(None, None), (2, 0.9), (0, None), (-1, None), (4, None), (None, 0.0), (None, 1.01), (None, math.nan)],
)
def test_impossible_choices_of_components_are_refused(components: int | None, variance: float | None) -> None:
    with pytest.raises(InvalidSetting):
        _fit(_spread_rows(20, [3, 2, 1]), components, variance)


@pytest.mark.parametrize("variance", [1e-20, 0.3, 0.9, 0.99])
def test_a_share_of_variance_takes_as_few_components_as_reach_it(variance: float) -> None:
    rows = _spread_rows(200, [5, 4, 3, 2, 1, 0.5])
    ratio = PCA(svd_solver="full").fit(rows).explained_variance_ratio_
    enough = [k for k in range(1, 7) if ratio[:k].sum() >= variance]
    assert len(_fit(rows, variance=variance).components) == enough[0]


@pytest.mark.parametrize("tenths", range(1, 11))
def test_a_share_of_variance_that_is_met_exactly_is_met(tenths: int) -> None:
    """A tenth added up eight times is less than 0.8 in floats."""
    moments = _moments(11, np.zeros(10), np.eye(10))
    assert len(fit(moments, None, tenths / 10).components) == tenths


@pytest.mark.parametrize("rank", [1, 20, 40])
def test_all_of_the_variance_takes_as_many_components_as_have_any(rank: int) -> None:
    rows = np.zeros((90, 40))
    rows[:, :rank] = _spread_rows(90, list(np.geomspace(1, 1e-3, rank)))
    rows = rows @ np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0] + 10
    assert len(_fit(rows, variance=1.0).components) == rank


def test_all_of_the_variance_of_few_rows_takes_one_component_less_than_rows() -> None:
    assert len(_fit(_spread_rows(5, [1] * 8), variance=1.0).components) == 4


def test_without_a_parent_the_largest_coordinate_is_positive() -> None:
    components = np.array([[0.6, -0.8, 0.0], [-0.8, -0.6, 0.0], [0.0, 0.0, 1.0]])
    expected = np.array([[-0.6, 0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(align_signs(components, None), expected)


def test_of_coordinates_equally_large_the_first_is_positive() -> None:
    components = np.array([[-0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(align_signs(components, None), [-components[0], components[1]])


@settings(deadline=None)
@given(
    st.permutations(range(4)),
    st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4),
    st.integers(1, 4),
)
def test_components_point_where_those_of_the_parent_point_in_whatever_order(
    order: list[int], signs: list[int], kept: int
) -> None:
    rows = _spread_rows(300, [4, 3, 2, 1])
    parent = (_fit(rows[:280], 4).components[order] * np.array(signs)[:, None])[:kept]
    moments = moments_of([rows], 4)
    components = fit(moments, 4, None, parent).components
    dots = components @ parent.T
    for position, place in enumerate(order[:kept]):
        assert dots[place, position] > 0.9
    np.testing.assert_array_equal(np.abs(components), np.abs(fit(moments, 4, None).components))


def test_a_component_like_none_of_the_parents_keeps_its_own_sign() -> None:
    components = np.array([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    np.testing.assert_array_equal(align_signs(components, np.array([[-1.0, 0, 0]])), [[-1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(("a_rows", "b_rows"), [(1, 1), (3, 3), (2, 5), (5, 2), (7, 7)])
def test_angles_are_those_of_scipy(a_rows: int, b_rows: int) -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(a_rows, 10)), random.normal(size=(b_rows, 10))
    np.testing.assert_allclose(principal_angles_rad(a, b), subspace_angles(a.T, b.T)[::-1], rtol=0, atol=1e-7)


def test_tiny_and_nearly_right_angles_between_the_same_spaces_are_resolved() -> None:
    angles = np.array([0, 1e-9, 1e-5, 0.7, 0.9, math.pi / 2 - 1e-9, math.pi / 2])
    axes, aside = np.eye(14)[:7], np.eye(14)[7:]
    turned = np.cos(angles)[:, None] * axes + np.sin(angles)[:, None] * aside
    random = np.random.default_rng(2)
    turn = np.linalg.qr(random.normal(size=(14, 14)))[0]
    mix = np.linalg.qr(random.normal(size=(7, 7)))[0]
    np.testing.assert_allclose(principal_angles_rad(axes @ turn, mix @ turned @ turn), angles, rtol=0, atol=1e-14)


def test_a_space_has_no_angle_to_itself() -> None:
    a = np.random.default_rng(4).normal(size=(3, 8))
    mixed = np.array([[1.0, 1, 0], [0, 1, 1], [2, 0, 1]]) @ a
    assert principal_angles_rad(a, mixed).max() < 1e-14
