"""A decision threshold from unlabelled, contaminated training images alone."""

from statistics import NormalDist

from torch import Tensor

_SMALLEST = 1e-12  # scores of zero have no logarithm


def decision_threshold(left_out_scores: Tensor, false_alarm_rate: float) -> float:
    """The score that nominal images exceed at about the given rate, read off scores (n,) of training images.

    Each image must have been scored without its own patches, as a new image would be. The logarithms of nominal
    scores are taken as normal, with the median of all as their mean and 1.4826 times the median absolute deviation as
    their standard deviation: both keep to the nominal majority as long as it is one, so anomalous images among the n
    are trimmed without being known (Hampel's identifier). The more of them there are, the higher, not the lower, the
    threshold comes out.
    """
    finite = left_out_scores[left_out_scores.isfinite()]  # the only giver of a bank has nothing to be scored against
    logs = finite.double().clamp_min(_SMALLEST).log()
    median = logs.median()
    deviation = 1.4826 * (logs - median).abs().median()
    quantile = NormalDist().inv_cdf(1 - false_alarm_rate)
    return float((median + quantile * deviation).exp())
