"""How well scores and maps separate nominal from anomalous, given the truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected_components
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

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
    pixel: list[float | None] = [None, None, None]
    if masks and maps:
        truth = np.concatenate([mask.ravel() for mask in masks])
        scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
        if truth.any() and not truth.all():
            pixel = [
                float(roc_auc_score(truth, scores)),
                float(average_precision_score(truth, scores)),
                aupro(masks, maps),
            ]
    return Metrics(*image, *pixel)


def f1_max(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """The largest F1 score that any threshold reaches, in [0, 1]."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = np.maximum(precision + recall, np.finfo(float).tiny)
    return float((2 * precision * recall / total).max())


def aupro(
    masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.float32]], max_false_positive_rate: float = 0.3
) -> float:
    """Area under the per-region overlap curve up to a false-positive rate, divided by that rate: in [0, 1].

    The per-region overlap at a threshold is the share of each connected anomalous region (8-neighbourhood) above it,
    averaged over regions, so a small defect counts as much as a large one (Bergmann et al. 2020). It is the
    true-positive rate of a ROC curve in which each anomalous pixel weighs 1 / (pixels of its region).
    """
    weights = np.concatenate([_pixel_weights(mask).ravel() for mask in masks])
    truth = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    false_positives, overlap, _ = roc_curve(truth, scores, sample_weight=weights, drop_intermediate=True)
    inside = false_positives <= max_false_positive_rate
    at_limit = np.interp(max_false_positive_rate, false_positives, overlap)
    x = np.append(false_positives[inside], max_false_positive_rate)
    y = np.append(overlap[inside], at_limit)
    return float(np.trapezoid(y, x) / max_false_positive_rate)


def _pixel_weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 for nominal pixels, 1 / (pixels of the region) for anomalous ones: (H, W)."""
    regions, _ = connected_components(mask, structure=_EVERY_NEIGHBOUR)
    pixels = np.bincount(regions.ravel())
    weights = 1 / pixels[regions]
    weights[~mask] = 1
    return weights
