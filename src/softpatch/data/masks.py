"""Masks: which pixels of an image are anomalous, whatever the file that says so, and what looks like such a file."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from softpatch.data.decode import opened, rgb_tensor
from softpatch.data.pixels import upright
from softpatch.errors import ImageError

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
BLACK: Colour = (0, 0, 0)

_FEW_LEVELS = 4
_NEAR = 12  # grey levels that lossy compression moves a flat area by
_MOSTLY = 0.97
_ALIKE = 0.8  # share of pixels that equal their neighbour; a camera's noise leaves less than a third
_RINGING = 8  # grey levels between neighbours in a flat area of a lossy format
_VALUES_OF_LABELS = 8
_ENDING = re.compile(
    r"[-_. ](mask|masks|gt|label|labels|seg|segmentation|annotation|groundtruth|truth)$", re.IGNORECASE
)
_BEGINNING = re.compile(r"^(mask|gt|label|seg|segmentation|annotation|groundtruth|truth)[-_. ]", re.IGNORECASE)


def read_mask(path: Path, background: Colour = BLACK) -> Tensor:
    """Read where a mask says that its image is anomalous: bool (H, W), upright by its EXIF orientation.

    Any colour but the `background` is anomalous, whatever its value and depth, and what is clear is not; with a black
    background, where all that is not clear is black, that is what was drawn. Of a lossy format what differs from the
    background by more than half of the largest difference is. Raises `ImageError` for a file that cannot be read.
    """
    with opened(path) as image:
        if isinstance(image, Tensor):
            return _distance(image, background) > 0
        image.load()
        if image.mode.startswith(("I", "F")):
            return _distance(rgb_tensor(image), background) > 0  # turned already
        values, seen = _values_and_alpha(image, background)
        marked = (values > _least(values, _is_lossy(image, path))) & seen
        if background == BLACK and not marked.any() and not seen.all():
            marked = seen
        if not marked.any() and _is_deep_colour(image, path):
            raise ImageError("the mask is of 16-bit colour, whose small values are lost; save it in grey")
        return torch.from_numpy(upright(marked, image.getexif().get(0x0112)).copy())


def colours_in(path: Path, colours: Sequence[Colour]) -> list[Colour]:
    """Which of these colours a mask has, compared in 8 bits. Raises `ImageError` for a file that cannot be read."""
    with opened(path) as image:
        if isinstance(image, Tensor):
            pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
        else:
            image.load()
            pixels = np.asarray(image.convert("RGB"))
    found = np.isin(_packed(np.array(colours, dtype=np.uint8)), _packed(pixels))
    return [colour for colour, is_there in zip(colours, found, strict=True) if is_there]


def _packed(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours (..., 3) as numbers (...)."""
    packed: NDArray[np.uint32] = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return packed


def _distance(image: Tensor, background: Colour) -> Tensor:
    """How far the colours of an image (3, H, W) in [0, 1] are from the background: (H, W), the largest channel's."""
    return (image - torch.tensor(background).div(255)[:, None, None]).abs().amax(dim=0)


