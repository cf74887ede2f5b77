"""A threshold from labelled images: by hand, and against every other threshold there is."""

import numpy as np
import pytest

from softpatch.errors import InputError
from softpatch.scoring.labelled import Confusion, confusion, labelled_threshold, rate_interval

LABELS = np.array([False, False, False, True, False, True, True, True])
SCORES = np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32)


@pytest.mark.parametrize(
    ("limit", "threshold", "false_alarms", "missed"),
    [
        ({}, 3.5, 1, 0),  # F1 is 8/9 here, and 6/7 at 5.5
        ({"max_missed": 0}, 3.5, 1, 0),
        ({"max_missed": 0.24}, 3.5, 1, 0),
        ({"max_missed": 0.25}, 5.5, 0, 1),
        ({"max_missed": 0.5}, 6.5, 0, 2),
        ({"max_missed": 0.99}, 7.5, 0, 3),
        ({"max_false_alarms": 0}, 5.5, 0, 1),
        ({"max_false_alarms": 0.25}, 3.5, 1, 0),
        ({"max_false_alarms": 0.5}, 2.5, 2, 0),
        ({"max_false_alarms": 0.99}, 1.5, 3, 0),
    ],
)
def test_by_hand(limit: dict[str, float], threshold: float, false_alarms: int, missed: int) -> None:
    found = labelled_threshold(LABELS, SCORES, **limit)
    assert found == threshold
    assert confusion(LABELS, SCORES, found) == Confusion(4, false_alarms, 4, missed)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.29, 0.7])
def test_no_better_threshold_keeps_a_limit(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(40) < 0.4
    scores = (rng.integers(1, 25, 40) + 4 * labels).astype(np.float32)  # many are equal
    cuts = np.unique(np.concatenate([[0.5], scores, scores + np.float32(0.5)]))
    found = [confusion(labels, scores, cut) for cut in cuts]
    missed = labelled_threshold(labels, scores, max_missed=share)
    alarms = labelled_threshold(labels, scores, max_false_alarms=share)
    kept = [cut for cut, each in zip(cuts, found, strict=True) if each.missed <= share * each.anomalous]
    assert confusion(labels, scores, missed) == confusion(labels, scores, max(kept))
    kept = [cut for cut, each in zip(cuts, found, strict=True) if each.false_alarms <= share * each.nominal]
    assert confusion(labels, scores, alarms) == confusion(labels, scores, min(kept))


def test_a_share_that_is_met_exactly_is_met() -> None:
    scores = np.arange(1, 201, dtype=np.float32)
    labels = scores > 100
    assert confusion(labels, scores, labelled_threshold(labels, scores, max_missed=0.29)).missed == 29
    assert confusion(labels, scores, labelled_threshold(labels, scores, max_false_alarms=0.07)).false_alarms == 7


def test_the_ends_of_all_scores() -> None:
    labels, scores = np.array([True, False]), np.array([4, 6], np.float32)
    assert labelled_threshold(labels, scores) == 2  # every image is called anomalous, at a threshold above 0
    assert labelled_threshold(labels, scores, max_missed=0) == 2
    assert labelled_threshold(labels, scores, max_false_alarms=0) == 6


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_missed": 1.0}, "`max_missed` is 1.0; it is a share, 0 or more and below 1"),
        ({"max_missed": -0.1}, "`max_missed` is -0.1"),
        ({"max_false_alarms": float("nan")}, "`max_false_alarms` is nan"),
        ({"max_missed": 0.1, "max_false_alarms": 0.1}, "choose one of them"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        labelled_threshold(LABELS, SCORES, **limits)


@pytest.mark.parametrize("label", [True, False])
def test_images_of_one_label_tell_nothing(label: bool) -> None:
    with pytest.raises(InputError, match=r"\d good and \d defective images cannot tell a threshold"):
        labelled_threshold(np.full(4, label), SCORES[:4])


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 20, 0, 0.16843), (3, 20, 0.03207, 0.37893), (20, 20, 0.83157, 1)],  # published tables of Clopper and Pearson
)
def test_intervals(count: int, total: int, low: float, high: float) -> None:
    assert rate_interval(count, total) == pytest.approx((low, high), abs=1e-5)
