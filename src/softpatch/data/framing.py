"""What of an image the network sees, and where its pixels lie in the original."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from softpatch.config import Settings
from softpatch.data.roi import roi_mask
from softpatch.errors import InputError

_GREY = 0.5
_Image = TypeVar("_Image", Tensor, NDArray[np.bool_])


@dataclass(frozen=True)
class Framing:
    """Resize every image to `resize` x `resize` pixels, then keep the centre `crop` x `crop`.

    The aspect ratio is not kept: each grid position then means the same place on every image, whatever its
    size. Where there is a region of interest (`softpatch.data.roi`), all else is painted grey, so that nothing
    depends on it.
    """

    resize: int
    crop: int
    roi: str | None = None

    def __post_init__(self) -> None:
        if self.resize < 32 or not 32 <= self.crop <= self.resize:
            raise InputError(
                f"`resize` {self.resize} and `crop` {self.crop} do not go together; crop is 32 to resize pixels"
            )

    @classmethod
    def of(cls, settings: Settings) -> "Framing":
        """The framing that a detector's settings ask for."""
        return cls(settings.resize, settings.crop, settings.roi)

    @cached_property
    def inside(self) -> NDArray[np.bool_] | None:
        """Where the crop is looked at: bool (crop, crop), None for everywhere."""
        return None if self.roi is None else self._crop(roi_mask(self.roi, self.resize, self.resize))

    @property
    def margin(self) -> int:
        """Pixels of the resized image left of and above the crop."""
        return (self.resize - self.crop) // 2

    def apply(self, image: Tensor) -> Tensor:
        """Resize (antialiased bilinear) and crop an image: (3, H, W) -> (3, crop, crop), values in [0, 1]."""
        size = (self.resize, self.resize)
        if image.shape[1:] != size:
            height, width = image.shape[1:]
            if width < self.resize < height:  # width first, as torch does it, would take memory for the whole height
                width = max(width, 2)  # torch does not average a single column rightly
                image = _resized(image.expand(-1, -1, width), (self.resize, width))
            image = _resized(image, size).clamp_(0, 1)
        image = self._crop(image)
        return image if self.inside is None else torch.where(torch.from_numpy(self.inside), image, _GREY)

    def apply_to_mask(self, mask: Tensor) -> Tensor:
        """Resize and crop a boolean mask: (H, W) -> (crop, crop), true where any pixel in a cell is.

        A defect is not lost, however thin, but for what lies outside the region of interest.
        """
        size = (self.resize, self.resize)
        if mask.shape != size:
            height, width = mask.shape
            larger = (max(height, self.resize), max(width, self.resize))
            values = F.interpolate(mask[None, None].float(), size=larger, mode="nearest-exact")
            mask = F.adaptive_max_pool2d(values, size)[0, 0] > 0.5
        mask = self._crop(mask)
        return mask if self.inside is None else mask & torch.from_numpy(self.inside)

    def within(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Anomaly maps (N, crop, crop) with 0 outside the region of interest."""
        return maps if self.inside is None else np.where(self.inside, maps, np.float32(0))

    def nearest_inside(self, position: int, grid: tuple[int, int]) -> int:
        """The position in a patch grid (H, W) nearest to the given one whose patch shows the region of interest."""
        if self.inside is None:
            return position
        rows, columns = _nearest_cells(self.roi, self.resize, self.crop, grid)
        row, column = divmod(position, grid[1])
        return int(rows[row, column]) * grid[1] + int(columns[row, column])

    def to_original(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        """Map a point of the crop to the original image, and never beyond; pixel centres are at whole numbers."""
        x_original = (x + self.margin + 0.5) * width / self.resize - 0.5
        y_original = (y + self.margin + 0.5) * height / self.resize - 0.5
        return min(max(x_original, 0.0), width - 1.0), min(max(y_original, 0.0), height - 1.0)

    def patch_to_original(self, position: int, grid: tuple[int, int], width: int, height: int) -> tuple[float, float]:
        """The centre of a patch in the original image, given its position (row-major) in a patch grid (H, W)."""
        rows, columns = grid
        row, column = divmod(position, columns)
        x, y = (column + 0.5) * self.crop / columns - 0.5, (row + 0.5) * self.crop / rows - 0.5
        return self.to_original(x, y, width, height)

    def patch_from_original(self, x: float, y: float, grid: tuple[int, int], width: int, height: int) -> int:
        """The position of the patch in a patch grid (H, W) that shows a point of the original image."""
        rows, columns = grid
        x_crop, y_crop = self.from_original(x, y, width, height)
        return (y_crop * rows // self.crop) * columns + x_crop * columns // self.crop

    def from_original(self, x: float, y: float, width: int, height: int) -> tuple[int, int]:
        """The pixel (x, y) of the crop that shows a point of the original image, or the nearest to it."""
        x_crop, y_crop = (
            round((place + 0.5) * self.resize / side - 0.5) - self.margin for place, side in ((x, width), (y, height))
        )
        return min(max(x_crop, 0), self.crop - 1), min(max(y_crop, 0), self.crop - 1)

    def covered(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The pixels of the original image that the crop covers, rounded, at least one: left, top, right and bottom.

        The last two are the first beyond.
        """
        left, top = (round(self.margin * side / self.resize) for side in (width, height))
        right, bottom = (round((self.margin + self.crop) * side / self.resize) for side in (width, height))
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def map_to_original(self, anomaly_map: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
        """Bring a map of the crop (crop, crop) to the original size (height, width), bilinear.

        Pixels outside the crop and the region of interest, which the network never saw, are NaN.
        """
        left, top, right, bottom = self.covered(width, height)
        whole = np.full((height, width), np.nan, dtype=np.float32)
        inside = F.interpolate(
            torch.from_numpy(anomaly_map)[None, None],
            size=(bottom - top, right - left),
            mode="bilinear",
            align_corners=False,
        )
        whole[top:bottom, left:right] = inside[0, 0].numpy()
        if self.roi is not None:
            whole[~roi_mask(self.roi, width, height)] = np.nan
        return whole

    def map_in_box(
        self, anomaly_map: NDArray[np.float32], box: tuple[int, int, int, int], width: int, height: int
    ) -> NDArray[np.float32]:
        """What `map_to_original` has in a box of pixels that the crop covers: float32 (bottom - top, right - left)."""
        left, top, right, bottom = self.covered(width, height)
        rows = _stretched(anomaly_map, bottom - top, slice(box[1] - top, box[3] - top))
        return _stretched(rows.T, right - left, slice(box[0] - left, box[2] - left)).T

    def mask_to_original(self, mask: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
        """Bring a mask of the crop (crop, crop) to the original size (height, width), bilinear, true above a half.

        Of an original smaller than the crop, what lies between the pixels that are looked at is lost.
        """
        left, top, right, bottom = self.covered(width, height)
        values = mask.astype(np.float32)
        x = np.flatnonzero(_stretched(values.max(axis=0, keepdims=True).T, right - left) > 0.5)
        y = np.flatnonzero(_stretched(values.max(axis=1, keepdims=True), bottom - top) > 0.5)
        whole = np.zeros((height, width), dtype=np.bool_)
        if len(x) and len(y):  # most of a large image is not reached
            left, right, top, bottom = x[0] + left, x[-1] + 1 + left, y[0] + top, y[-1] + 1 + top
            whole[top:bottom, left:right] = self.map_in_box(values, (left, top, right, bottom), width, height) > 0.5
        return whole

    def _crop(self, image: _Image) -> _Image:
        start, stop = self.margin, self.margin + self.crop
        return image[..., start:stop, start:stop]


@lru_cache(8)
def _nearest_cells(roi: str, resize: int, crop: int, grid: tuple[int, int]) -> NDArray[np.intp]:
    """Of each cell of a grid (H, W) the nearest that shows some of the region of interest: its row and column."""
    from scipy.ndimage import distance_transform_edt  # a third of a second's import

    inside = torch.from_numpy(Framing(resize, crop, roi).inside)
    shown = F.adaptive_max_pool2d(inside[None, None].float(), grid)[0, 0].numpy() > 0
    return np.asarray(distance_transform_edt(~shown, return_distances=False, return_indices=True), dtype=np.intp)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def _stretched(values: NDArray[np.float32], size: int, places: slice = slice(None)) -> NDArray[np.float32]:
    """Rows of `values` (n, ...) stretched to `size` rows, bilinear, of which those at `places` are computed."""
    position = np.maximum((np.arange(size)[places] + 0.5) * len(values) / size - 0.5, 0)
    before = position.astype(np.intp)
    share = (position - before).astype(np.float32)[:, None]
    return values[before] * (1 - share) + values[np.minimum(before + 1, len(values) - 1)] * share
