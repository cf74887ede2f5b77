"""What a detector says of an image."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from softpatch.data.framing import Framing

UNLIKE_SHARE, UNLIKE_MEDIAN = 0.15, 0.8
"""An image is unlike the training images where more than this share of its anomaly map exceeds the map threshold, or
the map's median is more than this much of it. Measured on products given to the models of others (docs/lab)."""
Verdict = Literal["good", "check", "anomalous"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one image.

    `image_score` >= 0 is the largest patch score; higher means more anomalous. `is_anomalous` says that it exceeds
    `threshold`; `verdict` tells those below it that exceed `check_threshold` from good ones. `peak_x`, `peak_y` are the
    centre of the patch with the largest score, in pixels of the original image of `width` x `height`. `anomaly_map` is
    float32 (crop, crop); values above `map_threshold` outline defects. `is_unlike_training` says that so much of the
    image is beyond what was learned that it may show another product, or the same in another light.
    """

    path: str
    image_score: float
    threshold: float
    check_threshold: float
    peak_x: float
    peak_y: float
    width: int
    height: int
    anomaly_map: Tensor
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

    def map_at_original_size(self) -> Tensor:
        """The anomaly map over the original image: float32 (height, width), NaN where the crop does not reach."""
        return self.framing.map_to_original(self.anomaly_map, self.width, self.height)


def is_unlike_training(anomaly_map: Tensor, map_threshold: float) -> bool:
    """Whether an anomaly map (crop, crop) is high nearly everywhere, beside the calibrated threshold of maps."""
    some = anomaly_map[::4, ::4]  # it is smooth
    return bool((some > map_threshold).float().mean() > UNLIKE_SHARE or some.median() > UNLIKE_MEDIAN * map_threshold)
