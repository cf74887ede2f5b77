import math

import pytest
import torch

from softpatch.scoring.threshold import decision_threshold


def lognormal(count: int, mean: float = 1.0, deviation: float = 0.1, seed: int = 0) -> torch.Tensor:
    return (mean + deviation * torch.randn(count, generator=torch.Generator().manual_seed(seed))).exp()


def test_worked_by_hand() -> None:
    # logs 0 1 2 3 9: the shortest three are 0 to 2 and 1 to 3, whose middles have the mean 1.5; below it lie 0 and 1
    scores = torch.tensor([0.0, 1, 2, 3, 9]).exp()
    assert decision_threshold(scores, 0.5) == pytest.approx(math.exp(1.5))
    assert decision_threshold(scores, 0.1586553) == pytest.approx(math.exp(1.5 + 1.6 * 1.4826), rel=1e-4)


def test_images_found_to_be_good_exceed_it_as_seldom_as_asked() -> None:
    scores = torch.cat([lognormal(100), torch.tensor([7.0, 8.0, 9.0])])
    assert decision_threshold(scores, 0.01) < 7
    assert decision_threshold(scores, 0.01, kept=[3, 100, 101]) == 7  # of 103 one may exceed it
    assert decision_threshold(scores, 0.01, 0.05, kept=[100, 101, 102]) == 8
    only = torch.cat([scores, torch.tensor([torch.inf])])  # of an image without which the bank is empty
    assert decision_threshold(only, 0.005, kept=[100, 103]) == 7
    assert decision_threshold(scores, 0.05, kept=[100, 101, 102]) == decision_threshold(scores, 0.05)


def skewed(count: int, seed: int) -> torch.Tensor:
    """Nominal scores as they are met: farther above their middle than below it."""
    logs = 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return torch.where(logs > 0, 1.6 * logs, logs).exp()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_rate_asked_for_is_kept_for_skewed_scores_and_not_passed_for_symmetric_ones(rate: float) -> None:
    threshold = decision_threshold(skewed(2000, seed=0), rate)
    assert rate / 2 < (skewed(20000, seed=1) > threshold).float().mean() < rate * 2
    threshold = decision_threshold(lognormal(2000), rate)
    assert (lognormal(20000, seed=1) > threshold).float().mean() < rate


@pytest.mark.parametrize("contamination", [0.05, 0.2, 0.6])
def test_anomalous_images_among_them_do_not_hide_themselves(contamination: float) -> None:
    nominal, anomalous = lognormal(1000), lognormal(int(1000 * contamination), mean=2.0)
    threshold = decision_threshold(torch.cat([nominal, anomalous]), 0.01)
    assert (lognormal(5000, seed=2) > threshold).float().mean() < 0.015
    assert (anomalous > threshold).float().mean() > 0.9


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("contamination", [0.0, 0.2, 0.35])
def test_with_the_contamination_known_the_rate_asked_for_is_kept(contamination: float, rate: float) -> None:
    nominal = lognormal(3000)
    anomalous = lognormal(round(3000 * contamination / (1 - contamination)), mean=2.0)
    threshold = decision_threshold(torch.cat([nominal, anomalous]), rate, contamination)
    assert rate / 6 < (lognormal(20000, seed=2) > threshold).float().mean() <= rate  # the tail may be longer
    skew = decision_threshold(torch.cat([skewed(3000, seed=0), anomalous]), rate, contamination)
    assert (skewed(20000, seed=1) > skew).float().mean() < 1.3 * rate


def test_an_estimate_of_half_the_contamination_moves_the_threshold_little() -> None:
    scores = torch.cat([lognormal(700), lognormal(300, mean=2.0)])
    known, half = (decision_threshold(scores, 0.01, contamination) for contamination in (0.3, 0.15))
    assert known < half < 1.3 * known
    assert half < lognormal(300, mean=2.0).quantile(0.01)


def test_scale_and_order_do_not_matter() -> None:
    scores = lognormal(101)
    assert decision_threshold(scores * 7, 0.01) == pytest.approx(7 * decision_threshold(scores, 0.01), rel=1e-5)
    assert decision_threshold(scores.flip(0), 0.01) == decision_threshold(scores, 0.01)


def test_equal_and_zero_scores_are_no_trouble() -> None:
    assert decision_threshold(torch.ones(5), 0.01) == pytest.approx(1)
    assert math.isfinite(decision_threshold(torch.zeros(5), 0.01))
    assert decision_threshold(torch.ones(5), 0.01, 0.2) == pytest.approx(1)
    assert math.isfinite(decision_threshold(torch.zeros(5), 0.01, 0.2))
