"""KolektorSDD and SDD2, and any folder whose masks lie beside its images: `Part0.jpg` and `Part0_label.bmp`.

SDD2 has the parts `train` and `test`; without them the images are divided here.
"""

from collections.abc import Sequence
from pathlib import Path

from softpatch.data.folder import FolderContents, look_into
from softpatch.data.layouts.samples import (
    GOOD,
    Dataset,
    Layout,
    Sample,
    held_out,
    mask_notes,
    subfolders,
)
from softpatch.data.masks import match_masks, read_mask
from softpatch.errors import ImageError, InputError

_PARTS = ("train", "test")


def _fits(folder: Path) -> bool:
    if all((folder / part).is_dir() for part in _PARTS):
        return all(_has_masks_beside(folder / part) for part in _PARTS)
    return folder.is_dir() and any(_has_masks_beside(each) for each in subfolders(folder)[:1])


def _has_masks_beside(folder: Path) -> bool:
    """Whether a mask is named after an image beside it: `0_GT.png` (SDD2), `Part0_label.bmp` (SDD)."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    stems = {path.stem for path in files}
    return any(
        stem.endswith(ending) and stem.removesuffix(ending) in stems for stem in stems for ending in ("_GT", "_label")
    )


def _read(folder: Path) -> Dataset:
    is_split = all((folder / part).is_dir() for part in _PARTS)
    contents = [look_into(folder / part if is_split else folder) for part in (_PARTS if is_split else ("",))]
    labelled = [labelled_by_masks(each) for each in contents]
    samples = [part for part, _ in labelled]
    if not all(samples):
        raise InputError(f"{folder} holds no images; softpatch expects images with masks beside them")
    train, test = (samples[0], samples[1]) if is_split else held_out(samples[0])
    notes = mask_notes((*train, *test), [path for _, others in labelled for path in others], folder.name)
    passed_over = tuple(each for part in contents for each in part.passed_over)
    return Dataset(folder, "kolektor", folder.name, train, test, passed_over, tuple(notes), is_split)


def labelled_by_masks(contents: FolderContents) -> tuple[tuple[Sample, ...], list[Path]]:
    """Label images by the masks beside them, anomalous where any pixel is; and the masks that match no image."""
    folders: dict[Path, list[Path]] = {}
    for path in contents.images:
        folders.setdefault(path.parent, []).append(path)
    samples: list[Sample] = []
    unmatched: list[Path] = []
    for folder, images in folders.items():
        masks = [each.path for each in contents.passed_over if each.kind == "mask" and each.path.parent == folder]
        by_image, others = match_masks(images, masks)
        unmatched += others
        samples += [_sample(path, by_image[path]) for path in images]
    return tuple(samples), unmatched


def _sample(path: Path, masks: Sequence[Path]) -> Sample:
    try:
        marked = tuple(mask for mask in masks if bool(read_mask(mask).any()))
    except ImageError as error:
        raise InputError(f"a mask of {path} cannot be read: {error}") from error
    return Sample(path, bool(marked), marked, "defect" if marked else GOOD)


LAYOUT = Layout("kolektor", "images and masks beside them, named *_label or *_GT", _fits, _read)
