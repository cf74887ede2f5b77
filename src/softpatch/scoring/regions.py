"""Where on an anomaly map the defects of an anomalous image are."""

import numpy as np
from numpy.typing import NDArray

_PEAK_SIDE = 1 / 28  # of the map: a patch of the usual grid


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
    reach = max(1, round(max(anomaly_map.shape) * _PEAK_SIDE / 2))
    region[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach] = True
    return region
