"""A plain folder: images anywhere below it, without labels; all are training images."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from softpatch.data.folder import photographs
from softpatch.data.layouts.samples import UNLABELLED, Dataset, Layout, Sample, is_good


def _read(folder: Path) -> Dataset:
    contents = photographs(folder)
    train = tuple(Sample(path, False, (), UNLABELLED) for path in contents.images)
    notes = tuple(_labels_that_are_not_used(contents.images, folder))
    return Dataset(folder, "folder", folder.name, train, (), contents.passed_over, notes, is_split=False)


def _labels_that_are_not_used(images: Sequence[Path], root: Path) -> Iterator[str]:
    """A sentence where folders are named as those of good images and of others, and are learned from alike."""
    inside = {folder for path in images for folder in path.parents if folder != root and root in folder.parents}
    names: dict[Path, list[str]] = defaultdict(list)
    for folder in sorted(inside):
        names[folder.parent].append(folder.name)
    for parent, found in names.items():
        if any(map(is_good, found)) and not all(map(is_good, found)):
            yield f"{parent} holds the folders {', '.join(found[:6])}, whose images are taken alike, without labels."
            return


LAYOUT = Layout("folder", "images", lambda _: True, _read)
