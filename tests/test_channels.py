"""TIFFs of several pages or more than three channels: the named ones are looked at, and none is chosen unasked."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch import SoftPatch
from softpatch.data.decode import read_image
from softpatch.data.layouts import open_dataset
from softpatch.errors import ImageError, InputError
from test_cli import TINY, run

SIZE = 64


def planes(seed: int, *, defective: bool = False) -> np.ndarray:
    """Channels (5, 64, 64) uint16: red, green, blue, a near infrared in which alone a defect shows, and noise."""
    rng = np.random.default_rng(seed)
    colours = plate(seed).transpose(2, 0, 1).astype(np.uint16) * 256
    infrared = plate(seed, defective=defective)[..., 0].astype(np.uint16) * 256
    return np.stack([*colours, infrared, rng.integers(0, 65535, (SIZE, SIZE)).astype(np.uint16)])


def written(path: Path, values: np.ndarray, kind: str) -> Path:
    if kind == "pages":
        tifffile.imwrite(path, values, photometric="minisblack")
    elif kind == "interleaved":
        tifffile.imwrite(path, np.moveaxis(values, 0, 2), photometric="minisblack", planarconfig="contig")
    elif kind == "planes":
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="separate")
    else:  # an RGB page and two grey ones
        with tifffile.TiffWriter(path) as file:
            file.write(np.moveaxis(values[:3], 0, 2), photometric="rgb")
            for plane in values[3:]:
                file.write(plane, photometric="minisblack")
    return path


KINDS = ["pages", "interleaved", "planes", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_channels_are_read(kind: str, tmp_path: Path) -> None:
    values = planes(0)
    path = written(tmp_path / "image.tif", values, kind)
    for channels in ((0, 1, 2), (3, 1, 0), (4,)):
        expected = torch.from_numpy(values[list(channels)].astype(np.float32)) / 65535
        found = read_image(path, channels=channels)
        assert torch.allclose(found, expected.expand(3, -1, -1), atol=1e-6)
    ranged = read_image(path, (0, 30_000), (3,))
    assert torch.allclose(ranged[0], (torch.from_numpy(values[3].astype(np.float32)) / 30_000).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_chosen_unasked(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "image.tif", planes(0), kind)
    with pytest.raises(ImageError, match=r"holds \d (pages|channels); name .* by `channels`, one or three of 0 to 4"):
        read_image(path)
    with pytest.raises(ImageError, match="the TIFF has the channels 0 to 4, and none of number 7"):
        read_image(path, channels=(7,))


def test_four_channels_are_not_taken_for_colour_and_transparency(tmp_path: Path) -> None:
    values = np.moveaxis(planes(0)[:4], 0, 2)
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(ImageError, match=r"holds 4 channels; .* one or three of 0 to 3"):
        read_image(tmp_path / "image.tif")
    opaque = np.dstack([values[..., :3] // 256, np.full((SIZE, SIZE), 255)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "alpha.tif", opaque, photometric="rgb", extrasamples=["unassalpha"])
    assert torch.allclose(read_image(tmp_path / "alpha.tif"), torch.from_numpy(opaque[..., :3]).permute(2, 0, 1) / 255)


def test_a_smaller_copy_is_no_page(tmp_path: Path) -> None:
    pixels = plate(0)
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        file.write(pixels, photometric="rgb")
        file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
    assert torch.allclose(read_image(tmp_path / "image.tif"), torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_compressed_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", planes(0), photometric="minisblack", compression="zlib")
    with pytest.raises(ImageError, match="channels of a compressed or unusual TIFF are not read; save it uncompressed"):
        read_image(tmp_path / "image.tif", channels=(0,))


@pytest.mark.parametrize("name", ["image.png", "packed.tif", "plain.tif"])
def test_of_a_plain_image_colours_are_its_channels(name: str, tmp_path: Path) -> None:
    pixels = plate(0, defective=True)
    Image.fromarray(pixels).save(tmp_path / name, **({"compression": "tiff_lzw"} if name == "packed.tif" else {}))
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    assert torch.allclose(read_image(tmp_path / name, channels=(2, 0, 1)), expected[[2, 0, 1]])
    assert torch.allclose(read_image(tmp_path / name, channels=(1,)), expected[[1, 1, 1]])
    with pytest.raises(ImageError, match="the image has the channels 0 to 2, and none of number 3"):
        read_image(tmp_path / name, channels=(3,))


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    large = np.zeros((2, 60, 6100), np.uint16)  # longer than any photograph
    tifffile.imwrite(tmp_path / "long.tif", large, photometric="minisblack")
    with pytest.raises(ImageError, match="one side is at most 100 times the other"):
        read_image(tmp_path / "long.tif", channels=(1,))


def test_white_may_be_zero(tmp_path: Path) -> None:
    values = planes(0)
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="miniswhite")
    expected = 1 - torch.from_numpy(values[3].astype(np.float32)) / 65535
    assert torch.allclose(read_image(tmp_path / "image.tif", channels=(3,))[0], expected, atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(12):
        written(tmp_path / f"photos/{number:02d}.tif", planes(number), "pages")
    return tmp_path / "photos"


def test_a_defect_in_one_channel(folder: Path, tmp_path: Path) -> None:
    good, bad = (
        written(tmp_path / f"{name}.tif", planes(70, defective=name == "bad"), "pages") for name in ("good", "bad")
    )
    seen = tiny_softpatch(channels=[3]).fit(folder)
    assert seen.predict(bad).image_score > 2 * seen.predict(good).image_score
    blind = tiny_softpatch(channels=(0, 1, 2)).fit(folder)
    assert blind.predict(bad).image_score == blind.predict(good).image_score
    seen.save(tmp_path / "model.safetensors")
    loaded = SoftPatch.load(tmp_path / "model.safetensors")
    assert loaded.predict(bad).image_score == seen.predict(bad).image_score
    assert loaded.refit().threshold == seen.threshold
    Image.fromarray(plate(71)).save(tmp_path / "plain.png")  # has no near infrared
    with pytest.raises(ImageError, match="has the channels 0 to 2, and none of number 3"):
        loaded.predict(tmp_path / "plain.png")


def test_masks_of_compressed_images(plate_folder: Path) -> None:
    for path in [*plate_folder.glob("train/*/*.png"), *plate_folder.glob("test/*/*.png")]:
        with Image.open(path) as image:
            image.save(path.with_suffix(".tif"), compression="tiff_lzw")
        path.unlink()
    samples = [sample for sample in open_dataset(plate_folder).test if sample.is_anomalous]
    assert len(samples) == 4
    assert all(sample.read_mask().any() for sample in samples)


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.safetensors"
    code, _, told = run(capsys, "fit", folder, "-o", model, *TINY)
    assert code == 2
    assert "the TIFF holds 5 pages; name those to look at by" in " ".join(told.split())
    code, _, told = run(capsys, "fit", folder, "-o", model, *TINY, "--channels", "3")
    assert code == 0, told
    bad = written(tmp_path / "bad.tif", planes(70, defective=True), "pages")
    code, _, _ = run(capsys, "predict", model, bad, "-o", tmp_path / "results", "--overlays", "plain")
    assert code == 0
    assert (tmp_path / "results/overlays/bad.tif.png").exists()
    code, _, told = run(capsys, "fit", folder, "-o", model, "--channels", "near infrared")
    assert code == 2
    assert "'near infrared' is no list of channels; it is one or three numbers, such as 0,1,3" in " ".join(told.split())


@pytest.mark.parametrize("channels", [(), (0, 1), (-1,), (64,)])
def test_channels_that_make_no_image(channels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"`channels` is .*; it is one or three numbers from 0 on"):
        SoftPatch(channels=channels)
