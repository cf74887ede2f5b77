"""Compiled arithmetic on float16 bits, for all of them."""

from collections.abc import Callable

import numpy as np
import pytest

from softpatch.memory.kernels.compiling import compiled
from softpatch.memory.kernels.distances import place_of_least, widened, widened_at_once, widened_by_bits

EVERY = np.arange(2**16, dtype=np.uint16)
FINITE = EVERY[np.isfinite(EVERY.view(np.float16))]


@pytest.mark.parametrize(
    "widen",
    [
        widened_by_bits,
        pytest.param(
            widened_at_once,
            marks=pytest.mark.skipif(widened is widened_by_bits, reason="the processor has no such instruction"),
        ),
    ],
)
def test_float16_is_widened_exactly(widen: Callable[[np.uint16], np.float32]) -> None:
    @compiled
    def widen_all(bits: np.ndarray, values: np.ndarray) -> None:
        for n in range(len(bits)):
            values[n] = widen(bits[n])

    values = np.empty(len(FINITE), np.float32)
    widen_all(FINITE, values)
    np.testing.assert_array_equal(values, FINITE.view(np.float16).astype(np.float32))


def test_the_place_of_the_least() -> None:
    assert place_of_least(np.array([3, -1, 2], np.float32)) == 1
    assert place_of_least(np.array([3, np.inf, 2], np.float32)) == 2
    assert place_of_least(np.array([np.inf, np.inf], np.float32)) in (0, 1)
