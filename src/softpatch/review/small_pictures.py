"""Small pictures for pages: an image, its heat map, and regions beside what they should look like."""

import io
import math

import numpy as np
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from softpatch.results import Prediction
from softpatch.review.pictures import heat_layer, under_heat
from softpatch.scoring.regions import Box

_HEAT_SIDE = 112  # pixels; the map is smooth, and browsers enlarge it smoothly
_QUALITY = 82  # of JPEG
_CROP_SIDE = 192  # pixels
_AROUND, _SMALLEST_SHARE = 1.6, 0.08  # how far a crop reaches beyond its region, and of the image's shorter side
_SMALLEST_CROP = 32  # pixels


def small_picture(image: Tensor, side: int) -> bytes:
    """An image (3, H, W) in [0, 1] as JPEG whose longer side has at most so many pixels."""
    pixels = _at_most(image, side).mul(255).round().byte().permute(1, 2, 0).numpy()
    return _encoded(pixels, "JPEG", quality=_QUALITY)


def small_overlay(image: Tensor, prediction: Prediction, side: int) -> bytes:
    """As `small_picture`, under the heat map and with outlines (see `softpatch.review.pictures.overlay`)."""
    return _encoded(under_heat(_at_most(image, side), prediction), "JPEG", quality=_QUALITY)


def small_heat(prediction: Prediction) -> bytes | None:
    """The heat map of an image as PNG, to be laid over it at any size; None where it would show nothing."""
    width, height = _fitting(prediction.width, prediction.height, _HEAT_SIDE)
    anomaly_map = prediction.framing.map_to_original(prediction.anomaly_map, width, height)
    layer = heat_layer(anomaly_map, prediction.map_threshold)
    return _encoded(layer, "PNG", optimize=True) if layer[..., 3].any() else None


def crop_around(box: Box, like: Box, width: int, height: int) -> Box:
    """What a crop of an image of `width` x `height` pixels shows around a box, as large as one around `like` would be.

    A crop of a region and one of its counterpart then have the same scale. It lies within the image, is a square where
    that is wide enough, and holds more than `like` so that a person sees where it is.
    """
    side = math.ceil(_AROUND * max(like[2] - like[0], like[3] - like[1]))
    side = max(side, round(_SMALLEST_SHARE * min(width, height)), _SMALLEST_CROP)
    left, right = _around((box[0] + box[2]) / 2, side, width)
    top, bottom = _around((box[1] + box[3]) / 2, side, height)
    return left, top, right, bottom


def crop_picture(image: Tensor, box: Box) -> bytes:
    """What lies in a box of an image (3, H, W) in [0, 1], as JPEG of at most 192 pixels."""
    left, top, right, bottom = box
    return small_picture(image[:, top:bottom, left:right], _CROP_SIDE)


def _around(centre: float, side: int, extent: int) -> tuple[int, int]:
    first = min(max(0, round(centre - side / 2)), max(0, extent - side))
    return first, min(first + side, extent)


def _fitting(width: int, height: int, side: int) -> tuple[int, int]:
    """The width and height of a picture whose longer side has at most `side` pixels."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _at_most(image: Tensor, side: int) -> Tensor:
    width, height = _fitting(image.shape[2], image.shape[1], side)
    if (height, width) == image.shape[1:]:
        return image
    smaller = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]
    return smaller.clamp_(0, 1)


def _encoded(pixels: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **options)
    return file.getvalue()
