"""A decision threshold from labelled images, and what it makes of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softpatch.errors import InputError

_CONFIDENCE = 0.95
_ROUNDING = 1e-9  # 0.29 of 100 images are 29


@dataclass(frozen=True)
class Confusion:
    """How many of the nominal images are called anomalous, and how many of the anomalous ones are missed."""

    nominal: int
    false_alarms: int
    anomalous: int
    missed: int


def labelled_threshold(
    labels: NDArray[np.bool_],
    scores: NDArray[np.float32],
    *,
    max_missed: float | None = None,
    max_false_alarms: float | None = None,
) -> float:
    """The image score above which images are best called anomalous, given the truth.

    `labels` (N,) tells the anomalous images and `scores` (N,) their scores. It is where F1 is largest; or the highest
    that misses at most the share `max_missed` of the anomalous images, or the lowest that calls at most the share
    `max_false_alarms` of the nominal ones anomalous, each in [0, 1). Between two scores it lies half way. Raises
    `InputError` for another share, both of them, and images of one label alone.
    """
    check_limits(max_missed, max_false_alarms)
    nominal, anomalous = np.sort(scores[~labels]), np.sort(scores[labels])
    if not len(nominal) or not len(anomalous):
        raise InputError(
            f"{len(nominal)} good and {len(anomalous)} defective images cannot tell a threshold; give some of both"
        )
    if max_false_alarms is not None:
        highest_passed = nominal[len(nominal) - 1 - int(max_false_alarms * len(nominal) + _ROUNDING)]
        above = scores[scores > highest_passed]
        return float(highest_passed if not len(above) else (float(highest_passed) + float(above.min())) / 2)
    if max_missed is not None:
        lowest_called = anomalous[int(max_missed * len(anomalous) + _ROUNDING)]
        below = scores[scores < lowest_called]
        return (float(lowest_called) + float(below.max() if len(below) else 0)) / 2
    from softpatch.scoring.metrics import best_f1  # slow to import, and limits are checked before

    return best_f1(labels, scores)[1] or float(scores.min()) / 2  # where F1 is largest with all called anomalous


def check_limits(max_missed: float | None, max_false_alarms: float | None) -> None:
    """Raise `InputError` for limits that `labelled_threshold` does not take."""
    if max_missed is not None and max_false_alarms is not None:
        raise InputError("`max_missed` and `max_false_alarms` were given; choose one of them")
    for name, share in (("max_missed", max_missed), ("max_false_alarms", max_false_alarms)):
        if share is not None and not 0 <= share < 1:
            raise InputError(f"`{name}` is {share}; it is a share, 0 or more and below 1")


def confusion(labels: NDArray[np.bool_], scores: NDArray[np.float32], threshold: float) -> Confusion:
    """Count what a threshold makes of images of known `labels` (N,), True for anomalous, and `scores` (N,)."""
    called = scores > threshold
    return Confusion(
        int((~labels).sum()), int((called & ~labels).sum()), int(labels.sum()), int((~called & labels).sum())
    )


def rate_interval(count: int, total: int) -> tuple[float, float]:
    """The interval, at 95 % confidence, of the rate that made `count` of `total` images so: Clopper and Pearson's.

    It is never too narrow, which tells users of few images how little they know.
    """
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(_CONFIDENCE, "exact")
    return float(interval.low), float(interval.high)
