"""A plain folder: images anywhere below it, without labels; all are training images."""

from pathlib import Path

from softpatch.data.folder import photographs
from softpatch.data.layouts.samples import UNLABELLED, Dataset, Layout, Sample


def _read(folder: Path) -> Dataset:
    contents = photographs(folder)
    train = tuple(Sample(path, False, (), UNLABELLED) for path in contents.images)
    return Dataset(folder, "folder", folder.name, train, (), contents.passed_over, is_split=False)


LAYOUT = Layout("folder", "images", lambda _: True, _read)
