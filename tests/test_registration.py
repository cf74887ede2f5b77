"""Parts that lie turned or shifted: where they lie is found, and they are judged as if they lay alike."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor

from conftest import plate
from softpatch import SoftPatch
from softpatch.config import unpacked_reference
from softpatch.data.registration import find_poses, inverted, moved, packed_reference, small_greys
from softpatch.errors import InputError
from test_cli import run

SIDE = 160


def bracket(
    angle: float, shift: tuple[float, float], seed: int, *, aspect: float = 1.0, dent: bool = False
) -> np.ndarray:
    """A bright part in the shape of an L, turned counter-clockwise and shifted: uint8 (SIDE, SIDE · aspect, 3)."""
    rng = np.random.default_rng(seed)
    height, width = SIDE, round(SIDE * aspect)
    y, x = (
        np.mgrid[:height, :width] - np.array([[[height / 2]], [[width / 2]]]) - np.array([[[shift[1]]], [[shift[0]]]])
    )
    along = x * np.cos(np.radians(angle)) - y * np.sin(np.radians(angle))
    down = x * np.sin(np.radians(angle)) + y * np.cos(np.radians(angle))
    arm = (abs(along + 20) < 9) & (abs(down) < 45)
    foot = (abs(along - 8) < 36) & (abs(down - 38) < 8)
    grey = 60.0 + 120 * (arm | foot) - 70 * (np.hypot(along + 20, down + 30) < 5) + 40 * (arm & (abs(down - 5) < 3))
    if dent:
        grey -= 110 * (np.hypot(along - 25, down - 38) < 8)
    grey = ndimage.gaussian_filter(grey, 1) + rng.normal(0, 3, grey.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


REFERENCE = packed_reference(small_greys(tensor(bracket(0, (0, 0), 0)))[0])


@settings(max_examples=25, deadline=None)
@given(st.floats(-180, 180), st.floats(-16, 16), st.floats(-16, 16))
def test_a_turned_and_shifted_part_is_brought_back(angle: float, x: float, y: float) -> None:
    upright, turned = tensor(bracket(0, (0, 0), 0)), tensor(bracket(angle, (x, y), 1))
    poses, match = find_poses(small_greys(turned), REFERENCE, 1.0)
    assert match > 0.9
    apart = (moved(turned, poses) - upright)[:, :, 30:-30, 30:-30].abs().mean()
    assert apart < 0.035  # noise alone is 0.01
    middle = torch.tensor([0.0, 0.0, 1.0])
    there = poses[0] @ middle * SIDE / 2
    assert (there - torch.tensor([x, y])).abs().max() < 2  # a pixel of the small grey is 2.5


def test_in_images_that_are_squeezed() -> None:
    upright, turned = (tensor(bracket(angle, (0, 0), 0, aspect=1.5)) for angle in (0, 70))
    upright, turned = (
        torch.nn.functional.interpolate(each, (SIDE, SIDE), mode="bilinear", antialias=True)
        for each in (upright, turned)
    )
    reference = packed_reference(small_greys(upright)[0])
    poses, match = find_poses(small_greys(turned), reference, 1.5)
    assert match > 0.85
    assert (moved(turned, poses) - upright)[:, :, 30:-30, 30:-30].abs().mean() < 0.05


def test_what_matches_nowhere_is_left_as_it_lies() -> None:
    noise = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    poses, match = find_poses(small_greys(noise), REFERENCE, 1.0)
    assert match < 0.5
    assert torch.equal(poses[0], torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    flat = torch.full((1, 3, SIDE, SIDE), 0.5)
    assert torch.equal(find_poses(small_greys(flat), REFERENCE, 1.0)[0], poses)
    blank = packed_reference(small_greys(flat)[0])
    assert torch.equal(find_poses(small_greys(noise), blank, 1.0)[0], poses)


def test_poses_lead_back() -> None:
    poses, _ = find_poses(small_greys(tensor(bracket(40, (5, -9), 1))), REFERENCE, 1.3)
    whole = torch.cat([poses, torch.tensor([[[0.0, 0.0, 1.0]]])], dim=1)
    back = torch.cat([inverted(poses), torch.tensor([[[0.0, 0.0, 1.0]]])], dim=1)
    assert torch.allclose(whole @ back, torch.eye(3)[None], atol=1e-5)


@pytest.fixture(scope="module")
def brackets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 brackets, turned anyhow; one of them with a dent."""
    folder = tmp_path_factory.mktemp("brackets") / "brackets"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = bracket(rng.uniform(0, 360), tuple(rng.uniform(-9, 9, 2)), number, dent=number == 5)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def where(angle: float, x: float, y: float) -> tuple[float, float]:
    """Where the dent lies on a bracket that is turned by `angle` and shifted by (x, y)."""
    turn = np.radians(angle)
    return 80 + x + 25 * np.cos(turn) + 38 * np.sin(turn), 80 + y - 25 * np.sin(turn) + 38 * np.cos(turn)


