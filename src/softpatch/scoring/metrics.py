"""How well scores and maps separate nominal from anomalous, given the truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected_components
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

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
    masks: Sequence[NDArray[np.bool_]] | None,
    maps: Sequence[NDArray[np.float32]] | None,
) -> Metrics:
    """Compute all metrics.

    `labels` (N,) tells the anomalous images and `image_scores` (N,) their scores; image metrics are None unless both
    kinds of image are there. `masks` and `maps` are (H, W) each, one per image of known masks; pixel metrics are None
    where they are absent or hold no anomalous or no nominal pixel.
    """
    image: list[float | None] = [None, None, None]
    if labels.any() and not labels.all():
        image = [
            float(roc_auc_score(labels, image_scores)),
            float(average_precision_score(labels, image_scores)),
            f1_max(labels, image_scores),
        ]
    pixel: tuple[float | None, ...] = (None, None, None)
    if masks and maps and any(mask.any() for mask in masks) and not all(mask.all() for mask in masks):
        pixel = evaluate_pixels(masks, maps)
    return Metrics(*image, *pixel)


def f1_max(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """The largest F1 score that any threshold reaches, in [0, 1]."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = np.maximum(precision + recall, np.finfo(float).tiny)
    return float((2 * precision * recall / total).max())


def evaluate_pixels(
    masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.float32]], max_false_positive_rate: float = 0.3
) -> PixelMetrics:
    """Compute the pixel metrics of masks and maps (H, W), which hold anomalous and nominal pixels.

    AUPRO is the area under the per-region overlap curve up to a false-positive rate, divided by that rate. The
    overlap at a threshold is the share of each connected anomalous region (8-neighbourhood) above it, averaged over
    regions, so a small defect counts as much as a large one (Bergmann et al. 2020): the true-positive rate of a ROC
    curve in which each anomalous pixel weighs 1 / (pixels of its region).
    """
    truth = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    weights = np.concatenate([_region_weights(mask) for mask in masks])
    # Curves rise at the scores of anomalous pixels, which are few; the nominal ones are sorted once and counted there.
    nominal = np.sort(scores[~truth])
    thresholds, level = np.unique(scores[truth], return_inverse=True)
    found = np.cumsum(np.bincount(level)[::-1])  # anomalous pixels at or above each threshold, from the highest down
    overlap = np.cumsum(np.bincount(level, weights)[::-1])
    above = (len(nominal) - np.searchsorted(nominal, thresholds, side="right"))[::-1]  # nominal pixels
    reached = (len(nominal) - np.searchsorted(nominal, thresholds, side="left"))[::-1]

    recall, precision = found / found[-1], found / (found + reached)
    rates = np.append(np.column_stack([above, reached]).ravel() / len(nominal), 1)  # ties make a slanted step

    def curve(rising: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(np.column_stack([np.append(0, rising[:-1]), rising]).ravel(), 1)

    overlaps = curve(overlap / overlap[-1])
    inside = rates <= max_false_positive_rate
    at_limit = np.interp(max_false_positive_rate, rates, overlaps)
    area = np.trapezoid(np.append(overlaps[inside], at_limit), np.append(rates[inside], max_false_positive_rate))
    return PixelMetrics(
        auroc=float(np.trapezoid(curve(recall), rates)),
        ap=float(np.sum(np.diff(recall, prepend=0) * precision)),
        aupro=float(area / max_false_positive_rate),
    )


def _region_weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / (pixels of its region) for each anomalous pixel, row by row: (pixels,)."""
    regions, _ = connected_components(mask, structure=_EVERY_NEIGHBOUR)
    return 1 / np.bincount(regions.ravel())[regions[mask]]
