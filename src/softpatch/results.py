"""What a detector says of an image."""

from dataclasses import dataclass

from torch import Tensor

from softpatch.data.framing import Framing


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one image.

    `image_score` >= 0 is the largest patch score; higher means more anomalous. `is_anomalous` says that it exceeds
    `threshold`. `peak_x`, `peak_y` are the centre of the patch with the largest score, in pixels of the original
    image of `width` x `height`. `anomaly_map` is float32 (crop, crop); values above `map_threshold` outline defects.
    """

    path: str
    image_score: float
    threshold: float
    peak_x: float
    peak_y: float
    width: int
    height: int
    anomaly_map: Tensor
    map_threshold: float
    framing: Framing

    @property
    def is_anomalous(self) -> bool:
        """Whether the image score exceeds the threshold."""
        return self.image_score > self.threshold

    def map_at_original_size(self) -> Tensor:
        """The anomaly map over the original image: float32 (height, width), NaN where the crop does not reach."""
        return self.framing.map_to_original(self.anomaly_map, self.width, self.height)
