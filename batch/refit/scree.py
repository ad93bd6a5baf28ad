"""The scree plot: how the variance spreads over the components of a PCA, and where it was cut."""

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidSetting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 1200, 800

# Okabe and Ito's colours stay apart for colour-blind readers.
SPECTRUM_COLOUR = "#0072B2"
KEPT_COLOUR = "#D55E00"
MEAN_COLOUR = "#007A59"
INK = "#333333"

_DPI = 100
_LEFT_PX, _RIGHT_PX = 116, 928
_FONT_PT = 10.5
_TITLE_PT = 15.0
_MARKED_ONE_BY_ONE = 20
_MOST_Y_TICKS = 7
# Beyond what summing thousands of ratios can lose, below any difference that matters.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class VarianceThresholds:
    """Numbers of components: those that reach 80, 90 and 95 % of the variance, and those above the mean variance."""

    at_80: int
    at_90: int
    at_95: int
    above_mean: int


def variance_thresholds(explained_variance_ratio: NDArray[np.float64]) -> VarianceThresholds:
    """The numbers of components that usual rules would keep.

    `explained_variance_ratio`: (d,) float64, descending, sums to 1. A share counts as reached, and a ratio as equal to
    the mean, within 1e-9 (relative to the mean, for a ratio). Raises InvalidSetting for anything else than such ratios.
    Source of `above_mean`, the components with a ratio above 1/d: Kaiser's rule for a covariance matrix (Jolliffe,
    Principal Component Analysis, 2nd edition, 2002, section 6.1).
    """
    ratios = explained_variance_ratio
    # A NaN or an infinity fails the sum. What rounding leaves of a missing component may be a little below zero.
    sums_to_one = ratios.ndim == 1 and abs(ratios.sum() - 1) <= 1e-6
    if not (sums_to_one and (np.diff(ratios) <= 0).all() and ratios[-1] >= -_ROUNDING):
        raise InvalidSetting("Give explained variance ratios as one descending vector, none negative, with the sum 1.")
    cumulative = np.cumsum(ratios)
    at_80, at_90, at_95 = (int(np.argmax(cumulative >= share - _ROUNDING)) + 1 for share in (0.80, 0.90, 0.95))
    above_mean = np.count_nonzero(ratios * len(ratios) > 1 + _ROUNDING)
    return VarianceThresholds(at_80, at_90, at_95, int(above_mean))


def scree_png(explained_variance_ratio: NDArray[np.float64], components: int, title: str) -> bytes:
    """A picture of a PCA's spectrum: the variance of each component, the cumulative variance, and what is kept.

    `explained_variance_ratio`: (d,) float64, descending, sums to 1; it may end in zeros, which are counted but not
    drawn. `components`: how many are kept, 1 to d. Returns a PNG of 1200 x 800 px; a replay gives the same bytes.
    Raises InvalidSetting for ratios that are none and for `components` out of range.
    """
    png = io.BytesIO()
    _draw(explained_variance_ratio, components, title).savefig(png, format="png", dpi=_DPI, backend="agg")
    return png.getvalue()


