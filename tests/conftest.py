"""A tiny product: grey plates with a fixed grid of dots, some with a bright blot. Small enough to fit in a second."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softpatch.estimator import SoftPatch

SIZE = 64

torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives


def plate(seed: int, *, defective: bool = False) -> np.ndarray:
    """A uint8 RGB image (64, 64, 3); a defective one has a bright blot, 10 px wide, somewhere."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIZE, SIZE, 3), 110.0)
    pixels[8::16, 8::16] = 30
    pixels += rng.normal(0, 3, pixels.shape)
    if defective:
        x, y = rng.integers(8, SIZE - 18, 2)
        pixels[y : y + 10, x : x + 10] = (250, 240, 60)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def good_images() -> np.ndarray:
    """(12, 64, 64, 3) uint8."""
    return np.stack([plate(seed) for seed in range(12)])


@pytest.fixture(scope="session")
def defective_images() -> np.ndarray:
    """(4, 64, 64, 3) uint8."""
    return np.stack([plate(seed, defective=True) for seed in range(100, 104)])


@pytest.fixture(scope="session")
def fitted(good_images: np.ndarray, defective_images: np.ndarray) -> SoftPatch:
    """The default fitted on 12 good plates and a defective one."""
    return tiny_softpatch().fit(np.concatenate([good_images, defective_images[:1]]))


def tiny_softpatch(**settings: object) -> SoftPatch:
    """An estimator on a random ResNet-18 at 64 px; `settings` override."""
    plain = {"backbone": "resnet18", "weights": "random", "resize": SIZE, "crop": SIZE, "device": "cpu"}
    return SoftPatch(**{**plain, **settings})


@pytest.fixture
def plate_folder(tmp_path: Path) -> Path:
    """A dataset in the MVTec AD layout: 12 good and 1 defective for training, 4 + 4 for testing, with masks."""
    root = tmp_path / "plates"
    for part, seeds, defective in (
        ("train/good", [*range(12)], False),
        ("test/good", [*range(50, 54)], False),
        ("test/blot", [*range(100, 104)], True),
    ):
        (root / part).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(plate(seed, defective=defective)).save(root / part / f"{seed:03d}.png")
    Image.fromarray(plate(200, defective=True)).save(root / "train/good/200.png")
    (root / "ground_truth/blot").mkdir(parents=True)
    for seed in range(100, 104):
        blot = plate(seed, defective=True)[..., 2].astype(int) - plate(seed, defective=True)[..., 0] < -150
        Image.fromarray((blot * 255).astype(np.uint8)).save(root / f"ground_truth/blot/{seed:03d}_mask.png")
    return root


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
