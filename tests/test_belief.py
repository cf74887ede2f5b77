"""What answers say of the images that were not asked about, against Bayes' rule worked out by hand."""

import numpy as np
import pytest

from softpatch.memory.belief import Hypotheses, believe, first_hypotheses, next_question
from softpatch.memory.estimate import Contamination


def two_hypotheses() -> Hypotheses:
    """Anomalous is what lies above 1, or above 3, as likely either way; far from there both are certain."""
    return Hypotheses(np.array([1.0, 3.0]), np.array([100.0, 100.0]), np.array([0.5, 0.5]))


def test_what_hypotheses_disagree_about_is_even() -> None:
    belief = believe(np.array([4.0, 2.0, 0.0]), two_hypotheses(), {})
    assert belief.suspicion == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert belief.contamination == pytest.approx(0.5)
    # shares of 1/3 and 2/3: one sixth to either side, of which 1.645 standard deviations
    assert (belief.low, belief.high) == pytest.approx((0.5 - 1.645 / 6, 0.5 + 1.645 / 6), abs=1e-6)


@pytest.mark.parametrize(("answer", "share"), [(True, 2 / 3), (False, 1 / 3)])
def test_an_answer_rules_a_hypothesis_out(answer: bool, share: float) -> None:
    belief = believe(np.array([4.0, 2.0, 0.0]), two_hypotheses(), {1: answer})
    assert belief.suspicion == pytest.approx([1, float(answer), 0], abs=1e-6)
    assert belief.contamination == pytest.approx(share)
    assert belief.high - belief.low < 1e-3


def test_posterior_of_a_soft_hypothesis() -> None:
    one = Hypotheses(np.array([0.0]), np.array([1.0]), np.array([1.0]))
    x = np.array([0.0, np.log(3)])
    belief = believe(x, one, {})
    assert belief.suspicion == pytest.approx([0.5, 0.75])
    within = np.sqrt(0.25 + 0.75 * 0.25) / 2
    assert belief.high == pytest.approx(min(1, 0.625 + 1.645 * within))


def test_an_answer_that_no_hypothesis_foresaw_is_believed() -> None:
    belief = believe(np.array([9.0, -9.0, 2.0]), two_hypotheses(), {0: False, 1: True})
    assert np.isfinite(belief.suspicion).all()
    assert belief.suspicion[:2].tolist() == [0, 1]


def test_asked_is_whose_answer_is_least_foreseen() -> None:
    suspicion = np.array([0.99, 0.6, 0.4, 0.1])
    assert next_question(suspicion, frozenset()) == 1  # the first of two that are as even
    assert next_question(suspicion, frozenset({1})) == 2
    assert next_question(suspicion, frozenset({1, 2, 3})) == 0
    assert next_question(suspicion, frozenset(range(4))) is None


def test_the_estimate_is_where_the_hypotheses_begin() -> None:
    x = np.concatenate([np.linspace(-1, 1, 90), np.full(10, 20.0)])
    few = believe(x, first_hypotheses(x, Contamination(0.1, 0.05, 0.15)), {})
    any_share = believe(x, first_hypotheses(x, Contamination(0.0, 0.0, 1.0)), {})
    assert few.low < 0.1 < few.high
    assert few.high - few.low < any_share.high - any_share.low
    assert few.suspicion[90:].min() > 0.99
