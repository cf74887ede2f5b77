"""Metrics: AUPRO against plain loops, F1 by hand, and None where the truth does not allow an answer."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from softpatch.scoring import metrics
from softpatch.scoring.metrics import Metrics, PixelMetrics, PixelScores, evaluate_scores, f1_max

Masks = list[NDArray[np.bool_]]
Maps = list[NDArray[np.float32]]


def mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def as_map(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def evaluate_pixels(masks: Masks, maps: Maps, limit: float = 0.3) -> PixelMetrics:
    pixels = PixelScores()
    for truth, scores in zip(masks, maps, strict=True):
        pixels.add(truth, scores)
    found = pixels.metrics(limit)
    assert found is not None
    return found


def aupro(masks: Masks, maps: Maps, limit: float = 0.3) -> float:
    return evaluate_pixels(masks, maps, limit).aupro


def plain_aupro(masks: Masks, maps: Maps, limit: float) -> float:
    """Threshold by threshold and region by region, then trapezoids up to the limit."""
    regions = []
    for truth, scores in zip(masks, maps, strict=True):
        numbered, count = label(truth, structure=np.ones((3, 3)))
        regions += [scores[numbered == number] for number in range(1, count + 1)]
    nominal = np.concatenate([scores[~truth] for truth, scores in zip(masks, maps, strict=True)])
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(score) for scores in maps for score in scores.flat}, reverse=True):
        overlap = float(np.mean([(region >= threshold).mean() for region in regions]))
        curve.append((float((nominal >= threshold).mean()), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 9999), levels=st.sampled_from([2, 5, 20, 10_000]), images=st.integers(1, 3))
def test_pixel_metrics_are_those_of_plain_loops_and_of_sklearn(seed: int, levels: int, images: int) -> None:
    random = np.random.default_rng(seed)
    masks = [random.random((8, 10)) < 0.2 for _ in range(images)]
    masks[0][0, :2] = [True, False]  # both kinds are there
    maps = [(random.integers(0, levels, (8, 10)) + levels // 3 * truth).astype(np.float32) for truth in masks]
    for limit in (0.3, 0.05, 1.0):
        assert aupro(masks, maps, limit) == pytest.approx(plain_aupro(masks, maps, limit), abs=1e-9)
    truth, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    found = evaluate_pixels(masks, maps)
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert found.ap == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


def test_aupro_of_a_perfect_map_is_1() -> None:
    truth = mask("##...", "....#", "#...#")
    assert aupro([truth], [truth.astype(np.float32)]) == pytest.approx(1)


def test_aupro_of_a_constant_map_is_that_of_chance() -> None:
    # one step from (0, 0) to (1, 1): the area up to 0.3 is 0.3² / 2, divided by 0.3
    assert aupro([mask("##..", "....")], [np.zeros((2, 4), np.float32)]) == pytest.approx(0.15)


def test_aupro_weighs_regions_the_same_whatever_their_size() -> None:
    truth = mask("####.", "....#", "#....")  # a region of 5 pixels, corners touch, and one of 1
    large_alone = as_map([9, 9, 9, 9, 1], [1, 1, 1, 1, 9], [0, 1, 1, 1, 1])
    small_alone = as_map([0, 0, 0, 0, 1], [1, 1, 1, 1, 0], [9, 1, 1, 1, 1])
    # half the overlap before the first false positive, then all nominal pixels at once, and nothing more inside
    assert aupro([truth], [large_alone]) == pytest.approx(0.5)
    assert aupro([truth], [small_alone]) == pytest.approx(0.5)


def test_aupro_counts_nothing_found_at_the_limit_itself() -> None:
    # 3 of 10 nominal pixels come before the defect: the curve runs along 0 up to 0.3 and rises there
    truth = mask("##....", "......")
    scores = as_map([0.5, 0.5, 0.9, 0.8, 0.7, 0.1], [0.1] * 6)
    assert aupro([truth], [scores]) == 0


def test_aupro_takes_images_of_different_sizes_and_without_defects() -> None:
    masks = [mask("#..", "..."), mask("....."), mask("##", "..")]
    maps = [as_map([5, 1, 2], [0, 3, 0]), as_map([4, 0, 0, 1, 2]), as_map([3, 9], [1, 0])]
    assert aupro(masks, maps) == pytest.approx(plain_aupro(masks, maps, 0.3))


def test_f1_max_by_hand() -> None:
    labels = np.array([False, True, False, True, True])
    scores = np.array([0.1, 0.4, 0.6, 0.8, 0.9], dtype=np.float32)
    # thresholds from above: 1/1 and 1/3, 2/2 and 2/3: F1 4/5, 2/3 and 2/3, 3/4 and 3/3: F1 6/7
    assert f1_max(labels, scores) == pytest.approx(6 / 7)


def test_f1_max_of_ties_and_of_the_wrong_order() -> None:
    labels = np.array([True, True, False, False])
    assert f1_max(labels, np.zeros(4, np.float32)) == pytest.approx(2 / 3)
    assert f1_max(labels, np.array([0, 1, 2, 3], np.float32)) == pytest.approx(2 / 3)
    assert f1_max(labels, np.array([3, 2, 1, 0], np.float32)) == 1


LABELS = np.array([False, True, True])
SCORES = np.array([0.2, 0.1, 0.7], dtype=np.float32)
MASKS = [mask("...", "..."), mask("#..", "..."), mask("..#", "..#")]
MAPS = [as_map([0, 1, 0], [2, 0, 1]), as_map([7, 0, 3], [0, 1, 0]), as_map([0, 1, 9], [6, 0, 2])]


def test_every_metric_is_the_one_named() -> None:
    metrics = evaluate_scores(LABELS, SCORES, MASKS, MAPS)
    truth, scores = np.concatenate([m.ravel() for m in MASKS]), np.concatenate([m.ravel() for m in MAPS])
    assert metrics == Metrics(
        image_auroc=0.5,
        image_ap=pytest.approx(average_precision_score(LABELS, SCORES)),
        image_f1_max=pytest.approx(0.8),
        pixel_auroc=pytest.approx(roc_auc_score(truth, scores)),
        pixel_ap=pytest.approx(average_precision_score(truth, scores)),
        aupro=pytest.approx(plain_aupro(MASKS, MAPS, 0.3)),
    )
    assert list(metrics.as_dict()) == ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro"]


@pytest.mark.parametrize("label_of_all", [False, True])
def test_image_metrics_need_both_kinds_of_image(label_of_all: bool) -> None:
    metrics = evaluate_scores(np.full(3, label_of_all), SCORES, MASKS, MAPS)
    assert (metrics.image_auroc, metrics.image_ap, metrics.image_f1_max) == (None, None, None)
    assert metrics.aupro is not None


@pytest.mark.parametrize(
    ("masks", "maps"),
    [
        ([], []),
        ([np.zeros((2, 3), bool)] * 3, MAPS),
        ([np.ones((2, 3), bool)] * 3, MAPS),
    ],
    ids=["none known", "no anomalous pixel", "no nominal pixel"],
)
def test_pixel_metrics_need_both_kinds_of_pixel(masks: Masks, maps: Maps) -> None:
    metrics = evaluate_scores(LABELS, SCORES, masks, maps)
    assert (metrics.pixel_auroc, metrics.pixel_ap, metrics.aupro) == (None, None, None)
    assert metrics.image_auroc == 0.5


@pytest.mark.parametrize("scale", [1.0, 1e-6, -1.0])
def test_beyond_some_number_of_scores_they_are_rounded(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    masks = [random.random((60, 60)) < 0.05 for _ in range(12)]
    maps = [((random.gamma(2, size=(60, 60)) + 2 * truth) * scale).astype(np.float32) for truth in masks]
    exact = evaluate_pixels(masks, maps)
    monkeypatch.setattr(metrics, "MOST_SCORES", 20_000)
    monkeypatch.setattr(metrics, "_AT_ONCE", 5_000)
    pixels = PixelScores()
    for truth, scores in zip(masks, maps, strict=True):
        pixels.add(truth, scores)
        assert len(pixels._scores) <= 20_000
    assert pixels._dropped_bits >= 10
    assert pixels.metrics() == pytest.approx(exact, abs=2e-4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=30))
def test_the_threshold_of_the_best_f1_reaches_it(pairs: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs], dtype=np.float32)
    if not labels.any() or not scores.min() > 0:
        return
    f1, threshold = metrics.best_f1(labels, scores)
    called = scores > threshold
    assert 2 * (called & labels).sum() / (called.sum() + labels.sum()) == pytest.approx(f1)
    others = [scores > other for other in (0, *scores)]
    assert all(2 * (other & labels).sum() / (other.sum() + labels.sum()) <= f1 + 1e-9 for other in others)
