"""Charts: what is counted, and where it is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softpatch.review.charts import ScoreAxis, curve, histogram, score_axis

SCORES = st.lists(st.floats(0, 50, width=32), min_size=1, max_size=40).map(lambda found: np.array(found, np.float32))


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(0.01, 20), st.floats(0.5, 1))
def test_the_axis_holds_both_thresholds_and_nearly_all_scores(scores: np.ndarray, threshold: float, check: float):
    axis = score_axis(scores, threshold, check * threshold)
    assert axis.threshold == threshold
    assert axis.low < min(float(scores.min()), check * threshold) + axis.step / 10
    assert axis.high > threshold
    assert (scores <= axis.high).mean() >= 0.9 or scores.max() <= 5 * threshold
    assert axis.place(threshold) == pytest.approx(100 * axis.below / (axis.below + axis.above))
    places = [tick.place for tick in axis.ticks()]
    assert places == sorted(set(places))
    assert all(0 <= place <= 100 for place in places)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(0.01, 20))
def test_every_image_is_counted_once_and_on_its_side_of_the_threshold(scores: np.ndarray, threshold: float) -> None:
    good, defective = scores[::2], scores[1::2]
    found = histogram(score_axis(scores, threshold, threshold), {"good": good}, {"defective": defective})
    for name, each in (("good", good), ("defective", defective)):
        counted = [(part.low, part.counts.get(name, 0)) for part in found.bins]
        assert sum(count for _, count in counted) == len(each) == sum(b.count for b in found.bars if b.name == name)
        above = sum(count for low, count in counted if low >= threshold)
        assert above == (each.astype(np.float64) > threshold).sum()


def test_bars_stand_on_the_line_and_hang_from_it() -> None:
    axis = ScoreAxis(threshold=1.0, step=0.05, below=10, above=20)  # bins of 0.5: 0.5 to 1, to 1.5 and to 2
    good, defective = np.array([0.6, 0.7, 1.2, 1.0]), np.array([1.7])
    found = histogram(axis, {"good": good}, {"defective": defective})
    bars = [(bar.name, bar.count, round(bar.x, 6), round(bar.y, 6), round(bar.height, 6)) for bar in found.bars]
    assert bars == [
        ("good", 3, 0, 4, 46),
        ("good", 1, 33.333333, 34.666667, 15.333333),
        ("defective", 1, 66.666667, 50, 46),
    ]
    assert [(tick.place, tick.text) for tick in found.heights] == [(4, "3"), (96, "1")]
    assert [(part.low, part.counts) for part in found.bins] == [
        (0.5, {"good": 3, "defective": 0}),
        (1.0, {"good": 1, "defective": 0}),
        (1.5, {"good": 0, "defective": 1}),
    ]


def test_bars_of_one_side_stand_upon_each_other() -> None:
    axis = ScoreAxis(threshold=1.0, step=0.05, below=10, above=10)
    upper = {"good": np.array([0.6, 0.7, 0.7]), "check": np.array([0.9]), "anomalous": np.array([9.0])}
    found = histogram(axis, upper)
    assert found.baseline == 100
    good, check, anomalous = found.bars
    assert (good.y + good.height, check.y + check.height, anomalous.y + anomalous.height) == (100, good.y, 100)
    assert check.y == pytest.approx(8)
    assert anomalous.x == 50  # beyond the end, so in the last bin


def test_one_image_is_seen_beside_thousands() -> None:
    scores = np.append(np.full(5000, 0.5), 1.4)
    found = histogram(score_axis(scores, 1.0, 0.9), {"good": scores})
    assert min(bar.height for bar in found.bars) >= 1.5


def test_equal_scores_have_an_axis() -> None:
    found = histogram(score_axis(np.zeros(3), 0.0, 0.0), {"good": np.zeros(3)})
    assert [bar.count for bar in found.bars] == [3]
    assert found.axis.low < 0 < found.axis.high


def test_a_curve_begins_below_left_and_has_no_point_twice() -> None:
    assert curve(np.array([0, 0, 0.0001, 0.5, 1]), np.array([0, 0.5, 0.5, 1, 1])) == "0,100 0,50 50,0 100,0"
    many = np.linspace(0, 1, 100_000)
    assert len(curve(many, many).split()) == 501
