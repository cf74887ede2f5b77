"""Images of more than 8 bits: which of their values are black and white, found in them or given."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch import SoftPatch
from softpatch.data.decode import read_image
from softpatch.data.images import file_ref
from softpatch.data.inputs import choose_images
from softpatch.data.value_range import find_value_range
from softpatch.errors import ImageError, InputError
from test_cli import run
from test_decode import deep_png

TINY = ["--resize", "64", "--crop", "64", "--device", "cpu", "--symmetries", "none"]


def deep(seed: int, *, white: float = 4095, defective: bool = False) -> np.ndarray:
    """A plate in grey, in values of another depth: (64, 64) float64."""
    return plate(seed, defective=defective).mean(axis=2).round() / 255 * white


def saved(folder: Path, pixels: np.ndarray, name: str, **options: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, **options)
    else:
        Image.fromarray(pixels).save(path)
    return path


def found(*paths: Path) -> tuple[float, float] | None:
    return find_value_range([file_ref(path) for path in paths])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(
    ("highest", "white"), [(200, 255), (256, 1023), (1023, 1023), (3900, 4095), (9000, 16383), (50_000, 65535)]
)
def test_the_least_depth_that_holds_the_values(tmp_path: Path, name: str, highest: int, white: int) -> None:
    pixels = np.linspace(0, highest, 64 * 64).reshape(64, 64).round().astype(np.uint16)
    dark = saved(tmp_path, pixels // 8, f"dark{name}")
    assert found(saved(tmp_path, pixels, name), dark) == (0, white)


def test_broken_pixels_are_not_asked(tmp_path: Path) -> None:
    pixels = deep(0).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint16)
    pixels[3, 5] = pixels[100, 7] = 65535
    assert found(saved(tmp_path, pixels, "hot.png")) == (0, 4095)


def test_files_that_say_what_white_is(tmp_path: Path) -> None:
    grey = saved(tmp_path, deep(0, white=255).astype(np.uint8), "8.png")
    colour = saved(tmp_path, plate(0), "8.jpg")
    unit = saved(tmp_path, deep(0, white=1).astype(np.float32), "unit.tif")
    stated = saved(tmp_path, deep(0).astype(np.uint16), "12.tif", extratags=[(281, "H", 1, 4095, True)])
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0")
    assert found(grey, colour, unit, stated, broken, tmp_path / "missing.png") is None
    assert found() is None


def test_values_that_no_depth_explains_have_room(tmp_path: Path) -> None:
    pixels = np.linspace(-10, 90, 64 * 64, dtype=np.float32).reshape(64, 64)
    assert found(saved(tmp_path, pixels, "heat.tif")) == (-20, 100)
    assert found(saved(tmp_path, np.full((8, 8), -3.0, np.float32), "flat.tif")) == (-4, -2)


def test_colour_of_16_bits_is_looked_at(tmp_path: Path) -> None:
    pixels = np.repeat(deep(0).round().astype(np.uint16)[:, :, None], 3, axis=2)
    assert found(deep_png(tmp_path / "colour.png", pixels)) == (0, 4095)
    assert found(saved(tmp_path, pixels, "colour.tif", photometric="rgb")) == (0, 4095)


def test_arrays_are_looked_at() -> None:
    refs = choose_images(deep(0).astype(np.uint16), "train").refs
    assert find_value_range(refs) == (0, 4095)


def test_values_are_scaled_and_what_lies_beyond_is_black_or_white(tmp_path: Path) -> None:
    pixels = np.array([[0, 100, 200], [300, 400, 65535]], dtype=np.uint16)
    wanted = torch.tensor([[0, 0, 0.5], [1, 1, 1]])
    for path in (saved(tmp_path, pixels, "a.png"), saved(tmp_path, pixels.astype(np.float32), "a.tif")):
        assert torch.equal(read_image(path, (100, 300)), wanted.expand(3, -1, -1))
    with pytest.raises(ImageError, match="images of this kind hold 0 to 1, unless `value_range` says else"):
        read_image(tmp_path / "a.tif")
    bright = saved(tmp_path, np.full((4, 4), 51, np.uint8), "8.png")
    assert read_image(bright, (100, 300)).unique().tolist() == pytest.approx([0.2])
    (frame,) = choose_images(np.full((4, 4), 0.25, np.float32), "predict").refs
    assert frame.load((100, 300)).unique().tolist() == [0.25]


@pytest.mark.parametrize(
    ("value_range", "message"),
    [
        ((5, 5), "`value_range` is 5 5; it is the value of black"),
        ((1,), "`value_range` is 1;"),
        ((0, float("nan")), "0 nan"),
        ((0, float("inf")), "0 inf"),
        ("12", "`value_range` is '12'"),
    ],
)
def test_what_is_no_range(value_range: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SoftPatch(value_range=value_range)


def test_deep_images_are_judged_as_shallow_ones_are(tmp_path: Path) -> None:
    for number in range(10):
        saved(tmp_path, deep(number).round().astype(np.uint16), f"deep/{number}.png")
        saved(tmp_path, (deep(number, white=255)).round().astype(np.uint8), f"shallow/{number}.png")
    new = [deep(number, defective=number > 52) for number in range(50, 55)]
    notes: list[str] = []
    of_deep = tiny_softpatch().fit(tmp_path / "deep", on_note=notes.append)
    of_shallow = tiny_softpatch().fit(tmp_path / "shallow")
    assert [note for note in notes if "more than 8 bits" in note] == [
        "images of more than 8 bits are read with black at 0 and white at 4095, by the values that they hold; set "
        "others with --range, `value_range` in Python"
    ]
    assert of_deep.detector.settings.value_range == (0, 4095)
    assert of_shallow.detector.settings.value_range is None
    assert of_deep.threshold == pytest.approx(of_shallow.threshold, rel=0.01)
    given = tiny_softpatch(value_range=(0, 4095)).fit(tmp_path / "deep")
    assert given.threshold == of_deep.threshold
    of_deep.save(tmp_path / "model.safetensors")
    loaded = SoftPatch.load(tmp_path / "model.safetensors")
    arrays = np.stack(new).round().astype(np.uint16)
    paths = [saved(tmp_path, pixels, f"new/{number}.tif") for number, pixels in enumerate(arrays)]
    scores = [answer.image_score for answer in loaded.predict(paths)]
    assert [answer.image_score for answer in loaded.predict(list(arrays))] == pytest.approx(scores)
    grey = (arrays / 4095 * 255).round().astype(np.uint8)
    shallow = [answer.image_score for answer in of_shallow.predict(list(grey))]
    assert scores == pytest.approx(shallow, rel=0.01)
    later = saved(tmp_path, deep(77).round().astype(np.uint16), "later/77.png")
    loaded.add(later)
    assert loaded.detector.training_images == 11


def test_commands_draw_deep_images_in_their_range(capsys, tmp_path: Path) -> None:
    for number in range(10):
        saved(tmp_path, deep(number).round().astype(np.uint16), f"photos/{number}.png")
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    code, _, notes = run(capsys, "fit", tmp_path / "photos", "-o", model, *TINY)
    assert code == 0
    assert "white at 4095" in notes
    assert "--range" in notes
    code, said, _ = run(capsys, "info", model)
    assert "black at 0, white at 4095" in said
    code, _, _ = run(capsys, "predict", model, tmp_path / "photos", "-o", out, "--overlays", "plain")
    assert code == 0
    drawn = next(iter(out.rglob("*.png")))
    with Image.open(drawn) as picture:
        assert np.asarray(picture).mean() > 40  # of 255; read as 16 bits it would be black
    code, _, said = run(capsys, "fit", tmp_path / "photos", "-o", model, "--range", 4095, 0, *TINY)
    assert code == 2
    assert "`value_range`" not in said
    assert "--range is 4095 0; it is the value of black, then the larger one of white: 0 4095" in said
