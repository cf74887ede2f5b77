"""Anomaly maps as files: float TIFF for programs, overlays for people."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import Tensor

from softpatch.atomic import replacing
from softpatch.results import Prediction, mask_to_original

_OUTLINE = np.array([1.0, 1.0, 1.0])
_FRAME = (217, 0, 13)
_LARGEST_OVERLAY = 16_000_000  # pixels
_OPACITY = 0.75
_FAINTEST, _STRONGEST = 0.7, 1.7  # where the colours begin and end, in map thresholds


def save_map(prediction: Prediction, path: Path) -> None:
    """Write the anomaly map at the original size as a float32 TIFF (height, width), NaN outside the crop."""
    pixels = prediction.map_at_original_size()
    with replacing(path) as temporary:
        tifffile.imwrite(temporary, pixels, compression="zlib")


def save_overlay(image: Tensor, prediction: Prediction, path: Path) -> None:
    """Write the image (3, height, width) in [0, 1] with its heat map over it, as PNG (see `overlay`).

    A red frame marks an image that is called anomalous. An image of more than 16 million pixels is drawn smaller.
    """
    image = _at_most(image, _LARGEST_OVERLAY)
    height, width = image.shape[1:]
    anomaly_map = prediction.framing.map_to_original(prediction.anomaly_map, width, height)
    mask = mask_to_original(prediction.framing, prediction.mask, width, height)
    pixels = overlay(image, anomaly_map, prediction.map_threshold, mask)
    if prediction.is_anomalous:
        width = max(2, round(max(pixels.shape) / 100))
        inside = pixels[width:-width, width:-width].copy()
        pixels[:] = _FRAME
        pixels[width:-width, width:-width] = inside
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _at_most(image: Tensor, pixels: int) -> Tensor:
    """An image (3, H, W) whose sides are divided by the least whole number that leaves at most so many pixels."""
    factor = math.ceil(math.sqrt(image.shape[1] * image.shape[2] / pixels))
    return image if factor <= 1 else F.avg_pool2d(image, factor)


def overlay(
    image: Tensor, anomaly_map: NDArray[np.float32], map_threshold: float, mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Lay a heat map over an image (3, H, W) in [0, 1]: uint8 (H, W, 3).

    The scale is the same for every image of a detector: colours begin at 0.7 times the map threshold and are strongest
    at 1.7 times; a white line runs around what `mask`, bool (H, W), holds. `anomaly_map` (H, W) may hold NaN, which
    stays untinted.
    """
    heat = np.nan_to_num(anomaly_map) / max(map_threshold, 1e-12)
    tinted = tint(image, (heat - _FAINTEST) / (_STRONGEST - _FAINTEST))
    thickness = max(1, round(max(mask.shape) / 400))
    tinted[mask & ~binary_erosion(mask, iterations=thickness)] = _OUTLINE
    pixels: NDArray[np.uint8] = np.rint(np.clip(tinted, 0, 1) * 255).astype(np.uint8)
    return pixels


def colour_scale(maps: Sequence[NDArray[np.floating]]) -> tuple[float, float]:
    """Where a method's colours begin and end: what 3 % and 0.1 % of the pixels of all its maps (H, W) exceed."""
    low, high = np.quantile(np.concatenate([each.ravel() for each in maps]), [0.97, 0.999])
    return float(low), float(high)


def tint(image: Tensor, strength: NDArray[np.floating]) -> NDArray[np.floating]:
    """Lay heat colours over an image (3, H, W) in [0, 1], by strength (H, W), cut to [0, 1]: (H, W, 3) in [0, 1]."""
    strength = np.clip(strength, 0, 1)
    opacity = _OPACITY * np.sqrt(strength)[..., None]
    tinted: NDArray[np.floating] = image.permute(1, 2, 0).numpy() * (1 - opacity) + heat_colours(strength) * opacity
    return tinted


def heat_colours(strength: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colour strengths (...) in [0, 1] from yellow over orange to red: (..., 3) in [0, 1]."""
    stops = np.array([[1.0, 0.9, 0.2], [1.0, 0.55, 0.0], [0.85, 0.0, 0.05]])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, places, stops[:, channel]) for channel in range(3)], axis=-1)
