"""What the search and the coreset have in common: half-precision points, distances, and bounds on distances.

A point is described by its coordinates along a few principal axes and the norm of what they leave. By Cauchy-Schwarz
two points are at least as far apart as these descriptions are.
"""

import numpy as np
import torch
from torch import Tensor

SLACK = np.float32(1e-4)
"""Of a squared bound: far more than its rounding, beside what is in proportion to the norms."""


def sample_of(count: int) -> slice:
    """Which of `count` points to compute axes from: evenly spaced, 4096 at most. Any axes are right, these are good."""
    return slice(None, None, -(-count // 4096))


def principal_axes(points: Tensor, mean: Tensor, count: int) -> Tensor:
    """Orthonormal axes (D, count) along which points (M, D) vary most from `mean` (D,)."""
    centred = points.double() - mean
    axes: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
    return axes[:, :count].float().contiguous()


def leading_coordinates(centred: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of float32 points (M, D) along axes (D, h), and the norm of what they leave: (M, h) and (M,)."""
    leading = centred @ axes
    return leading, torch.linalg.vector_norm(centred - leading @ axes.T, dim=1)


def half_bits(points: Tensor) -> np.ndarray:
    """The bits of float16 points on the CPU, as compiled code takes them: uint16 of the same shape, not a copy."""
    bits: np.ndarray = points.numpy().view(np.uint16)
    return bits
