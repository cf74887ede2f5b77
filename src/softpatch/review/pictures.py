"""Predictions as pictures: a float map per image, and the image beside its heat map, on one scale of colours."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from softpatch.atomic import replacing
from softpatch.config import OVERLAY_STYLES, OverlayStyle, Verdict
from softpatch.results import Prediction

_LARGEST_OVERLAY = 16_000_000  # pixels
_SMALLEST_SIDE = 256  # of a panel, in pixels; smaller images are enlarged
_OPACITY = 0.65  # the defect stays visible beneath
_FAINTEST, _STRONGEST = 0.7, 1.7  # where the colours begin and end, in map thresholds
_COLOURS = "plasma"  # perceptually uniform; its dark rim shows on pale products and its bright middle on dark ones
_RAMP = (0.1, 0.95)  # the part of it that is used
_UNSEEN, _HATCHING = 0.45, 0.2  # how far what is not looked at fades into grey, and how lines over it differ
_VERDICT_COLOURS: dict[Verdict, tuple[int, int, int]] = {  # of Okabe and Ito, told apart by the colour-blind
    "good": (0, 110, 80),
    "check": (230, 159, 0),
    "anomalous": (196, 78, 0),
}


def save_map(prediction: Prediction, path: Path) -> None:
    """Write the anomaly map at the original size as a float32 TIFF (height, width), NaN outside the crop."""
    pixels = prediction.map_at_original_size()
    with replacing(path) as temporary:
        tifffile.imwrite(temporary, pixels, compression="zlib")


def save_overlay(image: Tensor, prediction: Prediction, path: Path, *, style: OverlayStyle = OVERLAY_STYLES[0]) -> None:
    """Write the image (3, height, width) in [0, 1] with its heat map over it, as PNG (see `overlay`).

    "side-by-side" is the image, the same under the heat map, and a colour bar, below a strip that says the verdict, the
    score and the threshold; "plain" the heat map over the image alone. An image of more than 16 million pixels is
    drawn smaller, and a small one larger unless plain.
    """
    image = _at_most(image, _LARGEST_OVERLAY)
    if style != "plain":
        image = _at_least(image, _SMALLEST_SIDE)
    drawn = Image.fromarray(under_heat(image, prediction))
    if style != "plain":
        drawn = _with_caption(Image.fromarray(_pixels(image.permute(1, 2, 0).numpy())), drawn, prediction)
    with replacing(path) as temporary:
        drawn.save(temporary, format="PNG")


def under_heat(image: Tensor, prediction: Prediction) -> NDArray[np.uint8]:
    """An image (3, H, W) in [0, 1], at whatever size, under its heat map (see `overlay`): uint8 (H, W, 3)."""
    height, width = image.shape[1:]
    anomaly_map = prediction.framing.map_to_original(prediction.anomaly_map, width, height)
    return overlay(image, anomaly_map, prediction.map_threshold, prediction.mask_at_size(width, height))


def _at_most(image: Tensor, pixels: int) -> Tensor:
    """An image (3, H, W) whose sides are divided by the least whole number that leaves at most so many pixels."""
    factor = math.ceil(math.sqrt(image.shape[1] * image.shape[2] / pixels))
    return image if factor <= 1 else F.avg_pool2d(image, factor)


def _at_least(image: Tensor, side: int) -> Tensor:
    """An image (3, H, W) whose pixels are repeated until its longer side has at least `side` pixels."""
    factor = math.ceil(side / max(image.shape[1:]))
    return image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def overlay(
    image: Tensor, anomaly_map: NDArray[np.float32], map_threshold: float, mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Lay a heat map over an image (3, H, W) in [0, 1]: uint8 (H, W, 3).

    The scale is the same for every image of a detector: colours begin at 0.7 times the map threshold and are strongest
    at 1.7 times; a line, white within black, runs around what `mask`, bool (H, W), holds. Where `anomaly_map` (H, W)
    is NaN the image was not looked at, and is faded and hatched.
    """
    unseen = np.isnan(anomaly_map)
    tinted = tint(image, _strength(anomaly_map, map_threshold))
    thickness = max(1, round(max(mask.shape) / 400))
    if unseen.any():
        diagonal = np.arange(unseen.shape[0])[:, None] + np.arange(unseen.shape[1])
        hatched = unseen & (diagonal % (8 * thickness) < thickness)
        tinted[unseen] = tinted[unseen] * (1 - _UNSEEN) + 0.5 * _UNSEEN
        tinted[hatched] += np.where(tinted[hatched] > 0.5, -_HATCHING, _HATCHING)
    if mask.any():
        from scipy.ndimage import binary_dilation, binary_erosion  # a third of a second's import

        tinted[binary_dilation(mask, iterations=thickness) & ~mask] = 0
        tinted[mask & ~binary_erosion(mask, iterations=thickness)] = 1
    return _pixels(tinted)


