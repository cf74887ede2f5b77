"""A region of interest is proposed, shown, and never applied unseen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softpatch.data.images import file_ref
from softpatch.data.roi_proposal import propose_roi
from softpatch.errors import InputError
from test_cli import TINY, run

HEIGHT, WIDTH = 90, 120


def part(seed: int, *, shown: bool = True) -> np.ndarray:
    """A grained disc, 40 pixels wide, left of the middle on dark ground: uint8 (90, 120, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = np.hypot(x - 50 - rng.integers(-2, 3), y - 45) < 20
    grey = np.where(disc & shown, 150 + rng.normal(0, 20, disc.shape), 40 + rng.normal(0, 4, disc.shape))
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(part(number)).save(folder / f"{number:02d}.png")
    return folder


def test_the_part_is_told_from_the_ground(photographs: Path) -> None:
    (photographs / "04.png").write_bytes(b"no image")
    region = propose_roi([file_ref(path) for path in sorted(photographs.iterdir())])
    assert region.shape == (256, 256)
    y, x = np.mgrid[:256, :256] / 256
    away = np.hypot(x * WIDTH - 50, y * HEIGHT - 45)
    assert region[away < 21].all()
    assert not region[away > 32].any()


@pytest.mark.parametrize("shown", [False, True])
def test_where_no_part_can_be_told(shown: bool, tmp_path: Path) -> None:
    for number in range(5):
        pixels = part(number, shown=False)
        if shown:  # all over the image
            pixels = np.random.default_rng(number).integers(0, 255, pixels.shape).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="no part can be told from the ground; paint a mask"):
        propose_roi([file_ref(path) for path in sorted(tmp_path.iterdir())])


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the images that were tried can be read"):
        propose_roi([file_ref(tmp_path / "a.png")])


def test_the_command_line_shows_it_and_learns_nothing(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mask = tmp_path / "product.safetensors", tmp_path / "product-roi.png"
    code, out, _ = run(capsys, "fit", photographs, "-o", model, *TINY, "--roi", "auto")
    assert code == 0
    assert "nothing was learned" in out
    assert not model.exists()
    with Image.open(tmp_path / "product-roi-preview.png") as preview:
        assert preview.size == (6 * 320 + 5 * 8, 240)
    with Image.open(mask) as proposed:
        assert proposed.size == (WIDTH, HEIGHT)
    before = mask.read_bytes()
    code, _, told = run(capsys, "fit", photographs, "-o", model, *TINY, "--roi", "auto")
    assert code == 2
    assert "product-roi.png exists; fit with it as --roi, or remove it" in " ".join(told.split())
    assert mask.read_bytes() == before
    code, _, _ = run(capsys, "fit", photographs, "-o", model, *TINY, "--roi", mask)
    assert code == 0
    assert model.exists()
