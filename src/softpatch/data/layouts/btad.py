"""BTAD: `train/ok`, `test/{ok,ko}`, `ground_truth/ko`."""

from pathlib import Path

from softpatch.data.layouts.mvtec import read_parts
from softpatch.data.layouts.samples import MASK_FOLDERS, Dataset, Layout, child


def _fits(folder: Path) -> bool:
    return (folder / "train" / "ok").is_dir() and (folder / "test").is_dir()


def _read(folder: Path) -> Dataset:
    return read_parts(folder, "btad", folder / "train", folder / "test", child(folder, *MASK_FOLDERS))


LAYOUT = Layout("btad", "train/ok and test", _fits, _read)