def _values_and_alpha(image: Image.Image, background: Colour = BLACK) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The largest channel's distance from the background (H, W), and which pixels are not clear; an alpha that is 0
    everywhere is unset."""
    seen = None
    if image.has_transparency_data:
        layer = np.asarray(image.convert("RGBA"))
        if layer[..., 3].any():
            pixels, seen = layer[..., :3], layer[..., 3] > 0
    if seen is None:
        pixels = np.asarray(image.convert("RGB"))
        seen = np.ones(pixels.shape[:2], dtype=bool)
    ground = np.array(background, dtype=np.uint8)
    values: NDArray[np.uint8] = (np.maximum(pixels, ground) - np.minimum(pixels, ground)).max(axis=2)
    return values, seen


def _least(values: NDArray[np.uint8], is_lossy: bool) -> int:
    """The largest value that is not anomalous. A lossy format that has few values lost nothing."""
    if not is_lossy or np.count_nonzero(np.bincount(values.ravel(), minlength=256)) <= _VALUES_OF_LABELS:
        return 0
    return int(values.max(initial=0)) // 2


def _is_lossy(image: Image.Image, path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return (
        start.startswith((b"\xff\xd8", b"RIFF", b"\0\0\0\x0cjP", b"\xff\x4f"))
        or image.info.get("compression") == "jpeg"
    )


def _is_deep_colour(image: Image.Image, path: Path) -> bool:
    """Whether a PNG or TIFF has colours of 16 bits, of which Pillow reads the upper 8."""
    with path.open("rb") as file:
        start = file.read(26)
    if start.startswith(b"\x89PNG"):
        return start[24] == 16 and start[25] in (2, 6)
    return isinstance(image, TiffImageFile) and max(image.tag_v2.get(258) or (8,)) > 8


def looks_like_mask(path: Path, *, named: bool = False) -> bool:
    """Whether an image is flat areas of few grey levels: no photograph.

    Unless it is `named` as a mask, black must be frequent, or the only other level. False for a file that cannot be
    read.
    """
    ringing = 0
    try:
        with opened(path) as image:
            grey = image.amax(dim=0).mul(255).round().byte().numpy() if isinstance(image, Tensor) else _greys(image)
            if not isinstance(image, Tensor) and _is_lossy(image, path):
                ringing = _RINGING
    except ImageError:
        return False
    counts = np.bincount(grey.ravel(), minlength=256)
    explained = np.zeros(256, dtype=bool)
    for _ in range(_FEW_LEVELS):
        peak = int(np.where(explained, 0, counts).argmax())
        explained[max(0, peak - _NEAR) : peak + _NEAR + 1] = True
    is_flat = counts[explained].sum() >= _MOSTLY * grey.size and _alike(grey, ringing) >= _ALIKE
    is_dark = counts[: _NEAR + 1].sum() > 0.2 * grey.size or (counts > 0).sum() <= 2
    return bool(is_flat and (named or is_dark))


def _alike(grey: NDArray[np.uint8], difference: int) -> float:
    """The share of pixels (H, W) that differ by no more than that from the pixel beside them."""
    return float((np.abs(np.diff(grey.astype(np.int16), axis=1)) <= difference).mean()) if grey.shape[1] > 1 else 1.0


def _greys(image: Image.Image) -> NDArray[np.uint8]:
    """The largest of the channels (H, W), deep values brought to 8 bits by their own maximum; clear pixels are 0."""
    image.load()
    if image.mode.startswith(("I", "F")):
        deep = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0).clip(0, None)
        greys: NDArray[np.uint8] = (deep * 255 / max(deep.max(initial=0.0), 1e-300)).astype(np.uint8)
        return greys
    values, seen = _values_and_alpha(image)
    return values * seen


def stem_of_image(stem: str) -> str:
    """The stem of the image that a mask's name is made of: `000_mask`, `000_GT` and `label_000` give `000`."""
    return _BEGINNING.sub("", _ENDING.sub("", stem))


def match_masks(images: Iterable[Path], masks: Sequence[Path]) -> tuple[dict[Path, tuple[Path, ...]], list[Path]]:
    """Find the masks of images by their names: masks by image, and those that match none.

    A mask has its image's stem, with something before or behind it that begins or ends with no letter or digit
    (`000_mask.png`, `000_GT.PNG`, `label-000.bmp`), or lies in a folder of that name (`000/001.png`).
    Of several stems that fit, the longest is meant.
    """
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(_key(image.stem), []).append(image)
    found: dict[Path, list[Path]] = {image: [] for same in by_stem.values() for image in same}
    unmatched = []
    for mask in masks:
        same = _images_of(mask, by_stem)
        for image in same:
            found[image].append(mask)
        if not same:
            unmatched.append(mask)
    return {image: tuple(sorted(paths)) for image, paths in found.items()}, unmatched


def _key(stem: str) -> str:
    """A name as it is compared: without case, and with accents as one letter, however they were written."""
    return unicodedata.normalize("NFC", stem).casefold()


def _images_of(mask: Path, by_stem: Mapping[str, list[Path]]) -> list[Path]:
    stem, folder = _key(mask.stem), _key(mask.parent.name)
    if folder in by_stem and folder != _key(by_stem[folder][0].parent.name):
        return by_stem[folder]
    for name in (stem, stem_of_image(stem)):
        if name in by_stem:
            return by_stem[name]
    cuts = [place for place in range(1, len(stem)) if not stem[place].isalnum()]
    parts = [stem[:place] for place in reversed(cuts)] + [stem[place + 1 :] for place in cuts]
    return next((by_stem[part] for part in parts if part in by_stem), [])
