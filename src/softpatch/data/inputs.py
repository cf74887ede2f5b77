"""What a user gives, of whatever kind, becomes the images to learn from or to judge. It is decided here alone.

A folder is looked at first: of one laid out as a dataset the training or the test images are taken, of any the masks,
thumbnails and the like passed over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from softpatch.data.folder import PassedOver, photographs
from softpatch.data.frames import Frame, frame_refs, is_frame
from softpatch.data.images import ImageRef, file_ref
from softpatch.data.layouts import is_manifest, open_dataset
from softpatch.data.layouts.samples import HELD_OUT, Sample
from softpatch.data.paths import is_file
from softpatch.data.video import is_video, video_refs
from softpatch.errors import InputError

Images = str | Path | Frame | Sequence[str | Path | Frame | ImageRef]
"""What `fit` and `predict` take: a folder, a file, a video, a dataset's manifest, an image in memory or a batch of them
(see `Frame`), or a list of any but manifests."""
Purpose = Literal["train", "predict"]


@dataclass(frozen=True)
class ChosenImages:
    """The images to use, not read yet, what was passed over beside them, and sentences that a user should read."""

    refs: tuple[ImageRef, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()


def choose_images(
    images: Images, purpose: Purpose, *, layout: str = "auto", category: str | None = None, every: int = 1
) -> ChosenImages:
    """Name every image in `images` that serves the purpose, in order, without decoding any, or one of `every` so many.

    Of a video all frames are named.

    Of a dataset's folder or manifest these are the training images, or to predict the test images; all where the
    dataset does not divide them. Raises `InputError` as `open_dataset` and `look_into` do, for a dataset without
    training images, for an array or tensor of another shape, dtype or range than `Frame` says, and for a `layout` or
    `category` that goes with no single folder.
    """
    folder = _one_folder(images)
    if folder is not None:
        return _some(_of_folder(folder, purpose, layout, category), every)
    if layout not in ("auto", "folder") or category is not None:
        given = f"`layout` {layout!r}" if category is None else f"`category` {category!r}"
        raise InputError(f"{given} goes with the one folder of a dataset, not with several images")
    return _some(_named(images), every)


def _some(chosen: ChosenImages, every: int) -> ChosenImages:
    return replace(chosen, refs=chosen.refs[::every])


def is_one_image(images: Images) -> bool:
    """Whether this is one image rather than a folder, a video, a batch or a list: an image file, or one in memory."""
    if isinstance(images, (str, Path)):
        return _one_folder(images) is None and not is_video(_path(images))
    return is_frame(images) or isinstance(images, ImageRef)


def _one_folder(images: Images) -> Path | None:
    only = images[0] if isinstance(images, (list, tuple)) and len(images) == 1 else images
    if not isinstance(only, (str, Path)):
        return None
    path = _path(only)
    try:
        return path if not path.is_file() or is_manifest(path) else None
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
        if not samples:
            raise InputError(f"{folder} has no training images, only {len(dataset.test)} for testing; give others")
        notes = (note.format("training"), *(() if dataset.is_split else (HELD_OUT,)), *_labelled_defective(samples))
    elif dataset.is_split:
        samples, notes = dataset.test, (note.format("test"),)
    return ChosenImages(tuple(sample.ref for sample in samples), dataset.passed_over, notes)


def _labelled_defective(train: Sequence[Sample]) -> tuple[str, ...]:
    """A sentence where training images are labelled as defective."""
    count = sum(sample.is_anomalous for sample in train)
    if not count:
        return ()
    return (
        f"{count} of {len(train)} training images are labelled as defective; that alone changes nothing, "
        "--decisions can reject them.",
    )


def _named(images: Images) -> ChosenImages:
    items = [images] if isinstance(images, (str, Path, Image.Image, np.ndarray, Tensor, ImageRef)) else images
    if not isinstance(items, Iterable):
        raise InputError(f"images are a folder, paths, PIL images, arrays or tensors, not {images!r}")
    refs: list[ImageRef] = []
    passed_over: list[PassedOver] = []
    for item in items:
        if isinstance(item, ImageRef):
            refs.append(item)
        elif isinstance(item, (str, Path)) and is_video(_path(item)) and is_file(_path(item)):
            refs += video_refs(_path(item))
        elif isinstance(item, (str, Path)):
            contents = photographs(_path(item))
            refs += [file_ref(path) for path in contents.images]
            passed_over += contents.passed_over
        elif isinstance(item, (Image.Image, np.ndarray, Tensor)):
            refs += frame_refs(item, start=len(refs))
        else:
            raise InputError(f"an image is a path, a PIL image, an array or a tensor, not {type(item).__name__}")
    return ChosenImages(tuple(refs), tuple(passed_over))
