"""What a user gives, of whatever kind, becomes the images to learn from or to judge. It is decided here alone.

A folder is looked at first: of one laid out as a dataset the training or the test images are taken, of any the masks,
thumbnails and the like passed over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from softpatch.data.decode import rgb_tensor
from softpatch.data.folder import PassedOver, photographs
from softpatch.data.images import ImageRef, file_ref
from softpatch.data.layouts import open_dataset
from softpatch.data.layouts.samples import HELD_OUT
from softpatch.errors import InputError

Images = str | Path | Image.Image | np.ndarray | Tensor | Sequence[str | Path | Image.Image | np.ndarray | ImageRef]
"""What `fit` and `predict` take: a folder, a file, a list of paths, PIL images, an (N, H, W, 3) uint8 array
or an (N, 3, H, W) float tensor in [0, 1]."""
Purpose = Literal["train", "predict"]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class ChosenImages:
    """The images to use, not read yet, what was passed over beside them, and sentences that a user should read."""

    refs: tuple[ImageRef, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()


def choose_images(
    images: Images, purpose: Purpose, *, layout: str = "auto", category: str | None = None
) -> ChosenImages:
    """Name every image in `images` that serves the purpose, in order, without decoding any.

    Of a dataset's folder these are the training images, or to predict the test images; all where the dataset does not
    divide them. Raises `InputError` as `open_dataset` and `look_into` do, for an array or tensor of another shape,
    dtype or range than `Images` says, and for a `layout` or `category` that goes with no single folder.
    """
    folder = _one_folder(images)
    if folder is not None:
        return _of_folder(folder, purpose, layout, category)
    if layout not in ("auto", "folder") or category is not None:
        given = f"`layout` {layout!r}" if category is None else f"`category` {category!r}"
        raise InputError(f"{given} goes with the one folder of a dataset, not with several images")
    return _named(images)


def _one_folder(images: Images) -> Path | None:
    only = images[0] if isinstance(images, (list, tuple)) and len(images) == 1 else images
    if not isinstance(only, (str, Path)):
        return None
    path = _path(only)
    try:
        return path if not path.is_file() else None
    except (OSError, ValueError):
        return None  # told of when it is looked into


def _path(given: str | Path) -> Path:
    if not str(given):
        raise InputError("images are '', which names nothing; give a folder or a file, '.' for this folder")
    return Path(given)


def _of_folder(folder: Path, purpose: Purpose, layout: str, category: str | None) -> ChosenImages:
    dataset = open_dataset(folder, layout=layout, category=category)
    note = f"{folder} is a dataset in the {dataset.layout} layout; only its {{}} images are used."
    notes = dataset.notes if layout == "auto" and dataset.layout == "folder" else ()
    samples = tuple(sorted((*dataset.train, *dataset.test), key=lambda sample: sample.path))
    if purpose == "train" and dataset.layout != "folder":
        samples = dataset.train
        notes = (note.format("training"), *(() if dataset.is_split else (HELD_OUT,)))
    elif dataset.is_split:
        samples, notes = dataset.test, (note.format("test"),)
    return ChosenImages(tuple(sample.ref for sample in samples), dataset.passed_over, notes)


def _named(images: Images) -> ChosenImages:
    if isinstance(images, Tensor):
        return ChosenImages(_of_tensor(images))
    if isinstance(images, np.ndarray):
        return ChosenImages(_of_array(images))
    items = [images] if isinstance(images, (str, Path, Image.Image, ImageRef)) else images
    if not isinstance(items, Iterable):
        raise InputError(f"images are a folder, paths, PIL images, an array or a tensor, not {images!r}")
    refs: list[ImageRef] = []
    passed_over: list[PassedOver] = []
    for item in items:
        if isinstance(item, ImageRef):
            refs.append(item)
        elif isinstance(item, (str, Path)):
            contents = photographs(_path(item))
            refs += [file_ref(path) for path in contents.images]
            passed_over += contents.passed_over
        elif isinstance(item, Image.Image):
            refs.append(ImageRef(f"image {len(refs)}", partial(rgb_tensor, item)))
        elif isinstance(item, np.ndarray):
            refs += _of_array(item[None], start=len(refs))
        else:
            raise InputError(f"an image is a path, a PIL image or an (H, W, 3) uint8 array, not {type(item).__name__}")
    return ChosenImages(tuple(refs), tuple(passed_over))


def _of_array(array: np.ndarray, start: int = 0) -> tuple[ImageRef, ...]:
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("an image array has no masked values; fill them first")
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or not all(array.shape[1:]):
        raise InputError(
            f"an image array is (N, H, W, 3) uint8, not {array.shape} {array.dtype}; for floats give a tensor"
        )

    def read(image: np.ndarray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div_(255)

    return tuple(ImageRef(f"image {start + i}", partial(read, image)) for i, image in enumerate(array))


def _of_tensor(images: Tensor) -> tuple[ImageRef, ...]:
    if images.layout != torch.strided or images.is_meta or images.is_nested:
        raise InputError("an image tensor holds its values itself; give one that is not sparse, nested or meta")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in _FLOATS or not all(images.shape[1:]):
        raise InputError(f"an image tensor is (N, 3, H, W) float, not {tuple(images.shape)} {images.dtype}")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"an image tensor holds values in [0, 1], not {images.min():g} to {images.max():g}; "
            "divide 8-bit values by 255"
        )
    return tuple(ImageRef(f"image {i}", image.detach().float().cpu().clone) for i, image in enumerate(images))
