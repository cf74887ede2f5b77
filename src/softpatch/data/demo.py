"""A small contaminated dataset to try things on, of product photographs that softpatch draws itself."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softpatch.atomic import replacing
from softpatch.data.flange import HOLE_CIRCLE, KINDS, Defect, photograph
from softpatch.errors import InputError

RECURRING = {  # where a faulty machine hits: bearing (degrees), distance from the axis, direction, shape
    "scratch": (150.0, 0.54, 38.0, 0),
    "stain": (270.0, 0.53, 0.0, 1),
    "dent": (30.0, 0.52, 0.0, 2),
    "blocked_hole": (120.0, HOLE_CIRCLE, 0.0, 3),
}
TRUTH_TABLE = "train_truth.csv"


def write_demo_dataset(
    folder: Path,
    *,
    seed: int = 0,
    train_good: int = 80,
    train_anomalous: int = 20,
    test_good: int = 24,
    test_anomalous: int = 24,
    size: int = 256,
) -> Path:
    """Write a contaminated set of product photographs to try the detector on, and return `folder`.

    The layout is MVTec AD's, save that the training images lie mixed in `train/unsorted`:

    - `train/unsorted/*.png`: good and anomalous images in random order, under names that do not tell which;
    - `train_truth.csv`: columns `file` (relative to `folder`) and `is_anomalous` (0 or 1), for checking;
    - `test/good/*.png` and `test/<kind>/*.png`, `kind` one of `KINDS`, as evenly as the count allows;
    - `ground_truth/<kind>/<stem>_mask.png`: 255 where the defect is, else 0; 0.3 to 4 % of the image.

    As on a real line, three of four defects of a kind come from one faulty machine and recur within a few
    pixels and degrees; the others are anywhere. Images are RGB, `size` x `size`; the same arguments write the
    same bytes. Raises `InputError` for a negative count or seed, an empty training or test set, a `size` outside
    128 to 2048, and a `folder` that holds anything but an earlier set like this, or cannot be written.
    """
    _check_counts(seed, train_good, train_anomalous, test_good, test_anomalous)
    if not 128 <= size <= 2048:
        raise InputError(f"size is {size}; the demo images are 128 to 2048 pixels wide")
    ours = (folder / TRUTH_TABLE).is_file()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not ours):
        raise InputError(f"{folder} is not an empty folder; name a new one for the demo images")
    train_rng, test_rng = np.random.default_rng(seed).spawn(2)
    try:
        _write_train(folder, train_rng, train_good, train_anomalous, size)
        _write_test(folder, test_rng, test_good, test_anomalous, size)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose a folder you may write to") from error
    return folder


def _check_counts(seed: int, train_good: int, train_anomalous: int, test_good: int, test_anomalous: int) -> None:
    counts = {
        "seed": seed,
        "train_good": train_good,
        "train_anomalous": train_anomalous,
        "test_good": test_good,
        "test_anomalous": test_anomalous,
    }
    for name, value in counts.items():
        if value < 0:
            raise InputError(f"{name} is {value}; it is a whole number, 0 or more")
    for part, count in (("train", train_good + train_anomalous), ("test", test_good + test_anomalous)):
        if count == 0:
            raise InputError(f"{part}_good and {part}_anomalous are both 0; ask for at least one {part} image")


def _write_train(folder: Path, rng: np.random.Generator, good: int, anomalous: int, size: int) -> None:
    defects = [None] * good + list(defects_of_a_line(rng, anomalous))
    order = rng.permutation(len(defects))
    files = [f"train/unsorted/{number:04d}.png" for number in range(len(order))]
    truth = [(file, int(defects[index] is not None)) for file, index in zip(files, order, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TRUTH_TABLE).open("w", encoding="utf-8", newline="") as table:  # first: it tells the folder as ours
        csv.writer(table, lineterminator="\n").writerows([("file", "is_anomalous"), *truth])
    for file, index in zip(files, order, strict=True):
        _save(folder / file, photograph(rng, size, defects[index])[0])


def _write_test(folder: Path, rng: np.random.Generator, good: int, anomalous: int, size: int) -> None:
    for number in range(good):
        _save(folder / f"test/good/{number:03d}.png", photograph(rng, size)[0])
    for index, defect in enumerate(defects_of_a_line(rng, anomalous)):
        image, mask = photograph(rng, size, defect)
        stem = f"{index // len(KINDS):03d}"
        _save(folder / f"test/{defect.kind}/{stem}.png", image)
        _save(folder / f"ground_truth/{defect.kind}/{stem}_mask.png", mask.astype(np.uint8) * 255)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)


def defects_of_a_line(rng: np.random.Generator, count: int) -> Iterator[Defect]:
    """Draw defects, kind after kind; three of four of a kind where the same machine always hits."""
    for index in range(count):
        kind, recurs = KINDS[index % len(KINDS)], index // len(KINDS) % 4 != 3
        bearing, radius, direction, shape = RECURRING[kind]
        if not recurs:  # between two other holes, or at another hole
            bearing += 60.0 * rng.integers(1, 6)
            direction, shape = rng.uniform(0, 180), int(rng.integers(2**31))
        if kind == "blocked_hole":
            shape = int(rng.integers(2**31))
        else:
            bearing += rng.normal(0, 1 if recurs else 4)
            radius += rng.normal(0, 0.01 if recurs else 0.03)
        direction += rng.normal(0, 1)
        extent, strength = rng.normal(1, 0.03 if recurs else 0.12, 2).clip(0.8, 1.25)
        x, y = radius * np.cos(np.radians(bearing)), radius * np.sin(np.radians(bearing))
        yield Defect(kind, x, y, float(np.radians(direction)), extent, strength, shape)
