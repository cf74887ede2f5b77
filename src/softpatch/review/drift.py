"""Whether the images of a run have changed in the order in which they come, as a record and as a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softpatch.atomic import replacing
from softpatch.data.folder import RUN_PICTURES
from softpatch.scoring.drift import LEVEL, Alarm, Drift

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE, RECORD = RUN_PICTURES[1], "drift.json"
DRIFT = (PICTURE, RECORD)
"""The files that `predict --drift` leaves in a folder."""
_SIZE, _DOTS = (12, 7.2), 120  # inches, and dots to each
_USUAL = (0.05, 0.95)  # quantiles between which map quartiles usually lie
_COLOURS = {"good": "#1f4e79", "check": "#e0a030", "anomalous": "#c44e00"}
_CHANGED, _MORE, _BAND = "#6a3d9a", "#c44e00", "#9aa5b1"


@dataclass(frozen=True)
class Told:
    """An alarm that was told, in a sentence, and the number of the first image after it; None while it stands."""

    alarm: Alarm
    sentence: str
    ended: int | None


@dataclass(frozen=True)
class Course:
    """What came of images in sequence: the drift `before` all and the `last`, `evidence` (N, 2) of changed images and
    more defects, and the alarms that were told, of which one may stand before the first image."""

    before: Drift
    last: Drift
    evidence: tuple[tuple[float, float], ...]
    told: tuple[Told, ...]


def course_of(rows: Sequence[Mapping[str, Any]], drift: Drift) -> Course:
    """Follow rows of `predictions.jsonl` in sequence, from `drift` on, whose alarm is the first one told."""
    first, evidence = drift, list[tuple[float, float]]()
    told = [] if drift.alarm is None else [Told(drift.alarm, drift.sentence or "", None)]
    for row in rows:
        before, drift = drift, drift.after(row["map_quartile"], is_good=row["verdict"] == "good")
        evidence.append((drift.changed.evidence, drift.more.evidence))
        change = drift.change_since(before)
        if change is not None and change.ended is not None:
            told[-1] = replace(told[-1], ended=before.images)
        if change is not None and change.alarm is not None:
            told.append(Told(change.alarm, change.sentence, None))
    return Course(first, drift, tuple(evidence), tuple(told))


def summary_of(drift: Drift) -> dict[str, Any]:
    """What a record says of the drift after all images, in numbers: ready for JSON."""
    changed, more = drift.changed.evidence, drift.more.evidence
    return {
        "images": drift.images,
        "usual_share": round(drift.usual_share, 4),
        "recent_share": round(drift.recent_share, 4),
        "evidence": {"images changed": round(changed, 2), "more defects": round(more, 2), "alarm_from": LEVEL},
    }


def write_drift(rows: Sequence[Mapping[str, Any]], drift: Drift, folder: Path) -> None:
    """Write the picture and the record of a whole sequence of rows; `drift` is that of before any image."""
    course = course_of(rows, drift)
    record = {
        **summary_of(course.last),
        "alarms": [
            {
                "kind": each.alarm.kind,
                "sentence": each.sentence,
                "first": each.alarm.first,
                "first_path": rows[each.alarm.first]["path"],
                "told": each.alarm.told,
                "told_path": rows[each.alarm.told]["path"],
                "ended": each.ended,
            }
            for each in course.told
        ],
    }
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    draw_drift(rows, course, folder / PICTURE)


def drift_in_words(folder: Path) -> list[str]:
    """What the record of a run says, a sentence for each alarm, and one where there was none."""
    record = json.loads((folder / RECORD).read_bytes())
    if not record["alarms"]:
        return [f"no change is seen in the order of the {record['images']} images"]
    return [
        f"{each['sentence']} (it begins at {each['first_path']}"
        + ("" if each["ended"] is None else f", and ended before image {each['ended'] + 1}")
        + ")"
        for each in record["alarms"]
    ]


def draw_drift(rows: Sequence[Mapping[str, Any]], course: Course, path: Path) -> None:
    """Draw rows in sequence, of which that is the course, as PNG: scores, map quartiles and evidence."""
    with replacing(path) as temporary:
        _draw(rows, course, temporary)


def _draw(rows: Sequence[Mapping[str, Any]], course: Course, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    scores, quartiles, evidence = figure.subplots(3, sharex=True, height_ratios=(3, 2, 2))
    before, end = course.before, course.last.images
    places = np.arange(before.images + 1, end + 1)
    _draw_scores(scores, rows, before.images + 1)
    usual = np.quantile(before.usual or before.usual_others, _USUAL)
    quartiles.axhspan(*usual, color=_BAND, alpha=0.3, linewidth=0, label="90 % of usual")
    quartiles.plot(places, [row["map_quartile"] for row in rows], ".", color=_COLOURS["good"], markersize=4)
    quartiles.set(ylabel="lower quartile\nof the map")
    quartiles.margins(y=0.3)  # room for the legend
    names = ("images changed", "more defects")
    for name, colour, values in zip(names, (_CHANGED, _MORE), zip(*course.evidence, strict=True), strict=True):
        evidence.plot(places, values, color=colour, linewidth=1.4, label=name)
    evidence.axhline(LEVEL, color="black", linestyle="--", linewidth=1, label="alarm")
    evidence.set(ylabel="evidence (log10)", xlabel="image", ylim=(0, LEVEL + 1.2), xlim=(places[0] - 0.5, end + 0.5))
    for each in course.told:
        colour = _CHANGED if each.alarm.kind == "images changed" else _MORE
        until = end if each.ended is None else each.ended
        for axes in (scores, quartiles, evidence):
            axes.axvspan(each.alarm.first + 0.5, until + 0.5, color=colour, alpha=0.12, linewidth=0)
    for axes in (scores, quartiles, evidence):
        axes.legend(loc="upper left", fontsize=8, ncols=3)
        axes.spines[["top", "right"]].set_visible(False)
    alarms = ", ".join(f"{each.alarm.kind} from image {each.alarm.first + 1} on" for each in course.told)
    shown = f"images {places[0]} to {end}" if before.images else f"{end} images"
    scores.set_title(f"{shown}: {alarms or 'no change is seen'}", loc="left", fontsize=10)
    figure.savefig(path, format="png")


def _draw_scores(axes: "Axes", rows: Sequence[Mapping[str, Any]], first: int) -> None:
    """Image scores from the image `first` on, a colour for each verdict, and the thresholds."""
    for verdict, colour in _COLOURS.items():
        shown = [(number, row["image_score"]) for number, row in enumerate(rows, first) if row["verdict"] == verdict]
        if shown:
            axes.plot(*zip(*shown, strict=True), ".", color=colour, markersize=5, label=verdict)
    for name, style in (("threshold", "-"), ("check_threshold", "--")):
        axes.axhline(rows[0][name], color=_COLOURS["anomalous"], linestyle=style, linewidth=1)
    axes.set(ylabel="image score", ylim=(0, None))
