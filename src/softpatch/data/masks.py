"""Masks: which pixels of an image are anomalous, whatever the file that says so, and what looks like such a file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from softpatch.data.decode import opened, rgb_tensor, upright
from softpatch.errors import ImageError

_LOSSY = ("JPEG", "WEBP", "JPEG2000")
_FEW_LEVELS = 4
_NEAR = 12  # grey levels that lossy compression moves a flat area by
_MOSTLY = 0.97
_ENDING = re.compile(
    r"[-_. ](mask|masks|gt|label|labels|seg|segmentation|annotation|groundtruth|truth)$", re.IGNORECASE
)
_BEGINNING = re.compile(r"^(mask|gt|label|seg|segmentation|annotation|groundtruth|truth)[-_. ]", re.IGNORECASE)


def read_mask(path: Path) -> Tensor:
    """Read where a mask says that its image is anomalous: bool (H, W), upright by its EXIF orientation.

    Any colour but black is anomalous, whatever its value and depth, and what is transparent is not; where all that is
    not transparent is black, that is what was drawn. Of a lossy format what exceeds half of its largest value is.
    Raises `ImageError` for a file that cannot be read.
    """
    with opened(path) as image:
        if isinstance(image, Tensor):
            return image.amax(dim=0) > 0
        orientation, is_lossy = image.getexif().get(0x0112), _format(path) in _LOSSY
        image.load()
        if image.mode.startswith(("I", "F")):
            return rgb_tensor(image).amax(dim=0) > 0  # turned already
        seen = np.ones(image.size[::-1], dtype=bool)  # (H, W)
        if image.has_transparency_data:
            layer = np.asarray(image.convert("RGBA"))
            values, seen = layer[..., :3].max(axis=2), layer[..., 3] > 127
        else:
            values = np.asarray(image.convert("RGB")).max(axis=2)
        marked_pixels = (values > (values.max(initial=0) // 2 if is_lossy else 0)) & seen
        if not marked_pixels.any() and not seen.all():
            marked_pixels = seen
        return torch.from_numpy(upright(marked_pixels, orientation).copy())


def _format(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(b"\xff\xd8"):
        return "JPEG"
    if start.startswith(b"RIFF"):
        return "WEBP"
    return "JPEG2000" if start.startswith((b"\0\0\0\x0cjP", b"\xff\x4f")) else ""


def looks_like_mask(path: Path) -> bool:
    """Whether an image is flat areas of few grey levels, black the most frequent or the only other: no photograph.

    False for a file that cannot be read.
    """
    try:
        with opened(path) as image:
            grey = image.amax(dim=0).mul(255).round().byte().numpy() if isinstance(image, Tensor) else _greys(image)
    except ImageError:
        return False
    counts = np.bincount(grey.ravel(), minlength=256)
    explained = np.zeros(256, dtype=bool)
    for _ in range(_FEW_LEVELS):
        peak = int(np.where(explained, 0, counts).argmax())
        explained[max(0, peak - _NEAR) : peak + _NEAR + 1] = True
    is_flat = counts[explained].sum() >= _MOSTLY * grey.size
    return bool(is_flat and (counts[: _NEAR + 1].sum() > 0.2 * grey.size or (counts > 0).sum() <= 2))


def _greys(image: Image.Image) -> NDArray[np.uint8]:
    """The largest of the channels (H, W), deep values brought to 8 bits by their own maximum; clear pixels are 0."""
    image.load()
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0).clip(0, None)
        values *= 255 / max(values.max(initial=0.0), 1e-300)
    elif image.has_transparency_data:
        layer = np.asarray(image.convert("RGBA"))
        values = np.where(layer[..., 3] > 127, layer[..., :3].max(axis=2), 0)
    else:
        values = np.asarray(image.convert("RGB")).max(axis=2)
    return values.astype(np.uint8)


def stem_of_image(stem: str) -> str:
    """The stem of the image that a mask's name is made of: `000_mask`, `000_GT` and `label_000` give `000`."""
    return _BEGINNING.sub("", _ENDING.sub("", stem))


def match_masks(images: Iterable[Path], masks: Sequence[Path]) -> tuple[dict[Path, tuple[Path, ...]], list[Path]]:
    """Find the masks of images by their names: masks by image, and those that match none.

    A mask has its image's stem, with something before or behind it that begins or ends with no letter or digit
    (`000_mask.png`, `000_GT.PNG`, `label-000.bmp`), or lies in a folder of that name (`000/001.png`).
    Of several stems that fit, the longest is meant.
    """
    by_stem = {image.stem.casefold(): image for image in images}
    found: dict[Path, list[Path]] = {image: [] for image in by_stem.values()}
    unmatched = []
    for mask in masks:
        image = _image_of(mask, by_stem)
        if image is None:
            unmatched.append(mask)
        else:
            found[image].append(mask)
    return {image: tuple(sorted(paths)) for image, paths in found.items()}, unmatched


def _image_of(mask: Path, by_stem: Mapping[str, Path]) -> Path | None:
    stem, folder = mask.stem.casefold(), mask.parent.name.casefold()
    if folder in by_stem and folder != by_stem[folder].parent.name.casefold():
        return by_stem[folder]
    for name in (stem, stem_of_image(stem)):
        if name in by_stem:
            return by_stem[name]
    cuts = [place for place in range(1, len(stem)) if not stem[place].isalnum()]
    parts = [stem[:place] for place in reversed(cuts)] + [stem[place + 1 :] for place in cuts]
    return next((by_stem[part] for part in parts if part in by_stem), None)
