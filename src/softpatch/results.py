"""What a detector says of an image."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softpatch.config import Verdict
from softpatch.data.framing import Framing
from softpatch.errors import InputError
from softpatch.scoring.regions import Box, Region, connected_regions, contours, defect_mask

UNLIKE_SHARE, UNLIKE_MEDIAN = 0.15, 0.8
"""An image is unlike the training images where more than this share of its anomaly map exceeds the map threshold, or
the map's median is more than this much of it. Measured on products given to the models of others (docs/lab)."""


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The answer for one image.

    `image_score` >= 0 is the largest patch score; higher means more anomalous. `is_anomalous` says that it exceeds
    `threshold`; `verdict` tells those below it that exceed `check_threshold` from good ones. `peak_x`, `peak_y` are the
    centre of the patch with the largest score, in pixels of the original image of `width` x `height`. `anomaly_map` is
    float32 (H, W), with a pixel for each of the crop, or for 4 x 4 of a tiled image (`Framing.map_shape`), and
    `map_threshold` is to it what `threshold` is to the image score.
    `is_unlike_training` says that so much of the image is beyond what was learned that it may show another product, or
    the same in another light. `map_quartile` is the lower quartile of the map, of where it is looked at: how unlike the
    training images the image is as a whole, which a defect hardly moves (see `softpatch.scoring.drift`).
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
    map_quartile: float
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
        """Where the defects are: bool, of the shape of the map. Of an anomalous image never empty, of another always.

        See `softpatch.scoring.regions.defect_mask`.
        """
        if not self.is_anomalous:
            return np.zeros(self.anomaly_map.shape, dtype=np.bool_)
        return defect_mask(self.anomaly_map, self.map_threshold, self._peak)

    @property
    def box(self) -> Box | None:
        """The region that made the score: left, top, right and bottom in pixels of the original image.

        The last two are the first pixels beyond it. None unless the image is anomalous.
        """
        if not self.is_anomalous:
            return None
        x, y = self._peak_at_size(self.width, self.height)
        return next(
            box
            for box, region in connected_regions(self.mask_at_original_size())
            if box[0] <= x < box[2] and box[1] <= y < box[3] and region[y - box[1], x - box[0]]
        )

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
        """The anomaly map over the original image: float32 (height, width), NaN where it is not looked at."""
        return self.framing.map_to_original(self.anomaly_map, self.width, self.height)

    def mask_at_original_size(self) -> NDArray[np.bool_]:
        """The mask over the original image: bool (height, width)."""
        return self.mask_at_size(self.width, self.height)

    def mask_at_size(self, width: int, height: int) -> NDArray[np.bool_]:
        """The mask over the image at another size: bool (height, width), of an anomalous image never empty.

        It holds the pixel of the peak, however small the image is.
        """
        mask = self.framing.mask_to_original(self.mask, width, height)
        if self.is_anomalous:
            _include(mask, *self._peak_at_size(width, height))
        return mask

    def regions(self, *, min_area: int = 0) -> list[Region]:
        """The connected regions of the mask over the original image, highest peak first.

        Together they are `mask_at_original_size()`; one is the region that made the score, whose box is `box`, though
        its peak need not be the highest. None unless the image is anomalous. Those of fewer than `min_area` >= 0 pixels
        are left out. Raises `InputError` for a negative `min_area`.
        """
        if min_area < 0:
            raise InputError(f"`min_area` is {min_area!r}; give a number of pixels, 0 or more")
        found = [self._region(*each) for each in connected_regions(self.mask_at_original_size())]
        return sorted(
            (region for region in found if region.area >= min_area),
            key=lambda region: (-region.peak, region.peak_y, region.peak_x),
        )

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
            "width": self.width,
            "height": self.height,
            "is_unlike_training": self.is_unlike_training,
            "map_quartile": round(self.map_quartile, 6),
        }

    def __repr__(self) -> str:
        scores = f"image_score={self.image_score:.4g}, threshold={self.threshold:.4g}"
        return f"Prediction({self.path!r}, {self.verdict}, {scores})"

    @property
    def _peak(self) -> tuple[int, int]:
        x, y = self.framing.from_original(self.peak_x, self.peak_y, self.width, self.height)
        return y, x

    def _peak_at_size(self, width: int, height: int) -> tuple[int, int]:
        """The pixel (x, y) of the peak where the image has another size, within what the crop covers."""
        left, top, right, bottom = self.framing.covered(width, height)
        x, y = (self.peak_x + 0.5) * width / self.width, (self.peak_y + 0.5) * height / self.height
        return min(max(int(x), left), right - 1), min(max(int(y), top), bottom - 1)

    def _region(self, box: Box, region: NDArray[np.bool_]) -> Region:
        values = self.framing.map_in_box(self.anomaly_map, box, self.width, self.height)
        row, column = np.unravel_index(np.where(region, values, -np.inf).argmax(), region.shape)
        return Region(
            box=box,
            area=int(region.sum()),
            contours=contours(region, box[0], box[1]),
            peak=float(values[row, column]),
            mean=float(values[region].mean()),
            peak_x=int(column) + box[0],
            peak_y=int(row) + box[1],
        )


def _include(mask: NDArray[np.bool_], column: int, row: int) -> None:
    """Make a pixel true, and what joins it to the nearest one that it touches, if only at a corner."""
    if mask[row, column]:
        return
    top, left = max(0, row - 1), max(0, column - 1)
    touching = np.argwhere(mask[top : row + 2, left : column + 2]) + np.array([top, left])
    y, x = min(touching.tolist(), key=lambda each: abs(each[0] - row) + abs(each[1] - column), default=(row, column))
    mask[min(y, row) : max(y, row) + 1, min(x, column) : max(x, column) + 1] = True


def is_unlike_training(
    anomaly_map: NDArray[np.float32], map_threshold: float, inside: NDArray[np.bool_] | None = None
) -> bool:
    """Whether an anomaly map (H, W) is high nearly everywhere, beside the calibrated threshold of maps.

    Where only a part of it is looked at, `inside` (H, W), that part counts.
    """
    some = _looked_at(anomaly_map, inside)
    return bool((some > map_threshold).mean() > UNLIKE_SHARE or np.median(some) > UNLIKE_MEDIAN * map_threshold)


def map_quartile(anomaly_map: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> float:
    """The lower quartile of an anomaly map (H, W), of the part `inside` (H, W) where only that is looked at."""
    return float(np.quantile(_looked_at(anomaly_map, inside), 0.25))


def _looked_at(anomaly_map: NDArray[np.float32], inside: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Values enough for quantiles: the map is smooth."""
    return anomaly_map[::4, ::4] if inside is None else anomaly_map[inside]
