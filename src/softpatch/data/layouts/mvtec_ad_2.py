"""MVTec AD 2: `train/good`, `test_public/{good,bad}`, masks in `test_public/ground_truth/bad`.

The images of `validation`, and those of `test_private` and `test_private_mixed`, which have no labels, are not used.
"""

from dataclasses import replace
from pathlib import Path

from softpatch.data.folder import PassedOver, look_into
from softpatch.data.layouts.mvtec import read_parts
from softpatch.data.layouts.samples import MASK_FOLDERS, Dataset, Layout, child, subfolders


def _fits(folder: Path) -> bool:
    return child(folder, "train") is not None and child(folder, "test_public") is not None


def _read(folder: Path) -> Dataset:
    train, test = child(folder, "train") or folder, child(folder, "test_public") or folder
    dataset = read_parts(folder, "mvtec-ad-2", train, test, child(test, *MASK_FOLDERS))
    unread = [each for each in subfolders(folder) if each not in (train, test)]
    others = [
        PassedOver(path, f"{each.name} image", f"in `{each.name}`")
        for each in unread
        for path in look_into(each).images
    ]
    return replace(dataset, passed_over=(*dataset.passed_over, *others))


LAYOUT = Layout("mvtec-ad-2", "train and test_public", _fits, _read)
