"""Where on an anomaly map the defects of an anomalous image are, and the regions of a mask with their contours."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels; the last two are the first beyond."""
Contour = tuple[tuple[int, int], ...]
"""The corners (x, y) of a closed polygon along the edges of pixels: pixel (0, 0) lies between (0, 0) and (1, 1)."""

_PEAK_SIDE, _MOST_PIXELS = 1 / 28, 8  # of the map, and of its pixels at most: a patch of the usual grid


@dataclass(frozen=True)
class Region:
    """A connected region of the outlined defects of an image, in pixels of the original.

    `area` pixels lie within `box`. `contours` are simple polygons around exactly these pixels, the outer boundary first
    (clockwise as seen, its last corner joined to the first), then one around each hole, the other way round. `peak` is
    the largest value of the anomaly map in the region, at the pixel `peak_x`, `peak_y`, and `mean` that of its pixels.
    """

    box: Box
    area: int
    contours: tuple[Contour, ...]
    peak: float
    mean: float
    peak_x: int
    peak_y: int

    def as_dict(self) -> dict[str, Any]:
        """What a table says of the region, in numbers and lists of them."""
        return {**asdict(self), "peak": round(self.peak, 6), "mean": round(self.mean, 6)}


def defect_mask(anomaly_map: NDArray[np.float32], map_threshold: float, peak: tuple[int, int]) -> NDArray[np.bool_]:
    """Outline the defects of an image that is called anomalous: bool (H, W), never empty.

    `anomaly_map` is float32 (H, W) and `peak` (row, column) the place of the patch that made the image score. Defects
    are where the map exceeds `map_threshold`, and the region around the peak (see `region_at`), which need not exceed
    it: the image score is calibrated apart from the map.
    """
    mask: NDArray[np.bool_] = (anomaly_map > map_threshold) | region_at(anomaly_map, map_threshold, peak)
    return mask


def region_at(anomaly_map: NDArray[np.float32], map_threshold: float, peak: tuple[int, int]) -> NDArray[np.bool_]:
    """The connected region of an anomaly map (H, W) that holds `peak` (row, column): bool (H, W), never empty.

    It is where the map exceeds `map_threshold`, or half of the height of the peak's value above the map's median,
    whichever is lower. On a map that is no higher there than its median it is a patch.
    """
    row, column = peak
    value, median = float(anomaly_map[row, column]), float(np.median(anomaly_map))
    level = min(map_threshold, (value + median) / 2)
    if value > level:
        from scipy.ndimage import label  # a third of a second's import

        regions, _ = label(anomaly_map > level)
        found: NDArray[np.bool_] = regions == regions[row, column]
        return found
    region = np.zeros(anomaly_map.shape, dtype=np.bool_)
    reach = max(1, round(min(max(anomaly_map.shape) * _PEAK_SIDE, _MOST_PIXELS) / 2))
    region[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = True
    return region


def connected_regions(mask: NDArray[np.bool_]) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """The connected regions of a mask (H, W), whose pixels have sides in common: each in its box, bool (h, w)."""
    from scipy.ndimage import find_objects, label  # a third of a second's import

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    top, left = int(rows[0]), int(columns[0])
    labels, _ = label(mask[top : rows[-1] + 1, left : columns[-1] + 1])  # most of a large image holds none
    for number, (y, x) in enumerate(find_objects(labels), start=1):
        yield (x.start + left, y.start + top, x.stop + left, y.stop + top), labels[y, x] == number


def contours(region: NDArray[np.bool_], left: int = 0, top: int = 0) -> tuple[Contour, ...]:
    """The polygons around a connected region (H, W) whose top left pixel is at (`left`, `top`), the outer one first.

    Where pixels of the region meet at a corner alone, a polygon passes it on either side, so that none touches itself.
    """
    sides = _sides(region)
    found = []
    while sides:
        start, heading = next(iter(sides))  # at first the top left corner of the topmost pixel
        corners = [start]
        while (corner := sides.pop((corners[-1], heading))) != start:
            corners.append(corner)
            to_the_left = heading[1], -heading[0]
            heading = to_the_left if (corner, to_the_left) in sides else (-heading[1], heading[0])
        found.append(tuple((x + left, y + top) for x, y in corners))
    return tuple(found)


def _sides(region: NDArray[np.bool_]) -> dict[tuple[tuple[int, int], tuple[int, int]], tuple[int, int]]:
    """The straight sides of a region's polygons, with the region to their right: (begin, heading) to end."""
    padded = np.pad(region, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0), np.diff(padded, axis=1).T  # 1 into the region, -1 out of it
    sides = {((first, y), (1, 0)): (last, y) for y, first, last in _runs(down == 1)}
    sides |= {((last, y), (-1, 0)): (first, y) for y, first, last in _runs(down == -1)}
    sides |= {((x, last), (0, -1)): (x, first) for x, first, last in _runs(right == 1)}
    sides |= {((x, first), (0, 1)): (x, last) for x, first, last in _runs(right == -1)}
    return sides


def _runs(here: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """The runs of true values in rows that begin and end with false: the row, where it begins, and where it ends."""
    changes = np.diff(here.astype(np.int8), axis=1)
    rows, first = (changes == 1).nonzero()
    _, last = (changes == -1).nonzero()
    return zip(rows.tolist(), first.tolist(), last.tolist(), strict=True)
