"""Half-precision points and distances, for other kernels."""

import os
import platform
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.extending import intrinsic

from softpatch.memory.kernels.compiling import compiled


@compiled
def widened_by_bits(half):  # type: ignore[no-untyped-def]
    """The float32 value of the bits of a float16; of an infinite one 65536."""
    bits = np.uint32(half)
    sign_and_magnitude = np.uint32(((bits & np.uint32(0x8000)) << 16) | ((bits & np.uint32(0x7FFF)) << 13))
    return sign_and_magnitude.view(np.float32) * np.float32(2.0**112)  # the exponents' biases differ by 112


@intrinsic
def widened_at_once(_context: Any, _half: Any) -> Any:
    """The same, and infinity of an infinite one, in one instruction of the processor."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), generate


def _widens_at_once() -> bool:
    """Whether the processor has that instruction; small ones, such as Atoms, have not."""
    if "NUMBA_CPU_NAME" in os.environ or "NUMBA_CPU_FEATURES" in os.environ:  # compile for another processor
        return False
    return platform.machine().lower() in ("arm64", "aarch64") or get_host_cpu_features().get("f16c", False)


widened: Any = widened_at_once if _widens_at_once() else widened_by_bits


@compiled
def largest_of(values):  # type: ignore[no-untyped-def]
    """The largest of float32 values (n,), many at once, as their `max` is not found."""
    largest = np.float32(-np.inf)
    for n in range(len(values)):
        largest = max(largest, values[n])
    return largest


@compiled
def place_of_least(values):  # type: ignore[no-untyped-def]
    """Where the least of float32 values (n,) is last found; 0 where all are NaN."""
    least = np.float32(np.inf)
    for n in range(len(values)):
        least = min(least, values[n])
    place = np.int32(0)
    for n in range(np.int32(len(values))):  # many at once, which a loop that may end early is not
        place = max(place, np.int32(n) if values[n] == least else np.int32(0))
    return place


@compiled
def squared_distance(bits, point, values, place):  # type: ignore[no-untyped-def]
    """The squared Euclidean distance of a row of float16 `bits` (M, D) and one of float32 `values` (n, D).

    By difference. Whole arrays and places in them, here and elsewhere: a row would be counted as one more reference to
    the array.
    """
    total = np.float32(0)
    for j in range(bits.shape[1]):
        total += (widened(bits[point, j]) - values[place, j]) ** 2
    return total
