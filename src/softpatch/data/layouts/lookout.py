"""Amazon Lookout for Vision: `train.manifest` and `test.manifest`, or one manifest, beside files copied from S3.

A manifest lies in the folder itself or in its folder `datasets`, where Amazon's export puts it, or is named itself.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from softpatch.data.folder import PassedOver
from softpatch.data.layouts.bucket import local_files
from softpatch.data.layouts.ground_truth import SUFFIX, Entry, is_manifest, read_manifest
from softpatch.data.layouts.samples import (
    GOOD,
    UNLABELLED,
    Dataset,
    Layout,
    Sample,
    held_out,
    is_good,
    labelled_by_mask,
    mask_notes,
)
from softpatch.data.masks import Colour, colours_in
from softpatch.errors import ImageError, InputError

_FOLDERS = ("datasets", "manifests")
_PARTS = {"train": {"train", "training"}, "test": {"test", "testing", "validation"}}


def _manifests(folder: Path) -> list[Path]:
    """The manifests of a dataset's folder, sorted: those in it, or else in its folder of manifests."""
    for place in (folder, *(folder / name for name in _FOLDERS)):
        if place.is_dir():
            with os.scandir(place) as entries:  # a folder may hold very many images
                names = sorted(entry.name for entry in entries if entry.name.lower().endswith(SUFFIX))
            found = [place / name for name in names if not name.startswith(".") and (place / name).is_file()]
            if any(map(is_manifest, found)):
                return found
    return []


def read_lone_manifest(manifest: Path) -> Dataset:
    """Read a manifest that was named itself, of images that nobody divided unless names say so.

    Named as that of test images, it has those alone; named as that of training images, with one of test images in the
    same folder, those. Files are looked for from its folder on, and from the one above. Raises `InputError` as the
    layout does.
    """
    folder = manifest.absolute().parent
    part = _part(manifest) or "all"
    if part == "train" and "test" not in map(_part, _manifests(folder)):
        part = "all"
    return _read_manifests(folder, (folder, folder.parent), {part: manifest}, manifest.stem)


def _read(folder: Path) -> Dataset:
    found = _manifests(folder)
    parts = {part: [path for path in found if _part(path) == part] for part in _PARTS}
    if len(found) == 1:
        return _read_manifests(folder, (folder,), {"all": found[0]}, folder.name)
    if any(len(paths) != 1 for paths in parts.values()):
        names = ", ".join(path.name for path in found)
        raise InputError(
            f"{found[0].parent} holds the manifests {names}; leave one whose name says train and one whose name says "
            "test there, or give a manifest in place of the folder"
        )
    return _read_manifests(folder, (folder,), {part: paths[0] for part, paths in parts.items()}, folder.name)


def _part(manifest: Path) -> str | None:
    """The part of a dataset that the name of a manifest says, such as `circuit-train.manifest`."""
    words = set(re.findall(r"[a-z]+", manifest.stem.lower()))
    return next((part for part, names in _PARTS.items() if words & names), None)


def _read_manifests(root: Path, folders: Sequence[Path], manifests: Mapping[str, Path], category: str) -> Dataset:
    """Read the manifests of `train` and `test`, of one of these, or of `all` images, whose files are in `folders`."""
    entries = {part: read_manifest(manifest) for part, manifest in manifests.items()}
    everything = tuple(chain(*entries.values()))
    files = _files(everything, folders)
    classes = {files[entry.image]: entry.classes for entry in everything}
    samples = {part: _samples(each, files) for part, each in entries.items()}
    if "all" in samples:
        train, tested = _divided(samples["all"])
    else:
        train, tested = samples.get("train", ()), samples.get("test", ())
    test = tuple(_with_kind(sample, classes[sample.path]) for sample in tested if sample.kind != UNLABELLED)
    name = list(manifests.values())[-1].name
    others = [sample.path for sample in tested if sample.kind == UNLABELLED]
    notes = mask_notes(test, (), name)
    if others:
        notes.insert(0, f"images in {name} that have no label are left out, {len(others)} of {len(tested)}.")
    passed_over = tuple(PassedOver(path, "test image without a label", f"in `{name}`") for path in others)
    return Dataset(root, "lookout", category, train, test, passed_over, tuple(notes), is_split="all" not in samples)


def _divided(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Training and test samples of those that nobody divided. All without a label are for training."""
    train, test = held_out([sample for sample in samples if sample.kind != UNLABELLED])
    unlabelled = [sample for sample in samples if sample.kind == UNLABELLED]
    return tuple(sorted((*train, *unlabelled), key=lambda sample: sample.path)), test


def _files(entries: Sequence[Entry], folders: Sequence[Path]) -> dict[str, Path]:
    """The files of images and of the masks that matter, by reference.

    Raises `InputError` for an image that is listed twice.
    """
    images = {entry.image: entry.where for entry in entries}
    masks = {entry.mask: entry.where for entry in entries if entry.mask is not None and not _is_known_good(entry)}
    files = local_files({**images, **masks}, folders)
    listed: dict[Path, str] = {}
    for entry in entries:
        first = listed.setdefault(files[entry.image], entry.where)
        if first != entry.where:
            raise InputError(f"{entry.where} names {entry.image!r} again, after {first}; an image is listed once")
    return files


def _is_known_good(entry: Entry) -> bool:
    return entry.class_name is not None and is_good(entry.class_name)


def _samples(entries: Sequence[Entry], files: Mapping[str, Path]) -> tuple[Sample, ...]:
    return tuple(sorted((_sample(entry, files) for entry in entries), key=lambda sample: sample.path))


def _sample(entry: Entry, files: Mapping[str, Path]) -> Sample:
    path = files[entry.image]
    if _is_known_good(entry):
        return Sample(path, False, (), GOOD)
    masks = () if entry.mask is None else (files[entry.mask],)
    if entry.class_name is not None:
        return Sample(path, True, masks, entry.class_name, entry.background)
    return labelled_by_mask(path, masks, entry.background) if masks else Sample(path, False, (), UNLABELLED)


def _with_kind(sample: Sample, classes: Mapping[Colour, str]) -> Sample:
    """The sample under the names of the defects that its mask shows, where that names any."""
    if not sample.mask_paths or not classes:
        return sample
    names = sorted(set(classes.values()))
    if len(names) > 1:
        mask = sample.mask_paths[0]
        try:
            names = sorted({classes[colour] for colour in colours_in(mask, tuple(classes))})
        except ImageError as error:
            raise InputError(f"a mask of {sample.path} cannot be read: {mask}: {error}") from error
    return replace(sample, kind=", ".join(names) or sample.kind)


def _fits(folder: Path) -> bool:
    return bool(_manifests(folder))


LAYOUT = Layout("lookout", "a manifest of Lookout for Vision, such as train.manifest", _fits, _read)
