"""How contaminated training images look, as a model keeps it and a user reads it."""

from dataclasses import dataclass

_NARROW = 0.16  # interval


@dataclass(frozen=True)
class Contamination:
    """An estimate of the share of training images that are anomalous, in [0, 1], and the interval it may lie in.

    It counts what stands out. Anomalous images that look like good ones do not, so the interval is narrow only where
    those that do are set apart from all others; where it is wide, contamination is not `identifiable`.
    """

    estimate: float
    low: float
    high: float

    @property
    def identifiable(self) -> bool:
        """Whether the interval says more than that there may be little or much."""
        return self.high - self.low <= _NARROW

    def __str__(self) -> str:
        between = f"between {self.low:.0%} and {self.high:.0%}"
        if self.identifiable:
            return f"about {self.estimate:.0%} of the images look anomalous, {between}"
        return f"{self.estimate:.0%} of the images stand out; the true share, {between}, is not identifiable"
