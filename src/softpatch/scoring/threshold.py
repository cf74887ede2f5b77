"""A decision threshold from unlabelled, contaminated training images alone."""

from torch import Tensor


def decision_threshold(left_out_scores: Tensor, false_alarm_rate: float) -> float:
    return float(left_out_scores.quantile(1 - false_alarm_rate))
