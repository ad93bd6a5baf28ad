"""A scree plot tells where a PCA was cut and where usual rules would cut it."""

import io
import warnings
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from batch.refit.scree import (
    HEIGHT_PX,
    KEPT_COLOUR,
    WIDTH_PX,
    VarianceThresholds,
    _draw,
    scree_png,
    variance_thresholds,
)
from features.errors import InvalidSetting
from features.featurizer import FEATURES

Ratios = NDArray[np.float64]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _spectrum(variances: NDArray[np.floating]) -> Ratios:
    return np.asarray(variances / variances.sum(), dtype=np.float64)


NUMBERS = np.arange(1, FEATURES + 1)
DECAYING = _spectrum(NUMBERS**-1.1 * np.exp(-NUMBERS / 260))
STEEP = _spectrum(np.concatenate([[99.0], 0.9 * 0.1 ** np.arange(FEATURES - 1)]))
FLAT = np.full(FEATURES, 1 / FEATURES)
RANK_DEFICIENT = _spectrum(np.where(NUMBERS <= 200, DECAYING, 0))
ALL_IN_ONE = np.eye(1, FEATURES)[0]
SPECTRA = {
    "decaying": DECAYING,
    "steep": STEEP,
    "flat": FLAT,
    "rank-deficient": RANK_DEFICIENT,
    "one-component": ALL_IN_ONE,
    "one-feature": np.ones(1),
    "three-feature": np.array([0.6, 0.3, 0.1]),
}


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.5, 0.25, 0.125, 0.0625, 0.0625], VarianceThresholds(at_80=3, at_90=4, at_95=5, above_mean=2)),
        ([0.81, 0.1, 0.05, 0.04], VarianceThresholds(at_80=1, at_90=2, at_95=3, above_mean=1)),
        ([0.3, 0.25, 0.25, 0.2, 0.0], VarianceThresholds(at_80=3, at_90=4, at_95=4, above_mean=3)),
        ([1.0], VarianceThresholds(at_80=1, at_90=1, at_95=1, above_mean=0)),
        ([1.0, 0.0, 0.0], VarianceThresholds(at_80=1, at_90=1, at_95=1, above_mean=1)),
    ],
)
def test_thresholds_are_those_counted_by_hand(ratios: list[float], expected: VarianceThresholds) -> None:
    assert variance_thresholds(np.array(ratios)) == expected


def test_a_share_reached_exactly_counts_whatever_the_rounding() -> None:
    tenths = np.full(10, 0.1)
    assert np.cumsum(tenths)[7] < 0.8
    assert variance_thresholds(tenths) == VarianceThresholds(at_80=8, at_90=9, at_95=10, above_mean=0)
    assert variance_thresholds(FLAT) == VarianceThresholds(at_80=1024, at_90=1152, at_95=1216, above_mean=0)


def test_no_ratio_of_a_flat_spectrum_exceeds_the_mean_by_rounding() -> None:
    shaken = np.sort(FLAT * (1 + 1e-13 * np.random.default_rng(0).standard_normal(FEATURES)))[::-1]
    assert (shaken > 1 / FEATURES).any()
    assert variance_thresholds(shaken).above_mean == 0


@pytest.mark.parametrize("ratios", [[], [0.5, 0.4], [0.4, 0.6], [1.5, -0.5], [float("nan"), 0.5], [[0.6, 0.4]]])
def test_what_is_no_spectrum_is_refused(ratios: list[float]) -> None:
    with pytest.raises(InvalidSetting, match="descending"):
        variance_thresholds(np.array(ratios))


@pytest.mark.parametrize("components", [-1, 0, FEATURES + 1])
def test_keeping_what_does_not_exist_is_refused(components: int) -> None:
    with pytest.raises(InvalidSetting, match=f"between 1 and {FEATURES}"):
        scree_png(DECAYING, components, "PCA")


def test_a_picture_is_a_png_of_the_promised_size_and_the_same_each_time() -> None:
    png = scree_png(np.array([0.6, 0.3, 0.1]), 2, "PCA")
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (1200, 800))
    assert png == scree_png(np.array([0.6, 0.3, 0.1]), 2, "PCA")


def test_the_kept_number_is_a_line_through_both_panels_at_its_place() -> None:
    """1, 32 and 1024 are equally far apart on a logarithmic axis, whatever its limits."""
    first, middle, last = (_kept_line(scree_png(DECAYING, components, "PCA")) for components in (1, 32, 1024))
    assert last - first > WIDTH_PX / 3
    assert abs((last - middle) - (middle - first)) <= 2


@pytest.mark.parametrize(
    ("ratios", "components"),
    [
        pytest.param(ratios, components, id=f"{components} of a {name} spectrum")
        for name, ratios in SPECTRA.items()
        for components in ((1, 35, 36, FEATURES) if name == "decaying" else (len(ratios),))
    ],
)
def test_labels_are_inside_the_picture_and_apart(ratios: Ratios, components: int) -> None:
    figure = _draw(ratios, components, "A title that is too long " * 8)
    figure.draw_without_rendering()
    above, below = figure.axes
    # Not the numbers of the upper panel's components: it shares, and hides, them.
    axis_texts = [*above.get_yticklabels(), *below.get_yticklabels(), *below.get_xticklabels()]
    axis_texts += [axis.label for axis in (above.yaxis, below.yaxis, below.xaxis)]
    texts = [text for text in (*figure.texts, *above.texts, *below.texts, *axis_texts) if text.get_text()]
    assert len(texts) > 12
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for label, box in boxes:
        assert 0 <= box.x0 < box.x1 <= WIDTH_PX and 0 <= box.y0 < box.y1 <= HEIGHT_PX, label
    for (label, box), (other_label, other_box) in combinations(boxes, 2):
        assert not box.overlaps(other_box), (label, other_label)


@pytest.mark.parametrize("name", ["rank-deficient", "one-component", "one-feature"])
def test_spectra_without_a_logarithm_are_drawn_without_a_warning(name: str) -> None:
    scree_png(SPECTRA[name], len(SPECTRA[name]), "PCA")


def test_the_picture_says_how_much_is_kept_and_where_rules_would_cut() -> None:
    figure = _draw(np.array([0.6, 0.3, 0.1]), 2, "PCA")
    said = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    for part in ("k = 2", "90.0 %", "80 % with 2 components", "95 % with 3 components", "1 component\nabove the mean"):
        assert part in said


def _kept_line(png: bytes) -> float:
    """The column, in px, of the line that marks the kept number; it has to run through both panels."""
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colour = np.round(np.array(to_rgb(KEPT_COLOUR)) * 255).astype(int)
    near = (np.abs(pixels - colour) <= 8).all(axis=2)
    halves = [near[: HEIGHT_PX // 2].sum(axis=0), near[HEIGHT_PX // 2 :].sum(axis=0)]
    columns = np.flatnonzero(np.minimum(*halves) > HEIGHT_PX / 4)
    assert 1 <= len(columns) <= 3
    return float(columns.mean())
