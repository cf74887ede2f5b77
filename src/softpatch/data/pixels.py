"""Pixels of any depth, as they are decoded, become RGB between 0 and 1."""

from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softpatch.errors import ImageError

ValueRange = tuple[float, float]
"""The values of black and white in images of more than 8 bits; what lies beyond is black or white."""
UNSCALED: ValueRange = (-inf, inf)
"""Leaves values as they are where the file does not say what white is."""
WHITE = 65535  # of integers whose depth is not stated


def pixels_tensor(pixels: NDArray[np.generic], value_range: ValueRange | None = None) -> Tensor:
    """Convert pixels (H, W), (H, W, 1) or (H, W, 3) of 8 or 16 bits or floats to RGB float32 (3, H, W) in [0, 1].

    Floats are in [0, 1] already. Raises `ImageError` where they leave their range.
    """
    return upright_rgb(pixels, None, value_range=value_range if pixels.dtype.kind in "iu" else None)


def upright(pixels: NDArray[np.generic], orientation: object) -> NDArray[np.generic]:
    """Turn pixels (H, W) or (H, W, C) as an EXIF orientation says; anything but 2 to 8 leaves them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def upright_rgb(
    pixels: NDArray[np.generic], orientation: object, top: int = WHITE, value_range: ValueRange | None = None
) -> Tensor:
    """Turn pixels (H, W) or (H, W, 3) upright and scale them to float32 (3, H, W) in [0, 1].

    `top` is the value of white among integers of more than 8 bits where no `value_range` is given.
    """
    if pixels.size == 0:
        raise ImageError("the image has no pixels")
    scaled = _unit_range(np.atleast_3d(upright(pixels, orientation)), top, value_range)
    channels = scaled.permute(2, 0, 1)  # (1 or 3, H, W)
    return channels if len(channels) == 3 else channels.repeat(3, 1, 1)


def _unit_range(pixels: NDArray[np.generic], top: int, value_range: ValueRange | None) -> Tensor:
    """8-, 16- and 32-bit or float pixels to float32 in [0, 1], of the same shape."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        values = torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))
    if pixels.dtype == np.uint8:
        return values.div_(255)
    if pixels.dtype == np.int8 or pixels.dtype.kind == "c":
        raise ImageError(f"the image holds {pixels.dtype} values; save it with unsigned integers or floats")
    if not torch.isfinite(values).all():
        raise ImageError("the image holds values that are not finite numbers")
    if value_range == UNSCALED:
        return values / top if pixels.dtype.kind in "iu" and top != WHITE else values
    if value_range is not None:
        black, white = value_range
        return values.sub_(black).div_(white - black).clamp_(0, 1)
    if pixels.dtype.kind in "iu":
        values /= top
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            f"pixel values run from {pixels.min()} to {pixels.max()}; "
            f"images of this kind hold 0 to {top if pixels.dtype.kind in 'iu' else 1}, unless `value_range` says else"
        )
    return values
