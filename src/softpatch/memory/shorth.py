"""The middle and the spread of nominal scores, from what anomalous ones, which lie above, cannot move."""

from statistics import NormalDist

from torch import Tensor

SMALLEST = 1e-12
"""Scores of zero have no logarithm, and equal ones no spread."""
_ABOUT_AS_SHORT = 1.1


def middle_and_spread(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of the shortest interval that holds half of rising values (n,), and their spread below it.

    The middle is Rousseeuw's shorth, the mean over intervals about as short. The spread is the standard deviation of a
    normal curve with the same median distance to the middle. Both hold while most values are nominal.
    """
    half = (len(ordered) + 1) // 2
    starts, ends = ordered[: len(ordered) - half + 1], ordered[half - 1 :]
    lengths = ends - starts
    short = lengths <= lengths.min() * _ABOUT_AS_SHORT + SMALLEST
    middle = ((starts + ends) / 2)[short].mean()
    below = middle - ordered[ordered <= middle + SMALLEST]
    return middle, below.quantile(0.5) / NormalDist().inv_cdf(0.75)
