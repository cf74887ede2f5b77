"""MVTec AD, and what is laid out alike (MPDD, VisA rearranged): `train/good`, `test/<kind>`, `ground_truth/<kind>`."""

from pathlib import Path

from softpatch.data.folder import photographs
from softpatch.data.layouts.samples import (
    MASK_FOLDERS,
    Dataset,
    Layout,
    child,
    samples_by_kind,
    training_samples,
    with_masks,
)


def read_parts(folder: Path, layout: str, train: Path, test: Path, truth: Path | None) -> Dataset:
    """Read a category whose labels are the names of folders in `test`, with masks below `truth` in folders alike."""
    training, testing = photographs(train), photographs(test)
    samples, notes = with_masks(samples_by_kind(test, testing), test, truth, testing.passed_over)
    passed_over = training.passed_over + testing.passed_over
    return Dataset(folder, layout, folder.name, training_samples(train, training), samples, passed_over, tuple(notes))


def _fits(folder: Path) -> bool:
    return child(folder, "train") is not None and child(folder, "test") is not None


def _read(folder: Path) -> Dataset:
    train, test = child(folder, "train") or folder / "train", child(folder, "test") or folder / "test"
    return read_parts(folder, "mvtec", train, test, child(folder, *MASK_FOLDERS))


LAYOUT = Layout("mvtec", "train and test", _fits, _read)
