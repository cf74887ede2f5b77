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
from softpatch.data.registration import inverted, moved
from softpatch.data.roi import roi_mask
from softpatch.errors import InputError

MAP_STEP = 4
"""Pixels of tiled images for a pixel of their maps, which a cell of 8 or 16 has no more to say of."""
GREY = 0.5
Size = tuple[int, int]
"""Width and height in pixels."""
_Image = TypeVar("_Image", Tensor, NDArray[np.bool_])


@dataclass(frozen=True)
class Framing:
    """Resize every image to `size`, then keep the centre, `crop`, both (width, height) in pixels.

    Each grid position then means the same place on every image, whatever its size. A map or a mask of the crop has a
    pixel for every `step` x `step` of it. Where there is a region of interest (`softpatch.data.roi`), all else is
    painted grey, so that nothing depends on it.
    """

    size: Size
    crop: Size
    step: int = 1
    roi: str | None = None

    def __post_init__(self) -> None:
        for size, crop in zip(self.size, self.crop, strict=True):
            if size < 32 or not 32 <= crop <= size or crop % self.step or (size - crop) // 2 % self.step:
                raise InputError(
                    f"images of {size} pixels and a crop of {crop} do not go together; it is 32 to {size} pixels"
                )

    @classmethod
    def square(cls, resize: int, crop: int, roi: str | None = None) -> "Framing":
        """Images squeezed to `resize` x `resize` pixels, of which the centre `crop` x `crop` is looked at."""
        return cls((resize, resize), (crop, crop), roi=roi)

    @classmethod
    def of(cls, settings: Settings) -> "Framing":
        """The framing that settings ask for. Raises `InputError` where the size of tiled images is not known yet."""
        if settings.tile is None:
            return cls.square(settings.resize, settings.seen_side, settings.roi)
        if settings.size is None:
            raise InputError("`size` of tiled images is not known; a fit finds it")
        width, height = settings.size
        return cls((width, height), (width, height), MAP_STEP, settings.roi)

    @property
    def map_shape(self) -> tuple[int, int]:
        """The rows and columns of a map of the crop."""
        return self.crop[1] // self.step, self.crop[0] // self.step

    @cached_property
    def inside(self) -> NDArray[np.bool_] | None:
        """Where a map is looked at: bool of the shape of maps, None for everywhere."""
        return None if self.roi is None else self._cropped_roi(self.step)

    @cached_property
    def looked_at(self) -> NDArray[np.bool_] | None:
        """Where an image is looked at: bool of the shape of the crop (h, w), None for everywhere."""
        return None if self.roi is None else self._cropped_roi(1)

    @property
    def margin(self) -> Size:
        """Pixels of the resized image left of the crop, and above it."""
        return (self.size[0] - self.crop[0]) // 2, (self.size[1] - self.crop[1]) // 2

    def apply(self, image: Tensor) -> Tensor:
        """Resize (antialiased bilinear) and crop an image: (3, H, W) in [0, 1], of which the crop's pixels are left."""
        return self.cropped(self.resized(image))

    def resized(self, image: Tensor) -> Tensor:
        """Bring an image (3, H, W) to `size`."""
        columns, rows = self.size
        if image.shape[1:] != (rows, columns):
            height, width = image.shape[1:]
            if width < columns and rows < height:  # width first, as torch does it, would take memory for all the height
                width = max(width, 2)  # torch does not average a single column rightly
                image = _resized(image.expand(-1, -1, width), (rows, width))
            image = _resized(image, (rows, columns)).clamp_(0, 1)
        return image

    def cropped(self, images: Tensor) -> Tensor:
        """The centre of resized images (..., 3, H, W), grey outside the region of interest."""
        image = self._crop(images, 1)
        return image if self.looked_at is None else torch.where(torch.from_numpy(self.looked_at), image, GREY)

    def apply_to_mask(self, mask: Tensor) -> Tensor:
        """Resize and crop a boolean mask (H, W) to the shape of maps, true where any pixel in a cell is.

        A defect is not lost, however thin, but for what lies outside the region of interest.
        """
        size = (self.size[1] // self.step, self.size[0] // self.step)
        if mask.shape != size:
            height, width = mask.shape
            larger = (max(height, size[0]), max(width, size[1]))
            values = F.interpolate(mask[None, None].float(), size=larger, mode="nearest-exact")
            mask = F.adaptive_max_pool2d(values, size)[0, 0] > 0.5
        mask = self._crop(mask, self.step)
        return mask if self.inside is None else mask & torch.from_numpy(self.inside)

    def within(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Anomaly maps (N, ...) with 0 outside the region of interest."""
        return maps if self.inside is None else np.where(self.inside, maps, np.float32(0))

    def nearest_inside(self, position: int, grid: tuple[int, int]) -> int:
        """The position in a patch grid (H, W) nearest to the given one whose patch shows the region of interest."""
        if self.inside is None:
            return position
        rows, columns = _nearest_cells(self, grid)
        row, column = divmod(position, grid[1])
        return int(rows[row, column]) * grid[1] + int(columns[row, column])

    def to_original(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        """Bring a point of a map to the original image, and never beyond; pixel centres are at whole numbers."""
        x_original, y_original = (
            ((place + 0.5) * self.step + margin) * side / size - 0.5
            for place, margin, side, size in zip((x, y), self.margin, (width, height), self.size, strict=True)
        )
        return min(max(x_original, 0.0), width - 1.0), min(max(y_original, 0.0), height - 1.0)

    def patch_to_original(
        self, position: int, grid: tuple[int, int], width: int, height: int, pose: Tensor | None = None
    ) -> tuple[float, float]:
        """The centre of a patch in the original image, given its position (row-major) in a patch grid (H, W).

        The image was seen through a `pose` (2, 3), or as it lies.
        """
        place = divmod(position, grid[1])
        y, x = ((at + 0.5) * side / count - 0.5 for at, side, count in zip(place, self.map_shape, grid, strict=True))
        return self.to_original(*self._through(pose, x, y), width, height)

    def patch_from_original(
        self, x: float, y: float, grid: tuple[int, int], width: int, height: int, pose: Tensor | None = None
    ) -> int:
        """The position of the patch in a patch grid (H, W) that shows a point of the original image, or is nearest."""
        (rows, columns), (map_rows, map_columns) = grid, self.map_shape
        map_x, map_y = self.from_original(x, y, width, height)
        if pose is not None:
            there = self._through(inverted(pose[None])[0], map_x, map_y)
            map_x, map_y = (
                min(max(round(at), 0), side - 1) for at, side in zip(there, (map_columns, map_rows), strict=True)
            )
        return (map_y * rows // map_rows) * columns + map_x * columns // map_columns

    def from_original(self, x: float, y: float, width: int, height: int) -> tuple[int, int]:
        """The pixel (x, y) of a map that shows a point of the original image, or the nearest to it."""
        map_x, map_y = (
            round(((place + 0.5) * size / side - margin) / self.step - 0.5)
            for place, margin, side, size in zip((x, y), self.margin, (width, height), self.size, strict=True)
        )
        rows, columns = self.map_shape
        return min(max(map_x, 0), columns - 1), min(max(map_y, 0), rows - 1)

    def covered(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The pixels of the original image that the crop covers, rounded, at least one: left, top, right and bottom.

        The last two are the first beyond.
        """
        sides = list(zip(self.margin, self.crop, (width, height), self.size, strict=True))
        left, top = (round(margin * side / size) for margin, _, side, size in sides)
        right, bottom = (round((margin + crop) * side / size) for margin, crop, side, size in sides)
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def map_to_original(self, anomaly_map: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
        """Bring a map of the crop to the original size (height, width), bilinear.

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
        """Bring a mask of the crop to the original size (height, width), bilinear, true above a half.

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

    def maps_as_they_lie(self, maps: NDArray[np.float32], poses: Tensor) -> NDArray[np.float32]:
        """Maps (N, ...) of images seen through poses (N, 2, 3), as the images lie; 0 where they were not looked at."""
        back = self._of_crop(inverted(poses))
        return moved(torch.from_numpy(maps)[:, None], back, beyond="zeros")[:, 0].numpy()

    def _of_crop(self, poses: Tensor) -> Tensor:
        """Poses (N, 2, 3) in half sides of the crop in place of the whole image."""
        shares = torch.tensor([size / crop for size, crop in zip(self.size, self.crop, strict=True)])
        scaled = poses.clone()
        scaled[:, :, 2] *= shares
        scaled[:, :, :2] *= shares[:, None] / shares
        return scaled

    def _through(self, pose: Tensor | None, x: float, y: float) -> tuple[float, float]:
        """Where a point of a map of an image seen through a pose is on a map of the image as it lies."""
        if pose is None:
            return x, y
        rows, columns = self.map_shape
        place = torch.tensor([(x + 0.5) * 2 / columns - 1, (y + 0.5) * 2 / rows - 1, 1.0])
        there_x, there_y = (self._of_crop(pose[None])[0] @ place).tolist()
        return (there_x + 1) * columns / 2 - 0.5, (there_y + 1) * rows / 2 - 0.5

    def _crop(self, image: _Image, step: int) -> _Image:
        (left, top), (width, height) = self.margin, self.crop
        return image[..., top // step : (top + height) // step, left // step : (left + width) // step]

    def _cropped_roi(self, step: int) -> NDArray[np.bool_]:
        return self._crop(roi_mask(self.roi or "", self.size[0] // step, self.size[1] // step), step)


@lru_cache(8)
def _nearest_cells(framing: Framing, grid: tuple[int, int]) -> NDArray[np.intp]:
    """Of each cell of a grid (H, W) the nearest that shows some of the region of interest: its row and column."""
    from scipy.ndimage import distance_transform_edt  # a third of a second's import

    inside = torch.from_numpy(framing.inside)
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
