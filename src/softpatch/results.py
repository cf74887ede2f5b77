"""What a detector says of an image."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from softpatch.data.framing import Framing
from softpatch.scoring.regions import defect_mask, region_at

UNLIKE_SHARE, UNLIKE_MEDIAN = 0.15, 0.8
"""An image is unlike the training images where more than this share of its anomaly map exceeds the map threshold, or
the map's median is more than this much of it. Measured on products given to the models of others (docs/lab)."""
Verdict = Literal["good", "check", "anomalous"]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The answer for one image.

    `image_score` >= 0 is the largest patch score; higher means more anomalous. `is_anomalous` says that it exceeds
    `threshold`; `verdict` tells those below it that exceed `check_threshold` from good ones. `peak_x`, `peak_y` are the
    centre of the patch with the largest score, in pixels of the original image of `width` x `height`. `anomaly_map` is
    a float32 array (crop, crop), and `map_threshold` is to it what `threshold` is to the image score.
    `is_unlike_training` says that so much of the image is beyond what was learned that it may show another product, or
    the same in another light.
    """

    path: str
    image_score: float
    threshold: float
    check_threshold: float
    peak_x: float
    peak_y: float
    width: int
    height: int
    anomaly_map: NDArray[np.float32]
    map_threshold: float
    is_unlike_training: bool
    framing: Framing

    @property
    def is_anomalous(self) -> bool:
        """Whether the image score exceeds the threshold."""
        return self.image_score > self.threshold

    @property
    def verdict(self) -> Verdict:
        """ "anomalous" above the threshold, "check" between the two, "good" below both."""
        if self.is_anomalous:
            return "anomalous"
        return "check" if self.image_score > self.check_threshold else "good"

    @property
    def margin(self) -> float:
        """The image score in thresholds, above 1 where the image is anomalous; infinite at a threshold of 0."""
        return self.image_score / self.threshold if self.threshold else math.inf

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the defects are: bool (crop, crop), like the map. Of an anomalous image never empty, of another always.

        See `softpatch.scoring.regions.defect_mask`.
        """
        if not self.is_anomalous:
            return np.zeros(self.anomaly_map.shape, dtype=np.bool_)
        return defect_mask(self.anomaly_map, self.map_threshold, self._peak)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The region that made the score: left, top, right and bottom in pixels of the original image.

        The last two are the first pixels beyond it. None unless the image is anomalous.
        """
        if not self.is_anomalous:
            return None
        region = region_at(self.anomaly_map, self.map_threshold, self._peak)
        (top, bottom), (left, right) = (_extent(region, axis) for axis in (0, 1))
        return self.framing.box_to_original((left, top, right, bottom), self.width, self.height)

    @property
    def pred_score(self) -> float:
        """anomalib's name of `image_score`."""
        return self.image_score

    @property
    def pred_label(self) -> bool:
        """anomalib's name of `is_anomalous`."""
        return self.is_anomalous

    @property
    def pred_mask(self) -> NDArray[np.bool_]:
        """anomalib's name of `mask`."""
        return self.mask

    def map_at_original_size(self) -> NDArray[np.float32]:
        """The anomaly map over the original image: float32 (height, width), NaN where the crop does not reach."""
        return self.framing.map_to_original(self.anomaly_map, self.width, self.height)

    def mask_at_original_size(self) -> NDArray[np.bool_]:
        """The mask over the original image: bool (height, width)."""
        return mask_to_original(self.framing, self.mask, self.width, self.height)

    def as_dict(self) -> dict[str, Any]:
        """What a table says of the image: numbers, text, and None where there is nothing to say."""
        left, top, right, bottom = self.box or (None, None, None, None)
        return {
            "path": self.path,
            "image_score": round(self.image_score, 6),
            "threshold": round(self.threshold, 6),
            "check_threshold": round(self.check_threshold, 6),
            "margin": round(self.margin, 4) if self.threshold else None,
            "is_anomalous": self.is_anomalous,
            "verdict": self.verdict,
            "peak_x": round(self.peak_x, 1),
            "peak_y": round(self.peak_y, 1),
            "box_left": left,
            "box_top": top,
            "box_right": right,
            "box_bottom": bottom,
            "map_threshold": round(self.map_threshold, 6),
            "is_unlike_training": self.is_unlike_training,
        }

    def __repr__(self) -> str:
        scores = f"image_score={self.image_score:.4g}, threshold={self.threshold:.4g}"
        return f"Prediction({self.path!r}, {self.verdict}, {scores})"

    @property
    def _peak(self) -> tuple[int, int]:
        x, y = self.framing.from_original(self.peak_x, self.peak_y, self.width, self.height)
        return y, x


def mask_to_original(framing: Framing, mask: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    """Bring a mask of the crop (crop, crop) to the original size (height, width); one that is not empty stays so."""
    covered = np.nan_to_num(framing.map_to_original(mask.astype(np.float32), width, height))
    at_original_size: NDArray[np.bool_] = covered > min(0.5, 0.99 * float(covered.max()))
    return at_original_size


def _extent(region: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """The first place along an axis that the region reaches, and the first beyond it."""
    places = region.nonzero()[axis]
    return int(places.min()), int(places.max()) + 1


def is_unlike_training(anomaly_map: NDArray[np.float32], map_threshold: float) -> bool:
    """Whether an anomaly map (crop, crop) is high nearly everywhere, beside the calibrated threshold of maps."""
    some = anomaly_map[::4, ::4]  # it is smooth
    return bool((some > map_threshold).mean() > UNLIKE_SHARE or np.median(some) > UNLIKE_MEDIAN * map_threshold)
