"""Scores over time: the intervals that are anomalous, as a table and as a picture.

What is judged is taken to be a sequence: the frames of a video, or images in the order of their names.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softpatch.atomic import replacing
from softpatch.data.cells import path_cell
from softpatch.data.folder import RUN_PICTURES

PICTURE, INTERVALS = RUN_PICTURES[0], "intervals.csv"
TIMELINE = (PICTURE, INTERVALS)
"""The files that `predict --timeline` leaves in a folder."""
_SIZE, _DOTS = (12, 3.6), 120  # inches, and dots to each
_SCORE, _SMOOTHED, _ANOMALOUS = "#9aa5b1", "#1f4e79", "#c44e00"


@dataclass(frozen=True)
class Interval:
    """A run of images in sequence that are anomalous: the `first` and the `last`, by their paths, and how many.

    `begin` and `end` are seconds from the beginning of a video, or places in the sequence from 0 on; `peak_path` is
    that of the highest score, `peak_score`.
    """

    first: str
    last: str
    images: int
    begin: float
    end: float
    peak_path: str
    peak_score: float


def smoothed(scores: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The median of `count` scores (N,) about each, the ends repeated: what one image alone has is gone from 3 on."""
    from scipy.ndimage import median_filter  # a third of a second's import

    return scores if count == 1 else np.asarray(median_filter(scores, size=count, mode="nearest"))


def intervals(rows: Sequence[Mapping[str, Any]], times: Sequence[float], count: int) -> list[Interval]:
    """The intervals in which scores, smoothed over `count` images, exceed the threshold, in order.

    `rows` are those of `predictions.jsonl` in sequence, and `times` their places in it.
    """
    scores = np.array([row["image_score"] for row in rows])
    above = smoothed(scores, count) > np.array([row["threshold"] for row in rows])
    changes = np.flatnonzero(np.diff(np.r_[False, above, False]))
    found = []
    for first, beyond in changes.reshape(-1, 2).tolist():
        peak = first + int(scores[first:beyond].argmax())
        found.append(
            Interval(
                first=rows[first]["path"],
                last=rows[beyond - 1]["path"],
                images=beyond - first,
                begin=round(times[first], 3),
                end=round(times[beyond - 1], 3),
                peak_path=rows[peak]["path"],
                peak_score=round(float(scores[peak]), 6),
            )
        )
    return found


def write_timeline(
    rows: Sequence[Mapping[str, Any]], seconds: Mapping[str, float | None], count: int, folder: Path
) -> None:
    """Write the picture and the table of rows in sequence; `seconds` are those of frames, by their paths."""
    is_timed = all(seconds.get(row["path"]) is not None for row in rows)
    times = [float(seconds[row["path"]] or 0) if is_timed else float(place) for place, row in enumerate(rows)]
    found = intervals(rows, times, count)
    with replacing(folder / INTERVALS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([field.name for field in fields(Interval)])
        for each in found:
            table.writerow([path_cell(value) if isinstance(value, str) else value for value in astuple(each)])
    with replacing(folder / PICTURE) as temporary:
        _draw(rows, times, found, count, temporary, "seconds" if is_timed else "image")


def _draw(
    rows: Sequence[Mapping[str, Any]],
    times: Sequence[float],
    found: Sequence[Interval],
    count: int,
    path: Path,
    unit: str,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = np.array([row["image_score"] for row in rows])
    figure = Figure(figsize=_SIZE, dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    half = (times[-1] - times[0]) / max(1, len(times) - 1) / 2 or 0.5
    for each in found:
        axes.axvspan(each.begin - half, each.end + half, color=_ANOMALOUS, alpha=0.18, linewidth=0)
    axes.plot(times, scores, color=_SCORE if count > 1 else _SMOOTHED, linewidth=0.9, label="image score")
    if count > 1:
        label = f"median of {count}"
        axes.plot(times, smoothed(scores, count), color=_SMOOTHED, linewidth=1.4, label=label)
    for name, style, text in (("threshold", "-", "anomalous above"), ("check_threshold", "--", "to check above")):
        axes.plot(times, [row[name] for row in rows], color=_ANOMALOUS, linestyle=style, linewidth=1, label=text)
    axes.set(xlabel=unit, ylabel="image score", xlim=(times[0] - half, times[-1] + half), ylim=(0, None))
    axes.set_title(f"{len(rows)} images, {len(found)} anomalous intervals", loc="left", fontsize=10)
    axes.legend(loc="upper right", fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")
