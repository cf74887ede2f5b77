"""What the search and the coreset have in common: half-precision points, distances, and bounds on distances.

A point is described by its coordinates along a few principal axes and the norm of what they leave. By Cauchy-Schwarz
two points are at least as far apart as these descriptions are.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_FLOATS = {"reassoc", "contract", "nsz", "nnan"}  # lets sums and minima be vectorised


SLACK = np.float32(1e-4)
"""Of a squared bound, and"""
ROUNDING = 1e-8
"""of the largest squared norm: together far more than the rounding of a bound."""


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


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, in about a second. Nothing is kept on disk: numba's cache is unpickled when read."""
    return numba.njit(nogil=True, fastmath=_FLOATS)(function)


@compiled
def widened(bits):  # type: ignore[no-untyped-def]
    """The float32 value of the bits of a finite float16."""
    sign_and_magnitude = np.uint32(((bits & np.uint32(0x8000)) << 16) | ((bits & np.uint32(0x7FFF)) << 13))
    return sign_and_magnitude.view(np.float32) * np.float32(2.0**112)  # the exponents' biases differ by 112


@compiled
def largest_of(values):  # type: ignore[no-untyped-def]
    """The largest of float32 values (n,), many at once, as their `max` is not found."""
    largest = np.float32(-np.inf)
    for n in range(len(values)):
        largest = max(largest, values[n])
    return largest


@compiled
def place_of_least(values):  # type: ignore[no-untyped-def]
    """Where the least of float32 values (n,) is first found."""
    least = np.float32(np.inf)
    for n in range(len(values)):
        least = min(least, values[n])
    for n in range(len(values)):
        if values[n] == least:
            return n
    return 0


@compiled
def squared_distance(a, b):  # type: ignore[no-untyped-def]
    """The squared Euclidean distance of two float32 vectors of equal length, by difference."""
    total = np.float32(0)
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total


@compiled
def squared_distance_to_half(bits, b):  # type: ignore[no-untyped-def]
    """The same for a vector of float16 bits and one of float32."""
    total = np.float32(0)
    for j in range(len(bits)):
        total += (widened(np.uint32(bits[j])) - b[j]) ** 2
    return total
