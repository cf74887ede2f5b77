"""KolektorSDD and SDD2, and any folder whose masks lie beside its images: `Part0.jpg` and `Part0_label.bmp`.

SDD2 has the parts `train` and `test`; without them the images are divided here.
"""

from pathlib import Path

from softpatch.data.folder import FolderContents, look_into
from softpatch.data.layouts.samples import (
    Dataset,
    Layout,
    Sample,
    child,
    held_out,
    is_good,
    labelled_by_mask,
    mask_notes,
    subfolders,
)
from softpatch.data.masks import match_masks
from softpatch.errors import InputError

_FIRST = 5  # folders that are looked at


def _parts(folder: Path) -> list[Path]:
    """The folders train and test, or none where one is missing."""
    found = [child(folder, part) for part in ("train", "test")]
    return [part for part in found if part is not None] if None not in found else []


def _fits(folder: Path) -> bool:
    if parts := _parts(folder):
        return all(_has_masks_beside(part) for part in parts)
    inside = [each for each in subfolders(folder) if not each.name.startswith(("_", "@"))]
    return not any(is_good(each.name) for each in inside) and any(map(_has_masks_beside, inside[:_FIRST]))


def _has_masks_beside(folder: Path) -> bool:
    """Whether a mask is named after an image beside it: `0_GT.png` (SDD2), `Part0_label.bmp` (SDD)."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    stems = {path.stem for path in files}
    return any(
        stem.endswith(ending) and stem.removesuffix(ending) in stems for stem in stems for ending in ("_GT", "_label")
    )


def _read(folder: Path) -> Dataset:
    parts = _parts(folder)
    is_split = bool(parts)
    contents = [look_into(part) for part in parts or [folder]]
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
        samples += [labelled_by_mask(path, by_image[path]) for path in images]
    return tuple(samples), unmatched


LAYOUT = Layout("kolektor", "images and masks beside them, named *_label or *_GT", _fits, _read)
