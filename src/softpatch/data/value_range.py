"""Which values of images of more than 8 bits mean black and white, where the files do not say so.

Cameras of 10, 12 or 14 bits write files of 16, which are nearly black where white is taken to be 65,535.
"""

from collections.abc import Sequence
from dataclasses import replace

from softpatch.data.decode import may_be_deep
from softpatch.data.images import ImageRef, readable, some_of
from softpatch.data.pixels import UNSCALED, ValueRange

_SAMPLE = 16  # images
_PIXELS = 300_000  # of an image, about
_RARE = 1e-4  # share of the pixels beyond which values are those of broken ones
_DEPTHS = (8, 10, 12, 14, 16)  # bits
_ROOM = 0.1  # of the range beyond values that no depth explains


def find_value_range(refs: Sequence[ImageRef]) -> ValueRange | None:
    """The range of values that a sample of images uses, or None where each says what its white is.

    Looked at are images of more than 8 bits whose depth is not stated, and floats beyond 0 to 1, but for the lowest and
    highest ten-thousandth of the pixels. The range begins at 0 and ends at white of the least depth that holds
    them: 8, 10, 12, 14 or 16 bits. Values below 0 or above 65,535 have a tenth of room on either side. Images that
    cannot be read are passed over.
    """
    lowest, highest = [], []
    deep = (ref for ref in some_of(refs, _SAMPLE) if ref.path is None or may_be_deep(ref.path))
    for values in readable(replace(ref, value_range=UNSCALED) for ref in deep):
        step = max(1, round((values[0].numel() / _PIXELS) ** 0.5))
        ordered = values[:, ::step, ::step].flatten().sort().values
        if not 0 <= ordered[0] <= ordered[-1] <= 1:
            beyond = int(_RARE * len(ordered))
            lowest.append(float(ordered[beyond]))
            highest.append(float(ordered[-1 - beyond]))
    if not highest:
        return None
    low, high = min(lowest), max(highest)
    whites = [2.0**depth - 1 for depth in _DEPTHS]
    if low >= 0 and high <= whites[-1]:
        return 0.0, next(white for white in whites if high <= white)
    room = _ROOM * (high - low) or 1.0
    return _rounded(low - room), _rounded(high + room)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
