"""The demo set: what is written, that it is reproducible, and that masks and names tell the truth and no more."""

import csv
import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softpatch.data.demo import write_demo_dataset
from softpatch.data.flange import KINDS, Defect, photograph
from softpatch.errors import InputError

SMALL = {"train_good": 8, "train_anomalous": 2, "test_good": 2, "test_anomalous": 8, "size": 128}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_dataset(tmp_path_factory.mktemp("demo"), **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def truth(folder: Path) -> dict[str, bool]:
    with (folder / "train_truth.csv").open(encoding="utf-8", newline="") as table:
        return {row["file"]: row["is_anomalous"] == "1" for row in csv.DictReader(table)}


def test_folder_holds_what_was_asked_for_and_nothing_else(demo: Path) -> None:
    expected = {"train_truth.csv"}
    expected |= {f"train/unsorted/{number:04d}.png" for number in range(10)}
    expected |= {f"test/good/{number:03d}.png" for number in range(2)}
    expected |= {f"test/{kind}/{number:03d}.png" for kind in KINDS for number in range(2)}
    expected |= {f"ground_truth/{kind}/{number:03d}_mask.png" for kind in KINDS for number in range(2)}
    assert set(contents(demo)) == expected


def test_images_are_rgb_and_masks_are_black_or_white(demo: Path) -> None:
    for path in demo.rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (128, 128)
            if "ground_truth" in path.parts:
                assert image.mode == "L"
                assert {value for _, value in image.getcolors() or []} == {0, 255}
            else:
                assert image.mode == "RGB"


def test_same_seed_writes_same_bytes_and_another_seed_other_images(demo: Path, tmp_path: Path) -> None:
    again = contents(write_demo_dataset(tmp_path / "again", **SMALL))
    assert again == contents(demo)
    other = contents(write_demo_dataset(tmp_path / "other", seed=1, **SMALL))
    assert other.keys() == again.keys()
    assert all(other[name] != again[name] for name in again if not name.startswith("train_truth"))


def test_training_and_test_images_are_all_different(demo: Path) -> None:
    images = [data for name, data in contents(demo).items() if not name.startswith("ground_truth")]
    assert len(set(images)) == len(images)


def test_truth_lists_every_training_image_and_the_contamination(demo: Path) -> None:
    files = sorted(path.relative_to(demo).as_posix() for path in (demo / "train").rglob("*.png"))
    assert sorted(truth(demo)) == files
    assert sum(truth(demo).values()) == SMALL["train_anomalous"]


def test_default_contamination_is_a_fifth() -> None:
    settings = inspect.signature(write_demo_dataset).parameters
    good, anomalous = settings["train_good"].default, settings["train_anomalous"].default
    assert anomalous / (good + anomalous) == 0.2


def test_order_of_training_images_is_mixed_and_depends_on_the_seed(tmp_path: Path) -> None:
    counts = {**SMALL, "train_good": 6, "train_anomalous": 6, "test_anomalous": 0}
    orders = [tuple(truth(write_demo_dataset(tmp_path / str(seed), seed=seed, **counts)).values()) for seed in range(3)]
    assert len(set(orders)) == 3
    assert tuple(sorted(orders[0])) not in orders


def test_training_files_carry_nothing_but_pixels(demo: Path) -> None:
    for path in (demo / "train/unsorted").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.info == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bearing", [30, 60, 150])
def test_mask_is_where_the_defect_changes_the_image(kind: str, bearing: int) -> None:
    x, y = 0.55 * np.cos(np.radians(bearing)), 0.55 * np.sin(np.radians(bearing))
    defect = Defect(kind, x, y, direction=0.5, extent=1, strength=1, shape=bearing)
    sound, nothing = photograph(np.random.default_rng(7), 256)
    faulty, mask = photograph(np.random.default_rng(7), 256, defect)
    changed = (sound != faulty).any(axis=2)
    assert not nothing.any()
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.8


def test_defects_cover_a_small_share_of_the_image(tmp_path: Path) -> None:
    counts = {**SMALL, "train_good": 1, "train_anomalous": 0, "test_anomalous": 64}
    folder = write_demo_dataset(tmp_path / "demo", **counts)
    shares = [np.asarray(Image.open(path)).mean() / 255 for path in (folder / "ground_truth").rglob("*.png")]
    assert len(shares) == 64
    assert 0.003 <= min(shares) <= max(shares) <= 0.04


def test_most_defects_of_a_kind_recur_at_one_place_and_some_do_not(tmp_path: Path) -> None:
    counts = {**SMALL, "train_good": 1, "train_anomalous": 0, "test_anomalous": 16}
    folder = write_demo_dataset(tmp_path / "demo", **counts)
    for kind in KINDS:
        masks = [np.asarray(Image.open(path)) for path in sorted((folder / f"ground_truth/{kind}").iterdir())]
        centres = [np.argwhere(mask).mean(axis=0) for mask in masks]
        away = [np.hypot(*(centre - centres[0])) for centre in centres]
        assert max(away[:3]) < 5
        assert away[3] > 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"train_good": -3}, "train_good is -3"),
        ({"test_anomalous": -2}, "test_anomalous is -2"),
        ({"train_good": 0, "train_anomalous": 0}, "at least one train image"),
        ({"test_good": 0, "test_anomalous": 0}, "at least one test image"),
        ({"size": 64}, "size is 64; the demo images are 128 to 2048 pixels wide"),
        ({"size": 4096}, "size is 4096"),
    ],
)
def test_silly_settings_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_demo_dataset(tmp_path / "demo", **settings)
    assert not (tmp_path / "demo").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    for folder in (tmp_path, kept):
        with pytest.raises(InputError, match="not an empty folder"):
            write_demo_dataset(folder, **SMALL)
    with pytest.raises(InputError, match="cannot write"):
        write_demo_dataset(kept / "demo", **SMALL)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
