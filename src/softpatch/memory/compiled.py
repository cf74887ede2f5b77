"""What the compiled loops of the search and of the coreset have in common."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_FLOATS = {"reassoc", "contract", "nsz", "nnan"}  # lets sums and minima be vectorised


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, in about a second. Nothing is kept on disk: numba's cache is unpickled when read."""
    return numba.njit(nogil=True, fastmath=_FLOATS)(function)


@compiled
def squared_distance(a, b):  # type: ignore[no-untyped-def]
    """The squared Euclidean distance of two vectors of equal length, by difference."""
    total = np.float32(0)
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total