def heat_layer(anomaly_map: NDArray[np.float32], map_threshold: float) -> NDArray[np.uint8]:
    """The heat map of `overlay` alone, to be laid over its image by whoever shows it: uint8 (H, W, 4), opacity last.

    Where `anomaly_map` (H, W) is NaN it is a half-transparent grey.
    """
    strength = np.clip(_strength(anomaly_map, map_threshold), 0, 1)
    layer = np.concatenate([heat_colours(strength), _opacity(strength)[..., None]], axis=2)
    layer[np.isnan(anomaly_map)] = (0.5, 0.5, 0.5, _UNSEEN)
    return _pixels(layer)


def _strength(anomaly_map: NDArray[np.float32], map_threshold: float) -> NDArray[np.floating]:
    """How far up the scale of colours an anomaly map is, from 0 to 1 and beyond; 0 or less where it is NaN."""
    heat = np.nan_to_num(anomaly_map) / max(map_threshold, 1e-12)
    return (heat - _FAINTEST) / (_STRONGEST - _FAINTEST)


def _opacity(strength: NDArray[np.floating]) -> NDArray[np.floating]:
    opacity: NDArray[np.floating] = _OPACITY * np.sqrt(strength)
    return opacity


def _pixels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return pixels


def _with_caption(original: Image.Image, drawn: Image.Image, prediction: Prediction) -> Image.Image:
    """The original and what was drawn over it, a colour bar beside them, and the strip above.

    They stand side by side; long strips one above the other.
    """
    width, height = drawn.size
    size = max(13, round(max(width, height) / 28))  # of letters, and all else goes with it
    gap, bar = size, size
    is_long = width > 2 * height
    right, below = (0, height + gap) if is_long else (width + gap, 0)
    bar_height = max(height + below, 5 * size)
    font = ImageFont.load_default(size)
    ticks = {part: f"{part:g} x" for part in (_FAINTEST, 1.0, _STRONGEST)}
    label = max(font.getlength(text) for text in ticks.values())
    times = f"{prediction.margin:.2f} times the" if prediction.threshold else "above the"
    text = f"score {prediction.image_score:.4g}, {times} threshold {prediction.threshold:.4g}"
    verdict = prediction.verdict.upper()
    across = round(width + right + 3 * gap + bar + gap / 2 + label)
    across = max(across, math.ceil(font.getlength(verdict) + font.getlength(text)) + 4 * gap)
    strip = 2 * size
    canvas = Image.new("RGB", (across, strip + bar_height + 2 * gap), "white")
    draw = ImageDraw.Draw(canvas)
    end = gap + font.getlength(verdict) + gap
    colour = _VERDICT_COLOURS[prediction.verdict]
    draw.rectangle((gap / 2, size / 4, end, strip - size / 4), fill=colour)
    draw.text(((gap / 2 + end) / 2, strip / 2), verdict, font=font, fill=_on(colour), anchor="mm")
    draw.text((end + gap / 2, strip / 2), text, font=font, fill="black", anchor="lm")
    canvas.paste(original, (gap, strip + gap))
    canvas.paste(drawn, (gap + right, strip + gap + below))
    left, top, bottom = 2 * gap + width + right, strip + gap, strip + gap + bar_height - 1
    ramp = heat_colours(np.linspace(1, 0, bar_height))[:, None].repeat(bar, axis=1)
    canvas.paste(Image.fromarray(_pixels(ramp)), (left, top))
    for part, tick in ticks.items():
        y = bottom - (part - _FAINTEST) / (_STRONGEST - _FAINTEST) * (bottom - top)
        draw.line((left, y, left + bar + gap / 4, y), fill="black", width=max(1, size // 12))
        y = min(max(y, top + size / 2), bottom - size / 2)
        draw.text((left + bar + gap / 2, y), tick, font=font, fill="black", anchor="lm")
    return canvas


def _on(colour: tuple[int, int, int]) -> str:
    """The colour of letters that are read on another."""
    red, green, blue = colour
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"


def colour_scale(maps: Sequence[NDArray[np.floating]]) -> tuple[float, float]:
    """Where a method's colours begin and end: what 3 % and 0.1 % of the pixels of all its maps (H, W) exceed."""
    low, high = np.quantile(np.concatenate([each.ravel() for each in maps]), [0.97, 0.999])
    return float(low), float(high)


def tint(image: Tensor, strength: NDArray[np.floating]) -> NDArray[np.floating]:
    """Lay heat colours over an image (3, H, W) in [0, 1], by strength (H, W), cut to [0, 1]: (H, W, 3) in [0, 1]."""
    strength = np.clip(strength, 0, 1)
    opacity = _opacity(strength)[..., None]
    tinted: NDArray[np.floating] = image.permute(1, 2, 0).numpy() * (1 - opacity) + heat_colours(strength) * opacity
    return tinted


def heat_colours(strength: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colour strengths (...) in [0, 1] from dark violet over orange to yellow, ever lighter: (..., 3) in [0, 1]."""
    from matplotlib import colormaps

    low, high = _RAMP
    colours: NDArray[np.floating] = colormaps[_COLOURS](low + strength * (high - low))[..., :3]
    return colours
