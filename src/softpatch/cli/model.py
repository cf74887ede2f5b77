"""Look into a model file and change it: `softpatch threshold`."""

from typing import Annotated

import typer

from softpatch.cli.options import Model, Offline, Weights
from softpatch.config import Runtime

_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def threshold(
    model: Model,
    value: Annotated[
        float | None, typer.Option("--set", help="Call images anomalous above this image score from now on.")
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Calibrate anew for this share of good images called anomalous.")
    ] = None,
    weights: Weights = None,
    offline: Offline = Runtime.offline,
) -> None:
    """Show a model's threshold and what others would mean, or set it.

    Nothing is learned again. Example: softpatch threshold product.safetensors --false-alarm-rate 0.05
    """
    from softpatch.errors import InputError
    from softpatch.estimator import SoftPatch
    from softpatch.terminal import printable

    if value is not None and false_alarm_rate is not None:
        raise InputError("--set and --false-alarm-rate were given; choose one of them")
    estimator = SoftPatch.load(model, weights=weights, device="cpu", offline=offline)
    if value is not None:
        estimator.threshold = value
    if false_alarm_rate is not None:
        estimator.calibrate(false_alarm_rate)
    if value is not None or false_alarm_rate is not None:
        estimator.save(model)
    detector = estimator.detector
    shown = f"threshold {detector.threshold:.4g}, to check above {detector.check_threshold:.4g}"
    print(f"{printable(str(model))}: {shown}")
    if detector.left_out is None:
        return
    scores = detector.left_out.image_scores
    print(f"\n{'false alarms':>12}  {'threshold':>9}  above it of {len(scores)} training images, good or not")
    for rate in _RATES:
        found = detector.thresholds_at(rate).threshold
        print(f"{rate:>12.1%}  {found:>9.4g}  {int((scores > found).sum())}")
    print(f"{'now':>12}  {detector.threshold:>9.4g}  {int((scores > detector.threshold).sum())}")
