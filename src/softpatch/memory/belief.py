"""Which images are anomalous, as far as their ranking and a person's answers tell, and whose answer would tell most.

Images have evidence `x` (N,), higher where an image looks more anomalous. How many of them are anomalous is not known,
so several hypotheses are held at once: under hypothesis k an image is anomalous with probability
1 / (1 + exp(-slope_k · (x - centre_k))). Every answer makes the hypotheses that foresaw it likelier (Bayes' rule). The
page of an audit does the same in the browser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from softpatch.memory.estimate import Contamination

NO_ANSWERS: Mapping[int, bool] = MappingProxyType({})
_CENTRES = np.linspace(0, 10, 41)  # spreads of good images' evidence
_SLOPES = (0.5, 1.0, 2.0, 4.0)
_OUTSIDE = 0.05  # of the weight of a hypothesis whose share lies within the interval
_QUANTILE = 1.645  # standard deviations about the mean that hold 90 % of a normal curve


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """What may divide good images from anomalous ones: `centres` and `slopes`, with prior `weights`, (K,) float64."""

    centres: NDArray[np.float64]
    slopes: NDArray[np.float64]
    weights: NDArray[np.float64]

    def probabilities(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """How probably each image is anomalous under each hypothesis: (K, N)."""
        logits = self.slopes[:, None] * (x[None, :] - self.centres[:, None])
        found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        return found


def first_hypotheses(x: NDArray[np.float64], contamination: Contamination) -> Hypotheses:
    """What may divide images with evidence `x` (N,), before anything is answered.

    Any centre from 0 to 10 is as likely as another, but for those whose share of anomalous images lies outside the
    interval of an estimated `contamination`.
    """
    centres, slopes = (each.ravel() for each in np.meshgrid(_CENTRES, _SLOPES))
    shares = Hypotheses(centres, slopes, np.ones_like(centres)).probabilities(x).mean(axis=1)
    weights = np.where((shares >= contamination.low) & (shares <= contamination.high), 1.0, _OUTSIDE)
    return Hypotheses(centres, slopes, weights / weights.sum())


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed after some answers.

    `suspicion` (N,) is the probability that an image is anomalous: 0 or 1 where it was answered. The contamination, the
    share of anomalous images, lies between `low` and `high` with a probability of 90 %.
    """

    suspicion: NDArray[np.float64]
    contamination: float
    low: float
    high: float


def believe(x: NDArray[np.float64], hypotheses: Hypotheses, answers: Mapping[int, bool]) -> Belief:
    """Combine the evidence (N,) with answers: the numbers of images, and whether each is anomalous."""
    each = hypotheses.probabilities(x)
    logs = np.log(hypotheses.weights)
    for number, is_anomalous in answers.items():
        logs = logs + np.log(each[:, number] if is_anomalous else 1 - each[:, number])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    for number, is_anomalous in answers.items():
        each[:, number] = is_anomalous
    shares = each.mean(axis=1)
    within = (each * (1 - each)).sum(axis=1) / len(x) ** 2  # variance under each hypothesis
    share = float(weights @ shares)
    reach = _QUANTILE * float(np.sqrt(weights @ ((shares - share) ** 2 + within)))
    return Belief(weights @ each, share, max(0.0, share - reach), min(1.0, share + reach))


def next_question(suspicion: NDArray[np.float64], asked: frozenset[int]) -> int | None:
    """The number of the image not `asked` about yet whose answer is least foreseen, the first of several; or None."""
    open_questions = [number for number in range(len(suspicion)) if number not in asked]
    return min(open_questions, key=lambda number: abs(suspicion[number] - 0.5), default=None)
