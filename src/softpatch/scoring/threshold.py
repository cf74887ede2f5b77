"""A decision threshold from unlabelled, contaminated training images alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from softpatch.memory.shorth import SMALLEST, middle_and_spread

_LONGER_ABOVE = 1.6
"""How much farther the scores of nominal images reach above their middle than below it; docs/lab/defaults.md has the
figures that this was chosen by."""
_READ_OFF = (0.7, 0.8)  # quantiles of the nominal scores that tell their spread
_LONGER_TAIL = 1.2  # than that of the normal curve through them; the figures are in docs/lab


@dataclass(frozen=True, eq=False)
class LeftOutScores:
    """Scores of training images as if they were new: each was judged without the patches it gave itself.

    `image_scores`, `map_peaks` (the largest value of each anomaly map) and `map_quartiles` (its lower quartile) are
    float32 (n,) on the CPU. Infinite is that of an image without which the bank is empty. Quartiles are None in a model
    written before they were kept.
    """

    image_scores: Tensor
    map_peaks: Tensor
    map_quartiles: Tensor | None = None

    def at(self, places: Tensor) -> "LeftOutScores":
        """Those at some places, as a mask (n,) or indices tell them."""
        quartiles = None if self.map_quartiles is None else self.map_quartiles[places]
        return LeftOutScores(self.image_scores[places], self.map_peaks[places], quartiles)

    def joined(self, others: "LeftOutScores") -> "LeftOutScores":
        """These and then others; without quartiles where either has none."""
        quartiles = None
        if self.map_quartiles is not None and others.map_quartiles is not None:
            quartiles = torch.cat([self.map_quartiles, others.map_quartiles])
        scores = torch.cat([self.image_scores, others.image_scores])
        return LeftOutScores(scores, torch.cat([self.map_peaks, others.map_peaks]), quartiles)

    def replaced(self, places: Tensor, others: "LeftOutScores") -> "LeftOutScores":
        """These with others at some places, by indices (m,)."""
        order = torch.arange(len(self.image_scores))
        order[places] = len(order) + torch.arange(len(places))
        return self.joined(others).at(order)


@dataclass(frozen=True)
class Thresholds:
    """For image scores, above which an image is anomalous or to be checked, and for anomaly maps."""

    threshold: float
    check_threshold: float
    map_threshold: float


def thresholds_at(
    scores: LeftOutScores,
    false_alarm_rate: float,
    check_share: float,
    contamination: float | None = None,
    *,
    kept: Sequence[int] = (),
) -> Thresholds:
    """The thresholds that nominal images exceed at about `false_alarm_rate`, and that to check at `check_share` more.

    See `decision_threshold`.
    """
    checked = min(0.5, false_alarm_rate + check_share)
    return Thresholds(
        decision_threshold(scores.image_scores, false_alarm_rate, contamination, kept=kept),
        decision_threshold(scores.image_scores, checked, contamination, kept=kept),
        decision_threshold(scores.map_peaks, false_alarm_rate, contamination, kept=kept),
    )


def decision_threshold(
    left_out_scores: Tensor,
    false_alarm_rate: float,
    contamination: float | None = None,
    *,
    kept: Sequence[int] = (),
) -> float:
    """The score that nominal images exceed at about the given rate, read off scores (n,) of training images.

    Each image must have been scored without its own patches, as a new image would be. Anomalous images lie above the
    nominal ones, so only what they cannot move is looked at: the middle of the nominal scores is that of the shortest
    interval which holds half of all (Rousseeuw's shorth, the mean over those about as short), and their spread is how
    far the scores below the middle lie from it. Both are taken of logarithms, and hold while most images are nominal.

    Where an estimate of the share of anomalous images is given, `contamination`, the nominal scores are the lowest
    others, and their spread is how far the quantiles of 70 and 80 % of them lie above their median: below what would
    move them if twice as many were anomalous.

    Of those that a person found to be good, the places `kept`, no more exceed it than `false_alarm_rate` allows of n.
    """
    # the only giver of a bank has nothing to be scored against
    finite, known_good = (each[each.isfinite()] for each in (left_out_scores, left_out_scores[list(kept)]))
    known_good = known_good.sort(descending=True).values
    allowed = int(false_alarm_rate * len(left_out_scores) + 1e-9)
    lowest = float(known_good[allowed]) if len(known_good) > allowed else 0.0
    logs = finite.double().clamp_min(SMALLEST).log().sort().values
    if contamination is not None:
        middle, *above = logs.quantile(logs.new_tensor([0.5, *_READ_OFF]) * (1 - contamination))
        spreads = [(log - middle) / NormalDist().inv_cdf(q) for log, q in zip(above, _READ_OFF, strict=True)]
        spread = torch.stack(spreads).mean()
        return max(lowest, float((middle + NormalDist().inv_cdf(1 - false_alarm_rate) * _LONGER_TAIL * spread).exp()))
    middle, spread = middle_and_spread(logs)
    quantile = NormalDist().inv_cdf(1 - false_alarm_rate)
    return max(lowest, float((middle + quantile * _LONGER_ABOVE * spread).exp()))