@pytest.fixture(scope="module")
def fitted(brackets: Path) -> SoftPatch:
    notes: list[str] = []
    estimator = SoftPatch(align="find", device="cpu").fit(brackets, on_note=notes.append)
    assert any("nearer to each other once they are aligned, and are from now on" in note for note in notes)
    return estimator


def test_parts_are_judged_as_if_they_lay_alike(fitted: SoftPatch, brackets: Path, tmp_path: Path) -> None:
    plain = SoftPatch(device="cpu").fit(brackets)
    dented, good = bracket(130, (7, -4), 90, dent=True), bracket(130, (7, -4), 90)
    sound = fitted.predict(good).image_score
    answer = fitted.predict(dented, threshold=1.1 * sound)
    assert answer.image_score / sound > 1.1 * plain.predict(dented).image_score / plain.predict(good).image_score
    assert answer.is_anomalous
    x, y = where(130, 7, -4)
    assert np.hypot(answer.peak_x - x, answer.peak_y - y) < 10
    row, column = np.unravel_index(np.nan_to_num(answer.map_at_original_size()).argmax(), (SIDE, SIDE))
    assert np.hypot(column - x, row - y) < 10
    left, top, right, bottom = answer.box
    assert left < x < right
    assert top < y < bottom
    fitted.save(tmp_path / "model.safetensors")
    loaded = SoftPatch.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.predict(dented).image_score == answer.image_score
    assert SoftPatch(**loaded.get_params()).settings == loaded.settings


def test_images_that_match_nowhere_are_told_of(brackets: Path) -> None:
    rng = np.random.default_rng(0)
    images = [np.asarray(Image.open(path)) for path in sorted(brackets.iterdir())]
    images.append(rng.integers(0, 255, images[0].shape).astype(np.uint8))
    notes: list[str] = []
    SoftPatch(align="find", device="cpu").fit(images, on_note=notes.append)
    assert "1 of 25 images match the others nowhere and are seen as they lie, image 24 for one" in notes


def test_parts_that_lie_alike_are_left_so(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(plate(number)).save(tmp_path / f"{number}.png")
    notes: list[str] = []
    estimator = SoftPatch(align="find", resize=64, crop=64, device="cpu").fit(tmp_path, on_note=notes.append)
    assert estimator.detector.settings.align == "none"
    assert any("which is too little, so they are not" in note for note in notes)


@pytest.mark.parametrize("align", ["always", "AAAA", "", REFERENCE[:-8]])
def test_text_that_holds_no_reference(align: str) -> None:
    with pytest.raises(InputError, match=r"`align` is .*; choose from none, find"):
        SoftPatch(align=align)
    assert len(unpacked_reference(REFERENCE)) == 64 * 64


def test_a_region_would_have_to_move(tmp_path: Path) -> None:
    Image.new("L", (64, 64), 255).save(tmp_path / "all.png")
    with pytest.raises(InputError, match="`align` and `roi` do not go together"):
        SoftPatch(align="find", roi=tmp_path / "all.png")


def test_the_command_line(brackets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.safetensors"
    code, _, told = run(capsys, "fit", brackets, "-o", model, "--align", "--device", "cpu")
    assert code == 0
    assert "nearer to each other once they are aligned" in told
    _, out, _ = run(capsys, "info", model)
    assert ", aligned, in 32 x 32 patches" in out
    code, _, _ = run(capsys, "audit", brackets, "--model", model, "-o", tmp_path / "audit")
    assert code == 0
    assert "05.png" in (tmp_path / "audit/audit.csv").read_text().splitlines()[1]
