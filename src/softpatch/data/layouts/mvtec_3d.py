"""MVTec 3D-AD: `train/good/{rgb,xyz}`, `test/<kind>/{rgb,xyz,gt}`. Only `rgb` is used, no heights."""

from pathlib import Path

from softpatch.data.folder import FolderContents, PassedOver, look_into
from softpatch.data.layouts.samples import (
    GOOD,
    Dataset,
    Layout,
    Sample,
    child,
    is_good,
    kind_of,
    mask_notes,
    need_good,
    subfolders,
)
from softpatch.data.masks import match_masks
from softpatch.errors import InputError


def _fits(folder: Path) -> bool:
    return (folder / "test").is_dir() and any(child(kind, "rgb") for kind in subfolders(folder / "train"))


def _read(folder: Path) -> Dataset:
    passed_over: list[PassedOver] = []
    train = [
        Sample(path, not is_good(kind.name), (), kind_of(kind.name))
        for kind in subfolders(folder / "train")
        for path in _photographs(kind, passed_over).images
    ]
    kinds = [kind for kind in subfolders(folder / "test") if child(kind, "rgb")]
    need_good(folder / "test", [kind.name for kind in kinds])
    test: list[Sample] = []
    unmatched: list[Path] = []
    for kind in kinds:
        images = _photographs(kind, passed_over).images
        truth = child(kind, "gt")
        masks = list(look_into(truth).images) if truth else []
        by_image, others = match_masks(images, masks)
        good = is_good(kind.name)
        unmatched += [] if good else others
        test += [Sample(path, not good, () if good else by_image[path], kind_of(kind.name)) for path in images]
    if not train or not test:
        raise InputError(f"{folder} has no images in train/{GOOD}/rgb or test/*/rgb; complete the dataset")
    notes = mask_notes(test, unmatched, "gt")
    return Dataset(folder, "mvtec-3d", folder.name, tuple(train), tuple(test), tuple(passed_over), tuple(notes))


def _photographs(kind: Path, passed_over: list[PassedOver]) -> FolderContents:
    """What is in `rgb`; the heights beside it are noted as passed over."""
    heights, colours = child(kind, "xyz"), child(kind, "rgb")
    if heights:
        where = f"in `{kind.parent.name}/{kind.name}/xyz`"
        passed_over += [PassedOver(path, "depth map", where) for path in look_into(heights).images]
    contents = look_into(colours) if colours else FolderContents((), ())
    passed_over += contents.passed_over
    return contents


LAYOUT = Layout("mvtec-3d", "train/good/rgb and test", _fits, _read)
