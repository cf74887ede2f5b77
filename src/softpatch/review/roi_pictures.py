"""A proposed region of interest to be looked at: the mask, to be painted over, and images as they would be seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from softpatch.atomic import replacing
from softpatch.data.images import ImageRef, readable, some_of
from softpatch.data.roi import packed_roi, roi_mask
from softpatch.errors import InputError
from softpatch.review.pictures import overlay

_SHOWN = 6  # images
_SIDE, _GAP = 320, 8  # pixels, of the longer side of each


def write_proposal(refs: Sequence[ImageRef], region: NDArray[np.bool_], mask: Path, preview: Path) -> None:
    """Write a region, bool (256, 256), as a mask of the size of the images, and how it lies on some of them.

    Raises `InputError` where none of those can be read.
    """
    images = list(readable(some_of(refs, _SHOWN)))
    if not images:
        raise InputError("none of the images that were tried can be read, so no region of interest can be shown")
    roi = packed_roi(region)
    height, width = images[0].shape[1:]
    views = [_view(image, roi) for image in images]
    canvas = Image.new("RGB", (len(views) * (_SIDE + _GAP) - _GAP, max(view.height for view in views)), "white")
    for number, view in enumerate(views):
        canvas.paste(view, (number * (_SIDE + _GAP), 0))
    with replacing(preview) as temporary:
        canvas.save(temporary, format="PNG")
    with replacing(mask) as temporary:
        Image.fromarray(roi_mask(roi, width, height).astype(np.uint8) * 255).save(temporary, format="PNG")


def _view(image: Tensor, roi: str) -> Image.Image:
    height, width = image.shape[1:]
    scale = _SIDE / max(height, width)
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    small = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    looked_at = roi_mask(roi, size[1], size[0])
    unseen = np.where(looked_at, np.float32(0), np.float32(np.nan))
    return Image.fromarray(overlay(small, unseen, 1.0, np.zeros_like(looked_at)))
