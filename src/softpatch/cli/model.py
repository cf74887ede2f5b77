"""Look into a model file and change it: `softpatch info` and `softpatch threshold`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softpatch.cli.options import Category, Layout, Model, Strict, Weights, with_runtime
from softpatch.cli.paths import check_given, load_model
from softpatch.config import DEFAULT_PRESET, Runtime, check_threshold, preset_settings
from softpatch.errors import InputError
from softpatch.progress import Progress

if TYPE_CHECKING:
    from softpatch.detector import Detector
    from softpatch.scoring.labelled import Confusion

_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def info(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print one record in JSON, with every setting.")] = False,
) -> None:
    """Say what a model file is and what it learned from.

    It is checked as a whole. The backbone's weights are not needed.
    """
    check_given(model=model)
    import json

    from softpatch.review.model_info import in_words, model_info
    from softpatch.terminal import printable

    record = model_info(model)
    if as_json:
        print(json.dumps(record, indent=2))
        return
    print(f"{printable(str(model))}: a softpatch model")
    for heading, text in in_words(record):
        print(f"{heading:>18}  {printable(text)}")


@with_runtime
def threshold(
    model: Model,
    threshold: Annotated[
        float | None, typer.Option("--set", help="Call images anomalous above this image score from now on.")
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Calibrate anew for this share of good images called anomalous.")
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(help="Set it where F1 is largest on these images: a dataset, or folders good and <defect>."),
    ] = None,
    max_missed: Annotated[
        float | None, typer.Option(help="With --labelled: the highest that misses at most this share of the defective.")
    ] = None,
    max_false_alarms: Annotated[
        float | None,
        typer.Option(help="With --labelled: the lowest that calls at most this share of the good ones anomalous."),
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    weights: Weights = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Show a model's threshold and what others would mean, or set it.

    Nothing is learned again.
    """
    given = {"threshold": threshold, "false_alarm_rate": false_alarm_rate, "labelled": labelled}
    ways = [f"`{name}`" for name, value in given.items() if value is not None]
    if len(ways) > 1:
        raise InputError(f"{' and '.join(ways)} were given; choose one of them")
    of_labelled = {
        "max_missed": max_missed is not None,
        "max_false_alarms": max_false_alarms is not None,
        "layout": layout != "auto",
        "category": category is not None,
        "strict": strict,
    }
    stray = next((name for name, is_given in of_labelled.items() if is_given), None)
    if labelled is None and stray:
        raise InputError(f"`{stray}` goes with `labelled`, which names a folder of labelled images; give both")
    if threshold is not None:
        check_threshold(threshold)
    preset_settings(DEFAULT_PRESET, {"false_alarm_rate": false_alarm_rate})  # raises for a rate out of range
    check_given(model=model, weights=weights, images=[labelled])
    from softpatch.scoring.labelled import check_limits
    from softpatch.terminal import printable, progress_bar

    check_limits(max_missed, max_false_alarms)
    found: Confusion | None = None
    with progress_bar() as progress:
        estimator = load_model(model, weights, runtime, progress)
        if labelled is not None:
            threshold, found = _on_labelled(
                estimator.detector,
                labelled,
                layout=layout,
                category=category,
                max_missed=max_missed,
                max_false_alarms=max_false_alarms,
                strict=strict,
                progress=progress,
            )
    if threshold is not None:
        estimator.threshold = threshold
    if false_alarm_rate is not None:
        estimator.calibrate(false_alarm_rate)
    if ways:
        estimator.save(model)
    detector = estimator.detector
    shown = f"threshold {detector.threshold:.4g}, to check above {detector.check_threshold:.4g}"
    print(f"{printable(str(model))}: {shown}")
    if found is not None:
        _print_confusion(found)
    _print_rates(detector)


def _on_labelled(
    detector: "Detector",
    folder: Path,
    *,
    layout: str,
    category: str | None,
    max_missed: float | None,
    max_false_alarms: float | None,
    strict: bool,
    progress: Progress,
) -> "tuple[float, Confusion]":
    from softpatch.data.images import SkippedImage
    from softpatch.data.layouts import open_dataset
    from softpatch.review.evaluation import image_scores
    from softpatch.scoring.labelled import confusion, labelled_threshold
    from softpatch.terminal import list_skipped, say

    dataset = open_dataset(folder, layout=layout, category=category)
    skipped: list[SkippedImage] = []
    on_skip = None if strict else skipped.append
    try:
        labels, scores = image_scores(detector, dataset.test, on_skip=on_skip, progress=progress)
        threshold = labelled_threshold(labels, scores, max_missed=max_missed, max_false_alarms=max_false_alarms)
    finally:
        list_skipped(skipped)
    if not dataset.is_split:
        say("Note: of the good images every fifth is taken, since fit may have learned from the others.")
    return threshold, confusion(labels, scores, threshold)


def _print_confusion(found: "Confusion") -> None:
    from softpatch.scoring.labelled import rate_interval

    print(f"\n{'labelled images':>18}  called good  called anomalous")
    rows = (
        ("good", found.nominal, found.false_alarms, found.false_alarms, "false alarms"),
        ("defective", found.anomalous, found.anomalous - found.missed, found.missed, "missed"),
    )
    for label, total, called, wrong, name in rows:
        low, high = rate_interval(wrong, total)
        rate = f"{name} {wrong / total:.1%}, between {low:.1%} and {high:.1%}"
        print(f"{label:>18}  {total - called:>11}  {called:>16}  {rate}")
    print("The intervals are of 95 % confidence; the threshold was chosen on these images, so expect a little worse.")


def _print_rates(detector: "Detector") -> None:
    if detector.left_out is None:
        return
    scores = detector.left_out.image_scores
    print(f"\n{'false alarms':>12}  {'threshold':>9}  above it of {len(scores)} training images, good or not")
    for rate in _RATES:
        found = detector.thresholds_at(rate).threshold
        print(f"{rate:>12.1%}  {found:>9.4g}  {int((scores > found).sum())}")
    print(f"{'now':>12}  {detector.threshold:>9.4g}  {int((scores > detector.threshold).sum())}")
