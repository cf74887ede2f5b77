"""How well scores and maps separate nominal from anomalous, given the truth."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected_components
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

MOST_SCORES = 4_000_000
"""Different scores of pixels that are told apart, in about 0.8 GB while they are counted."""
_AT_ONCE = 2_000_000  # pixels that wait until they are counted together
_FIRST_DROPPED = 10  # of the 23 bits of a score's mantissa: one part in 8,192 is left
_EVERY_NEIGHBOUR = np.ones((3, 3), dtype=int)  # regions touch at corners too


@dataclass(frozen=True)
class Metrics:
    """The metrics of one evaluation, each in [0, 1]; None where the truth does not allow it (see `evaluate_scores`)."""

    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None

    def as_dict(self) -> dict[str, float | None]:
        """The metrics by name, ready for JSON."""
        return asdict(self)


class PixelMetrics(NamedTuple):
    """Area under the ROC curve of pixels, average precision, and AUPRO, each in [0, 1]."""

    auroc: float
    ap: float
    aupro: float


def evaluate_scores(
    labels: NDArray[np.bool_],
    image_scores: NDArray[np.float32],
    masks: Iterable[NDArray[np.bool_]] = (),
    maps: Iterable[NDArray[np.float32]] = (),
) -> Metrics:
    """Compute all metrics.

    `labels` (N,) tells the anomalous images and `image_scores` (N,) their scores; image metrics are None unless both
    kinds of image are there. `masks` and `maps` are (H, W) each, one per image of known masks; pixel metrics are None
    where there is no anomalous or no nominal pixel.
    """
    pixels = PixelScores()
    for mask, anomaly_map in zip(masks, maps, strict=True):
        pixels.add(mask, anomaly_map)
    return metrics_of(labels, image_scores, pixels)


def metrics_of(labels: NDArray[np.bool_], image_scores: NDArray[np.float32], pixels: "PixelScores") -> Metrics:
    """As `evaluate_scores`, of pixels that were counted one image after the other."""
    image: list[float | None] = [None, None, None]
    if labels.any() and not labels.all():
        image = [
            float(roc_auc_score(labels, image_scores)),
            float(average_precision_score(labels, image_scores)),
            f1_max(labels, image_scores),
        ]
    return Metrics(*image, *(pixels.metrics() or (None, None, None)))


def f1_max(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """The largest F1 score that any threshold reaches, in [0, 1]."""
    return best_f1(labels, scores)[0]


def best_f1(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> tuple[float, float]:
    """The largest F1 score that any threshold reaches, in [0, 1], and such a threshold.

    Scores above it are called anomalous; it lies half way to the highest score that is not, or at that of all, 0.
    """
    precision, recall, found = precision_recall_curve(labels, scores)
    total = np.maximum(precision + recall, np.finfo(float).tiny)
    f1 = 2 * precision * recall / total
    best = min(int(f1.argmax()), len(found) - 1)
    lowest_called = float(found[best])
    below = scores[scores < found[best]]
    return float(f1.max()), (lowest_called + float(below.max())) / 2 if len(below) else 0.0


class PixelScores:
    """The scores of all pixels of many maps, counted by value, in bounded memory.

    So long as they have fewer than `MOST_SCORES` different values the metrics are exact. Beyond that, scores are
    rounded down to fewer digits, until they are: then scores that differ by less than one part in 8,000 or so
    count as equal.
    """

    def __init__(self) -> None:
        self._scores = np.empty(0, np.float32)
        self._counts = np.empty((0, 3))  # of each score: nominal pixels, anomalous ones, and these weighed by region
        self._nominal: list[NDArray[np.float32]] = []
        self._anomalous: list[tuple[NDArray[np.float32], NDArray[np.float64]]] = []
        self._waiting = 0
        self._dropped_bits = 0

    def add(self, mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> None:
        """Count the pixels of a map (H, W) of finite scores, with its mask (H, W)."""
        scores = anomaly_map.astype(np.float32)
        self._nominal.append(scores[~mask])
        self._anomalous.append((scores[mask], _region_weights(mask)))
        self._waiting += mask.size
        if self._waiting > max(_AT_ONCE, len(self._scores)):
            self._merge()

    def _merge(self) -> None:
        nominal = _rounded(np.concatenate([np.empty(0, np.float32), *self._nominal]), self._dropped_bits)
        values, counts = np.unique(nominal, return_counts=True)
        anomalous, weights = (
            np.concatenate([np.empty(0), *parts]) for parts in zip(([], []), *self._anomalous, strict=True)
        )
        found, place = np.unique(_rounded(anomalous.astype(np.float32), self._dropped_bits), return_inverse=True)
        scores = np.concatenate([self._scores, values, found])
        all_counts = np.zeros((len(scores), 3))
        known, new = len(self._scores), len(self._scores) + len(values)
        all_counts[:known] = self._counts
        all_counts[known:new, 0] = counts
        all_counts[new:, 1], all_counts[new:, 2] = np.bincount(place), np.bincount(place, weights)
        self._nominal, self._anomalous, self._waiting = [], [], 0
        self._scores, self._counts = _by_score(scores, all_counts)
        while len(self._scores) > MOST_SCORES:
            self._dropped_bits = max(_FIRST_DROPPED, self._dropped_bits + 1)
            self._scores, self._counts = _by_score(_rounded(self._scores, self._dropped_bits), self._counts)

    def metrics(self, max_false_positive_rate: float = 0.3) -> PixelMetrics | None:
        """Compute the pixel metrics; None where there is no anomalous or no nominal pixel.

        AUPRO is the area under the per-region overlap curve up to a false-positive rate, divided by that rate. The
        overlap at a threshold is the share of each connected anomalous region (8-neighbourhood) above it, averaged over
        regions, so a small defect counts as much as a large one (Bergmann et al. 2020): the true-positive rate of a ROC
        curve in which each anomalous pixel weighs 1 / (pixels of its region).
        """
        self._merge()
        reached, found, overlap = np.cumsum(self._counts[::-1], axis=0).T  # at or above each score, the highest first
        if not len(found) or not found[-1] or not reached[-1]:
            return None
        precision = found / (found + reached)
        recall = found / found[-1]
        rates, overlaps = (np.append(0, each / each[-1]) for each in (reached, overlap))
        inside = rates <= max_false_positive_rate
        at_limit = np.interp(max_false_positive_rate, rates, overlaps)
        area = np.trapezoid(np.append(overlaps[inside], at_limit), np.append(rates[inside], max_false_positive_rate))
        return PixelMetrics(
            auroc=float(np.trapezoid(np.append(0, recall), rates)),
            ap=float(np.sum(np.diff(recall, prepend=0) * precision)),
            aupro=float(area / max_false_positive_rate),
        )


def _by_score(
    scores: NDArray[np.float32], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Different scores in rising order, and the sums of the counts (n, 3) of each."""
    if not len(scores):
        return scores, counts
    order = scores.argsort(kind="stable")
    scores = scores[order]
    starts = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    return scores[starts], np.add.reduceat(counts[order], starts, axis=0)


def _rounded(scores: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Scores without the last bits of their mantissa."""
    kept: NDArray[np.float32] = (scores.view(np.uint32) >> bits << bits).view(np.float32) if bits else scores
    return kept


def _region_weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / (pixels of its region) for each anomalous pixel, row by row: (pixels,)."""
    regions, _ = connected_components(mask, structure=_EVERY_NEIGHBOUR)
    return 1 / np.bincount(regions.ravel())[regions[mask]]
