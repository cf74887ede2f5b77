"""From patch scores to an anomaly map: upsampled to pixels and smoothed."""

from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def anomaly_maps(patch_scores: Tensor, shape: tuple[int, int], sigma: float) -> Tensor:
    """Upsample patch scores (B, H, W) bilinearly and smooth them with a Gaussian: float32 maps (B, *shape).

    `sigma` is in pixels of the map; borders are mirrored. Both steps are linear and separable, so together they
    are one small matrix per axis.
    """
    rows, columns = (
        upsample_and_smooth(grid, size, sigma).to(patch_scores.device)
        for grid, size in zip(patch_scores.shape[1:], shape, strict=True)
    )
    return rows @ patch_scores @ columns.T


@cache
def upsample_and_smooth(grid: int, size: int, sigma: float) -> Tensor:
    """The matrix (size, grid) that interpolates along one axis, then smooths."""
    upsampled = F.interpolate(torch.eye(grid)[None], size=size, mode="linear", align_corners=False)[0].T
    return _smoothing(size, sigma) @ upsampled if sigma else upsampled


def _smoothing(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) of a Gaussian that ends at 4 sigma, along an axis that is mirrored at its ends.

    It is that of SciPy's `gaussian_filter1d`, whose import takes a third of a second.
    """
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / sigma).double().square())
    places = (torch.arange(size)[:, None] + offsets) % (2 * size)
    places = torch.minimum(places, 2 * size - 1 - places)  # past its ends the axis runs backwards
    smoothing = torch.zeros(size, size, dtype=torch.float64)
    return smoothing.scatter_add_(1, places, (weights / weights.sum()).expand(size, -1)).float()
