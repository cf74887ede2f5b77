"""Bounded memory: the same detector from memory, from disk and in two passes; too little is said before the work."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_softpatch
from softpatch import memory_budget
from softpatch.config import Runtime, Settings, parse_bytes, preset_settings
from softpatch.errors import InputError
from softpatch.memory_budget import embedding_store, fit_memory

CPU = torch.device("cpu")
THOUSAND = fit_memory(1000, 784, 128, Settings(), 0)


@pytest.mark.parametrize(
    ("text", "count"), [("4GB", 4 * 10**9), (" 1.5 gb ", 15 * 10**8), ("800M", 8 * 10**8), ("2TiB", 2 * 10**12)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count
    assert Runtime(memory_budget=text).memory_budget == text


@pytest.mark.parametrize("text", ["", "4", "GB", "-1GB", "4 kB", "4GB!", "nan GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="must be like 4GB or 800MB"):
        Runtime(memory_budget=text)


def test_what_fits_is_in_memory_and_what_does_not_is_on_disk(tmp_path: Path) -> None:
    for budget, files in (("4GB", []), ("1.25GB", [tmp_path / "embeddings"])):
        store = embedding_store(THOUSAND, budget, tmp_path, CPU)
        assert (store.shape, store.dtype) == ((1000, 784, 128), torch.float16)
        assert list(tmp_path.iterdir()) == files
        store[-1] = 3  # room to the end
        assert (store[-1] == 3).all()


def test_only_projected_embeddings_are_stored() -> None:
    assert fit_memory(10, 16, 1024, Settings(projected_dim=32), 0).shape == (10, 16, 32)


def test_comparing_images_needs_more() -> None:
    plain, default = (preset_settings(preset, {}) for preset in ("softpatch+", "agreement"))
    needed = [fit_memory(1000, 784, 128, settings, 0).rest for settings in (plain, default)]
    assert needed[0] + 784_000 * 40 < needed[1]  # float16 distances of 78 patches to 256 images, and so on


def test_a_large_network_needs_more() -> None:
    with_wide_resnet50_2 = fit_memory(5000, 784, 1024, Settings(), 99_000_000)  # 3.60 GB at most when it was measured
    assert 3.6e9 < with_wide_resnet50_2.rest + with_wide_resnet50_2.embeddings < 4e9


def test_too_little_is_said_before_any_image_is_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"takes about 0\.9 GB of memory, more than `memory_budget` 1MB"):
        tiny_softpatch(memory_budget="1MB", preset="patchcore").fit(paths)


def test_what_fits_nowhere_is_said_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"learning from 100,000 images needs about 19\.\d GB .* `memory_budget` 4GB"):
        embedding_store(fit_memory(100_000, 784, 128, Settings(), 0), "4GB", tmp_path, CPU)
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(memory_budget.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"needs 0\.2 GB of disk in .*, where 0\.0 GB are free"):
        embedding_store(THOUSAND, "1.25GB", tmp_path, CPU)


def test_disk_changes_nothing(plate_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_softpatch(symmetries="none").fit(plate_folder)
    for name in ("_BASE", "_PER_WEIGHT", "_PER_PATCH", "_PER_PATCH_COMPARED", "_PER_PIXEL", "_BYTES_OF_PIXEL"):
        # leaves what the bank and the calibration images take, 5.10 MB
        monkeypatch.setattr(memory_budget, name, 0)
    stored = []
    monkeypatch.setattr(torch, "from_file", lambda *a, _real=torch.from_file, **k: stored.append(a) or _real(*a, **k))
    again = tiny_softpatch(memory_budget="5.2MB", symmetries="none").fit(plate_folder)
    assert len(stored) == 1
    assert not Path(stored[0][0]).exists()
    for one, other in zip(whole.predict(plate_folder), again.predict(plate_folder), strict=True):
        assert one.image_score == other.image_score
        assert np.array_equal(one.anomaly_map, other.anomaly_map)


def test_a_second_pass_finds_the_full_embeddings_of_the_chosen_patches(plate_folder: Path) -> None:
    stages: list[str] = []
    detector = tiny_softpatch(projected_dim=4).fit(plate_folder, progress=lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages))[-3:] == ["coreset", "patches of the bank", "calibration"]
    banks = detector.detector.banks
    assert banks.classification.patches.shape[1] > 4
    # a bank patch is one of its owner's own, so that an image is at distance 0 from a bank of all patches
    everything = tiny_softpatch(projected_dim=4, preset="patchcore", coreset_ratio=1.0).fit(plate_folder / "train")
    scores = [answer.image_score for answer in everything.predict(plate_folder / "train")]
    assert max(scores) < 1e-3


@pytest.mark.parametrize(
    ("backbone", "crop", "batch_size", "gigabytes"), [("builtin-v1", 8192, 8, "70"), ("resnet18", 2048, 16, "24")]
)
def test_images_too_large_are_told_of_before_the_network_sees_one(
    backbone: str, crop: int, batch_size: int, gigabytes: str, good_images: np.ndarray
) -> None:
    estimator = tiny_softpatch(
        backbone=backbone, weights="random", resize=crop, crop=crop, batch_size=batch_size, workers=1
    )
    with pytest.raises(
        InputError, match=rf"images of {crop} x {crop} pixels, {batch_size} at a time, takes about {gigabytes}\.\d GB"
    ):
        estimator.fit(good_images)
