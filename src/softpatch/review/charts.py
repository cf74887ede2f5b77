"""The geometry of the charts on a page; `pages/charts.html` draws them in the page's colours, for screen and print.

Places are percentages of a chart's width from the left and of its height from above.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS, _STEPS_PER_BIN = 480, 10
_FARTHEST = 5.0  # thresholds; a few scores beyond that would press all others together
_LOWEST_BAR = 1.5  # percent; a single image is to be seen beside thousands
_POINTS_PER_AXIS = 500
_HEADROOM = 0.92  # of its side is the height of the highest bar


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in percent, and what it says."""

    place: float
    text: str


@dataclass(frozen=True)
class ScoreAxis:
    """Image scores from `low` to `high` in equal steps, of which the threshold is number `below`.

    A slider takes its steps and a histogram its bins from it, so that no bin lies on both sides of the threshold.
    """

    threshold: float
    step: float
    below: int
    above: int

    @property
    def low(self) -> float:
        """The score at the left end."""
        return self.threshold - self.below * self.step

    @property
    def high(self) -> float:
        """The score at the right end; the last bin takes what is beyond."""
        return self.threshold + self.above * self.step

    def place(self, score: float) -> float:
        """Where a score lies, in percent; at the ends where it is beyond them."""
        return min(max(100 * (score - self.low) / (self.high - self.low), 0.0), 100.0)

    def ticks(self) -> list[Tick]:
        """Marks at round scores of 0 or more."""
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [Tick(self.place(value), f"{value:.6g}") for value in values if max(0, self.low) <= value <= self.high]


def score_axis(scores: NDArray[np.floating], threshold: float, check_threshold: float) -> ScoreAxis:
    """The axis that shows scores (N,), N >= 1, and both thresholds."""
    low = min(float(scores.min()), check_threshold, threshold)
    farthest = max(_FARTHEST * threshold, 2 * float(np.quantile(scores, 0.95)))
    high = max(min(float(scores.max()), farthest), threshold)
    step = max((high - low) / _STEPS, 1e-6)
    below, above = (
        _STEPS_PER_BIN * (math.floor(distance / step / _STEPS_PER_BIN) + 1)
        for distance in (threshold - low, high - threshold)
    )
    return ScoreAxis(threshold, step, below, above)


@dataclass(frozen=True)
class Bar:
    """Images of one `name` whose scores are in one bin: how many, and the rectangle that shows it, in percent."""

    name: str
    count: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Bin:
    """One bin of a histogram: its scores from `low` to `high`, and how many images of each name are in it."""

    low: float
    high: float
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Histogram:
    """Image scores, counted.

    `bars` stand on the line at `baseline` and hang from it; `heights` say how many images a height is. `bins` are those
    with any image.
    """

    axis: ScoreAxis
    names: tuple[str, ...]
    bars: tuple[Bar, ...]
    bins: tuple[Bin, ...]
    baseline: float
    heights: tuple[Tick, ...]


Scores = Mapping[str, NDArray[np.floating]]
"""Image scores (n,) of several kinds of images, by name."""


def histogram(axis: ScoreAxis, upper: Scores, lower: Scores | None = None) -> Histogram:
    """Count scores: those of `upper` in bars above the line, upon each other, those of `lower` below it.

    Either side has a scale of its own, so that few defective images are seen beside many good ones.
    """
    edges = axis.low + axis.step * np.arange(0, axis.below + axis.above + 1, _STEPS_PER_BIN)
    edges[axis.below // _STEPS_PER_BIN] = axis.threshold
    baseline = 100.0 if lower is None else 50.0
    bars: list[Bar] = []
    heights: list[Tick] = []
    counts: dict[str, NDArray[np.intp]] = {}
    for side, up in ((upper, True), (lower or {}, False)):
        found = {name: _counts(scores, edges) for name, scores in side.items()}
        highest = int(sum(found.values(), np.zeros(len(edges) - 1, np.intp)).max())
        if not highest:
            continue
        scale = (baseline if up else 100 - baseline) * _HEADROOM / highest
        bars += _stacked(found, scale, baseline, up=up)
        heights.append(Tick(baseline + (-highest if up else highest) * scale, f"{highest:,}"))
        counts |= found
    bins = tuple(
        Bin(float(edges[i]), float(edges[i + 1]), {name: int(each[i]) for name, each in counts.items()})
        for i in range(len(edges) - 1)
        if any(each[i] for each in counts.values())
    )
    return Histogram(axis, tuple(counts), tuple(bars), bins, baseline, tuple(heights))


def _counts(scores: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.intp]:
    """How many scores lie in each bin, above its lower edge and up to its upper one, as verdicts are decided."""
    places = np.searchsorted(edges, scores, side="left") - 1
    return np.bincount(np.clip(places, 0, len(edges) - 2), minlength=len(edges) - 1)


def _stacked(counts: Mapping[str, NDArray[np.intp]], scale: float, baseline: float, *, up: bool) -> list[Bar]:
    bars = []
    width = 100 / len(next(iter(counts.values())))
    reached = np.zeros(len(next(iter(counts.values()))))
    for name, each in counts.items():
        for i in np.flatnonzero(each):
            height = max(each[i] * scale, _LOWEST_BAR)
            y = baseline - reached[i] - height if up else baseline + reached[i]
            reached[i] += height
            bars.append(Bar(name, int(each[i]), float(i * width), float(y), width, float(height)))
    return bars


def curve(x: NDArray[np.floating], y: NDArray[np.floating]) -> str:
    """The points of a line through `x` and `y` (n,) in [0, 1], y upwards, as SVG writes them: "0,100 25,40"."""
    places = np.round(_POINTS_PER_AXIS * np.stack([x, 1 - y], axis=1)) * (100 / _POINTS_PER_AXIS)
    points: Sequence[tuple[float, float]] = [tuple(each) for each in places.tolist()]
    kept = [point for before, point in zip((None, *points), points, strict=False) if point != before]
    return " ".join(f"{across:g},{down:g}" for across, down in kept)
