"""Images that are in memory already: what of them is one image and what a batch, and how each becomes a tensor."""

from functools import partial
from typing import TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from softpatch.data.decode import rgb_tensor
from softpatch.data.images import ImageRef
from softpatch.data.pixels import pixels_tensor
from softpatch.errors import InputError

Frame = Image.Image | np.ndarray | Tensor
"""One image in memory, in RGB order: a PIL image; an array (H, W), (H, W, 1) or (H, W, 3) of uint8, uint16, or floats
in [0, 1]; or a tensor (H, W), (1, H, W) or (3, H, W) of uint8, or floats in [0, 1]. Arrays and tensors of one more
dimension are batches of them."""
_DEPTHS = (np.uint8, np.uint16, np.float16, np.float32, np.float64)


def is_frame(images: object) -> TypeGuard[Frame]:
    """Whether this is one image in memory, rather than a batch or anything else."""
    return isinstance(images, Image.Image) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4)


def frame_refs(frames: Frame, start: int = 0) -> tuple[ImageRef, ...]:
    """Name one image in memory, or each of a batch: "image 0", "image 1" and so on from `start`.

    Raises `InputError` for an array or tensor of another shape or dtype than `Frame` says, or floats out of range.
    """
    if isinstance(frames, Image.Image):
        return (ImageRef(f"image {start}", partial(rgb_tensor, frames)),)
    pixels = _of_tensor(frames) if isinstance(frames, Tensor) else _of_array(frames)
    if pixels.dtype.kind == "f" and pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"an image of floats holds values in [0, 1], not {pixels.min():g} to {pixels.max():g}; "
            "divide 8-bit values by 255"
        )
    batch = pixels if pixels.ndim == 4 else pixels[None]
    return tuple(ImageRef(f"image {start + i}", partial(pixels_tensor, image)) for i, image in enumerate(batch))


def _of_array(array: np.ndarray) -> np.ndarray:
    """An array (H, W), (H, W, C) or (N, H, W, C) of values that an image can have."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("an image array has no masked values; fill them first")
    if not _is_image_shape(array.shape[-3:] if array.ndim > 2 else (*array.shape, 1)) or array.dtype not in _DEPTHS:
        raise InputError(
            f"an image array is (H, W) or (H, W, 3), and a batch (N, H, W, 3), of uint8, uint16 or floats, "
            f"not {array.shape} {array.dtype}"
        )
    return array


def _of_tensor(tensor: Tensor) -> np.ndarray:
    """The same of a tensor, whose channels come first."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise InputError("an image tensor holds its values itself; give one that is not sparse, nested or meta")
    shape = tuple(tensor.shape)
    known = tensor.is_floating_point() or tensor.dtype == torch.uint8
    if not _is_image_shape((*shape[-2:], shape[-3]) if tensor.ndim > 2 else (*shape, 1)) or not known:
        raise InputError(
            f"an image tensor is (H, W) or (3, H, W), and a batch (N, 3, H, W), of uint8 or floats, "
            f"not {shape} {tensor.dtype}"
        )
    last = tensor if tensor.ndim == 2 else tensor.movedim(-3, -1)
    pixels: np.ndarray = (last if tensor.dtype == torch.uint8 else last.float()).detach().cpu().numpy()
    return pixels


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    """Whether this is (height, width, channels) of an image."""
    return len(shape) == 3 and min(shape) > 0 and shape[2] in (1, 3)
