"""How much a drawn image looks like what it was drawn from: multi-scale structural similarity (Wang et al. 2003) and
absolute difference, as one number and as a map. Images are float32 (B, 3, side, side) in [0, 1]."""

from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

STRUCTURE = 0.85
"""Weight of 1 - MS-SSIM in the reconstruction error; the rest is that of the absolute difference (Chen et al. 2022)."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the image at full, half, ... size (Wang et al. 2003)."""
DEVIATION, LUMINANCE, CONTRAST = 1.5, 0.01**2, 0.03**2
"""Of the Gaussian window, in px, and the constants that keep quotients finite (Wang et al. 2004)."""


def reconstruction_errors(images: Tensor, drawn: Tensor, window: int) -> Tensor:
    """0.85 (1 - MS-SSIM) + 0.15 mean absolute difference of each pair: (B,)."""
    difference = (images - drawn).abs().mean(dim=(1, 2, 3))
    return STRUCTURE * (1 - ms_ssim(images, drawn, window)) + (1 - STRUCTURE) * difference


def error_maps(images: Tensor, drawn: Tensor, window: int) -> Tensor:
    """The same in every pixel, where MS-SSIM becomes the weighted mean of the scales: (B, side, side), 0 or more."""
    side, margin = images.shape[-1], window // 2
    structure = torch.zeros_like(images)
    for weight, each in zip(scale_weights(side, window), similarities(images, drawn, window), strict=True):
        padded = F.pad(each, (margin,) * 4, mode="replicate")
        structure += weight * F.interpolate(padded, size=(side, side), mode="bilinear")
    errors = STRUCTURE * (1 - structure) + (1 - STRUCTURE) * (images - drawn).abs()
    return errors.mean(dim=1).clamp_min(0)


def ms_ssim(one: Tensor, other: Tensor, window: int) -> Tensor:
    """The product of all scales' mean similarity, each to the power of its weight; the mean over channels: (B,)."""
    found, weights = similarities(one, other, window), scale_weights(one.shape[-1], window)
    means = [each.mean(dim=(2, 3)).clamp_min(1e-4) for each in found]  # the power of 0 has no gradient
    return torch.stack([mean**weight for mean, weight in zip(means, weights, strict=True)]).prod(dim=0).mean(dim=1)


def scale_weights(side: int, window: int) -> tuple[float, ...]:
    """The weights of those scales in which the window has room, which sum to 1."""
    used = [weight for scale, weight in enumerate(SCALE_WEIGHTS) if side >> scale >= window]
    return tuple(weight / sum(used) for weight in used)


def similarities(one: Tensor, other: Tensor, window: int) -> list[Tensor]:
    """Contrast and structure in every window of each scale (B, 3, h, w); luminance too in the last, which is SSIM."""
    found, count = [], len(scale_weights(one.shape[-1], window))
    for scale in range(count):
        blur = _blur(one.shape[-1], window).to(one.device)
        moments = torch.stack([one, other, one * one, other * other, one * other])
        mean, other_mean, square, other_square, product = blur @ moments @ blur.T
        covariance = product - mean * other_mean
        variances = square - mean.square() + other_square - other_mean.square()
        similar = (2 * covariance + CONTRAST) / (variances + CONTRAST)
        if scale == count - 1:
            squares = mean.square() + other_mean.square()
            similar = similar * (2 * mean * other_mean + LUMINANCE) / (squares + LUMINANCE)
        found.append(similar)
        one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    return found


@cache
def _blur(side: int, window: int) -> Tensor:
    """The matrix (side - window + 1, side) that takes the Gaussian mean of every window along one axis."""
    places = torch.arange(window) - (window - 1) / 2
    gaussian = torch.exp(-0.5 * (places / DEVIATION).square())
    matrix = torch.zeros(side - window + 1, side)
    for row in range(len(matrix)):
        matrix[row, row : row + window] = gaussian / gaussian.sum()
    return matrix