def _draw(ratios: NDArray[np.float64], components: int, title: str) -> "Figure":
    """Labels have places of their own, outside the axes, so that no spectrum can push them onto each other."""
    # Here, because importing it takes over half a second, which those who only want the thresholds need not wait for.
    from matplotlib.figure import Figure

    thresholds = variance_thresholds(ratios)
    if not 1 <= components <= len(ratios):
        raise InvalidSetting(f"Keep between 1 and {len(ratios)} components, not {components}.")
    figure = Figure(figsize=(WIDTH_PX / _DPI, HEIGHT_PX / _DPI), dpi=_DPI, facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(_LEFT_PX / WIDTH_PX, 0.085, _RIGHT_PX / WIDTH_PX, 0.875, hspace=0.07)
    _title(figure, title)
    _lay_out_components(below, ratios)
    _draw_ratios(above, ratios, thresholds)
    _draw_cumulative(below, ratios, thresholds)
    _draw_kept(above, below, ratios, components)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.minorticks_off()
        axes.tick_params(labelsize=_FONT_PT, colors=INK)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.yaxis.set_label_coords(-92 / (_RIGHT_PX - _LEFT_PX), 0.5)
    return figure


def _title(figure: "Figure", title: str) -> None:
    room_px = WIDTH_PX - _LEFT_PX - 30
    text = figure.text(_LEFT_PX / WIDTH_PX, 0.95, " ".join(title.split()), color=INK, weight="bold", parse_math=False)
    text.set_fontsize(_TITLE_PT)
    width_px = text.get_window_extent().width
    if width_px > room_px:
        text.set_fontsize(_TITLE_PT * room_px / width_px)


def _lay_out_components(below: "Axes", ratios: NDArray[np.float64]) -> None:
    last = len(ratios)
    round_numbers = [digit * 10**power for power in range(len(str(last))) for digit in (1, 2, 5)]
    # A round number too near the last would run into it.
    ticks = [*(number for number in round_numbers if number * 1.6 < last), last]
    below.set_xscale("log")
    below.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    below.set_xlim(0.9, last * 1.11)
    empty = last - _rank(ratios)
    note = f"; {empty} of {last} have no variance beyond rounding" if empty else ""
    below.set_xlabel(f"Component (log scale{note})", fontsize=_FONT_PT, color=INK, labelpad=6)


def _draw_ratios(axes: "Axes", ratios: NDArray[np.float64], thresholds: VarianceThresholds) -> None:
    rank, mean = _rank(ratios), 1 / len(ratios)
    dots: dict[str, Any] = {"marker": "o", "markersize": 4, "markevery": slice(0, _MARKED_ONE_BY_ONE)}
    axes.plot(np.arange(1, rank + 1), ratios[:rank], color=SPECTRUM_COLOUR, linewidth=2, **dots)
    axes.axhline(mean, color=MEAN_COLOUR, linewidth=1.4, linestyle=(0, (5, 5)), zorder=3)
    if thresholds.above_mean:
        _mark(axes, thresholds.above_mean, float(ratios[thresholds.above_mean - 1]), MEAN_COLOUR)
    low, high = min(float(ratios[rank - 1]), mean) / 2, float(ratios[0]) * 2
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = _percent_ticks(low, high)
    axes.set_yticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
    axes.set_ylabel("Variance explained (log scale)", fontsize=_FONT_PT, color=INK)
    label = f"Kaiser's rule: {_counted(thresholds.above_mean)}\nabove the mean, 1/{len(ratios)}"
    height = math.log(mean / low) / math.log(high / low)
    # Two lines of text, and all of them beside the panel.
    _label_right(axes, min(max(height, 0.07), 0.93), label, MEAN_COLOUR)


def _draw_cumulative(axes: "Axes", ratios: NDArray[np.float64], thresholds: VarianceThresholds) -> None:
    last, top = len(ratios), 104.0
    percents = 100 * np.cumsum(ratios)
    # From 0 upwards at the first component, so that every share has a place where the curve passes it.
    axes.step([1, *range(1, last + 1)], [0, *percents], where="post", color=SPECTRUM_COLOUR, linewidth=2)
    # Apart by more than the height of a label, which 90 and 95 are not.
    for percent, count, label_percent in (
        (80, thresholds.at_80, 80),
        (90, thresholds.at_90, 89),
        (95, thresholds.at_95, 96),
    ):
        axes.hlines(percent, count, last * 1.11, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        _mark(axes, count, percent, INK)
        _label_right(axes, label_percent / top, f"{percent} % with {_counted(count)}", INK)
    axes.set_ylim(0, top)
    axes.set_yticks(range(0, 101, 20), labels=[f"{percent} %" for percent in range(0, 101, 20)])
    axes.set_ylabel("Cumulative variance explained", fontsize=_FONT_PT, color=INK)


def _draw_kept(above: "Axes", below: "Axes", ratios: NDArray[np.float64], components: int) -> None:
    kept = float(ratios[:components].sum())
    for axes, top in ((above, 1.09), (below, 1.08)):
        line = axes.axvline(components, ymax=top, color=KEPT_COLOUR, linewidth=1.6, zorder=4)
        line.set_clip_on(False)
    below.plot(components, 100 * kept, color=KEPT_COLOUR, marker="o", markersize=8, zorder=6, clip_on=False)
    in_left_half = components**2 <= len(ratios)
    # Rounded down, so that neither 95 nor 100 % is claimed before it is reached.
    label = f"k = {components} kept: {math.floor(1000 * (kept + _ROUNDING)) / 10:.1f} % of the variance"
    beside = components * 1.08 if in_left_half else components / 1.08
    text = above.text(beside, 1.035, label, color=KEPT_COLOUR, weight="bold", transform=above.get_xaxis_transform())
    text.set(ha="left" if in_left_half else "right", va="bottom", fontsize=_FONT_PT + 1)


def _mark(axes: "Axes", component: int, height: float, colour: str) -> None:
    axes.plot(component, height, color=colour, marker="D", markersize=5.5, zorder=7)


def _label_right(axes: "Axes", height: float, label: str, colour: str) -> None:
    axes.text(1.012, height, label, transform=axes.transAxes, va="center", color=colour, fontsize=_FONT_PT)


def _percent_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, as many as can be read; 1, 2 and 5 times these when the spectrum is nearly flat."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if high / low < 100 else (1,)
    stride = math.ceil((last - first) / _MOST_Y_TICKS)
    # Counted down from 1, so that a stride never skips the top of a steep spectrum.
    powers = [power for power in range(first, last + 1) if power % stride == 0]
    return [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= min(high, 1)]


def _counted(count: int) -> str:
    return f"{count} component" if count == 1 else f"{count} components"


def _rank(ratios: NDArray[np.float64]) -> int:
    """How many ratios are more than rounding: above d times the machine's epsilon, relative to the largest."""
    return int(np.count_nonzero(ratios > ratios[0] * len(ratios) * np.finfo(np.float64).eps))
