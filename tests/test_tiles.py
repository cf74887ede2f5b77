"""Images in tiles: the same as whole, without seams, at their own size, and no more of them in memory than fit."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from conftest import plate
from softpatch import SoftPatch
from softpatch.config import Runtime, Settings
from softpatch.data.images import file_ref
from softpatch.data.tiled_size import find_image_size, in_whole_patches, with_tiles
from softpatch.errors import InputError
from softpatch.features.backbone import Backbone, load_backbone
from softpatch.features.embedding import patch_embeddings
from softpatch.features.tiles import CELLS, embedding_shape, image_embeddings, tile_starts, tile_weights
from softpatch.memory_budget import images_at_once
from test_cli import run


@st.composite
def sides(draw: st.DrawFn) -> tuple[int, int, int]:
    """A side, a tile and an overlap, in cells."""
    tile = draw(st.integers(4, 20))
    return draw(st.integers(tile, 90)), tile, draw(st.integers(0, tile // 2))


@given(sides())
def test_tiles_cover_a_side_and_overlap(given: tuple[int, int, int]) -> None:
    side, tile, overlap = given
    starts = tile_starts(8 * side, 8 * tile, 8 * overlap, 8)
    assert (starts[0], starts[-1]) == (0, 8 * (side - tile))
    assert all(start % 8 == 0 for start in starts)
    shared = [8 * tile - (after - before) for before, after in pairwise(starts)]
    assert all(8 * (overlap - 1) <= each <= 8 * tile for each in shared)
    assert len(starts) <= 1 + -(-(side - tile) // (tile - overlap))  # no more than are needed


@given(sides())
def test_what_tiles_say_of_a_cell_is_shared_among_them(given: tuple[int, int, int]) -> None:
    side, tile, overlap = given
    starts = [start // 8 for start in tile_starts(8 * side, 8 * tile, 8 * overlap, 8)]
    weights = tile_weights(side, tile, overlap, starts)
    assert torch.allclose(weights.sum(dim=0), torch.ones(side), atol=1e-6)
    assert (weights > 0).sum(dim=1).tolist() == [tile] * len(starts)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("builtin-v1")


def scene(height: int, width: int, seed: int = 0) -> Tensor:
    """Coarse shapes under fine grain: (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.rand(1, 3, height // step, width // step, generator=generator) for step in (32, 2))
    scaled = [F.interpolate(each, size=(height, width), mode="bicubic") for each in (coarse, fine)]
    return (0.7 * scaled[0] + 0.3 * scaled[1])[0].clamp(0, 1)


@pytest.fixture(scope="module")
def in_tiles_and_whole(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Embeddings (H, W, D) of an image of 640 x 1024 pixels, in tiles of 384 that share 96 or a little more."""
    image = scene(640, 1024)[None]
    settings = Settings(tile=384, tile_overlap=96, size=(1024, 640))
    (grid, dim), found = embedding_shape(backbone, settings), image_embeddings(image, backbone, settings)
    assert (grid, found.shape, found.dtype) == ((40, 64), (1, 40 * 64, dim), torch.float16)
    (maps,) = backbone.feature_maps(image)
    cells = patch_embeddings([maps], settings.embedding_dim).float().view(1, 80, 128, dim)
    whole = F.avg_pool2d(cells.permute(0, 3, 1, 2), CELLS)[0].permute(1, 2, 0)
    return found.float().view(40, 64, dim), whole


def test_an_image_in_tiles_is_as_in_one_pass(in_tiles_and_whole: tuple[Tensor, Tensor]) -> None:
    tiled, whole = in_tiles_and_whole
    apart = (tiled - whole).norm(dim=2) / (whole - whole.mean(dim=(0, 1))).norm(dim=2).mean()
    assert apart.mean() < 0.005
    assert apart.max() < 0.05
    first = apart[:8, :8]  # only the first tile shows it, and nothing of it is near a border that is not the image's
    assert first.max() < 0.002


def test_no_seam_is_seen_in_gradients(in_tiles_and_whole: tuple[Tensor, Tensor]) -> None:
    tiled, whole = in_tiles_and_whole
    for axis in (0, 1):
        steps, expected = (each.diff(dim=axis).norm(dim=2).mean(dim=1 - axis) for each in (tiled, whole))
        assert (steps / expected - 1).abs().max() < 0.02  # of every row and column, seams among them


def test_without_overlap_there_are_seams(backbone: Backbone, in_tiles_and_whole: tuple[Tensor, Tensor]) -> None:
    _, whole = in_tiles_and_whole
    settings = Settings(tile=384, tile_overlap=0, size=(768, 384))
    tiled = image_embeddings(scene(640, 1024)[None, :, :384, :768], backbone, settings).float().view(24, 48, -1)
    steps, expected = (each.diff(dim=1).norm(dim=2).mean(dim=0) for each in (tiled, whole[:24, :48]))
    assert (steps / expected).argmax() == 23
    assert (steps / expected)[23] > 1.05


def strip(seed: int, *, defect: tuple[int, int] | None = None) -> np.ndarray:
    """A part of 200 x 330 pixels: (200, 330, 3) uint8. A defect is 9 pixels wide, about (x, y)."""
    pixels = np.concatenate([plate(6 * seed + i) for i in range(6)], axis=1)
    pixels = np.concatenate([pixels, pixels[::-1], pixels, pixels[::-1]])[:200, :330].copy()
    if defect is not None:
        x, y = defect
        pixels[y - 4 : y + 5, x - 4 : x + 5] = (240, 60, 50)
    return pixels


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strips") / "strips"
    folder.mkdir()
    for number in range(11):
        Image.fromarray(strip(number)).save(folder / f"{number:02d}.png")
    Image.fromarray(strip(11, defect=(60, 150))).save(folder / "11.png")
    return folder


@pytest.fixture(scope="module")
def fitted(strips: Path) -> SoftPatch:
    return SoftPatch(tile=128, tile_overlap=32, device="cpu").fit(strips)


def test_small_defects_in_long_images(fitted: SoftPatch, tmp_path: Path) -> None:
    assert (fitted.detector.settings.size, fitted.detector.grid) == ((336, 208), (13, 21))
    good, bad = fitted.predict([strip(90), strip(91, defect=(300, 40))])
    assert (good.verdict, bad.verdict) == ("good", "anomalous")
    assert (bad.width, bad.height, bad.anomaly_map.shape) == (330, 200, (52, 84))
    assert abs(bad.peak_x - 300) < 16
    assert abs(bad.peak_y - 40) < 16
    left, top, right, bottom = bad.box
    assert left < 300 < right
    assert top < 40 < bottom
    whole = bad.map_at_original_size()
    assert np.isfinite(whole).all()
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert abs(column - 300) < 16
    assert abs(row - 40) < 16
    (region,) = bad.regions()
    assert region.box == bad.box
    fitted.save(tmp_path / "model.safetensors")
    loaded = SoftPatch.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.settings == fitted.detector.settings
    assert loaded.predict(strip(91, defect=(300, 40))).image_score == bad.image_score
    again = SoftPatch(**loaded.get_params())
    assert again.settings == loaded.settings


def test_an_image_of_another_size_is_brought_to_the_models(fitted: SoftPatch) -> None:
    pixels = Image.fromarray(strip(91, defect=(300, 40))).resize((660, 400))
    answer = fitted.predict(np.asarray(pixels))
    assert (answer.width, answer.height) == (660, 400)
    assert abs(answer.peak_x - 600) < 32


def test_batches_and_workers_change_nothing(fitted: SoftPatch, strips: Path, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.safetensors")
    one = SoftPatch.load(tmp_path / "model.safetensors", device="cpu", batch_size=1, workers=1)
    for ours, theirs in zip(fitted.predict(strips), one.predict(strips), strict=True):
        assert ours.image_score == pytest.approx(theirs.image_score, rel=1e-4)  # tiles go together otherwise


def test_a_region_of_interest_of_long_images(strips: Path, tmp_path: Path) -> None:
    mask = np.zeros((200, 330), np.uint8)
    mask[:, :165] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    estimator = SoftPatch(tile=128, tile_overlap=32, roi=tmp_path / "left.png", device="cpu").fit(strips)
    clean, beyond, inside = estimator.predict([strip(90), strip(90, defect=(260, 40)), strip(90, defect=(60, 40))])
    assert beyond.image_score == clean.image_score
    assert inside.is_anomalous
    assert np.isnan(inside.map_at_original_size()[:, 170:]).all()


def test_images_are_changed_and_learned_from_anew(strips: Path, fitted: SoftPatch) -> None:
    changed = SoftPatch(tile=128, tile_overlap=32, device="cpu").fit(strips)
    changed.add([strip(20), strip(21)])
    assert changed.detector.training_images == 14
    assert changed.remove("*11.png").detector.training_images == 13
    changed = SoftPatch(tile=128, tile_overlap=32, device="cpu").fit(strips).refit()
    assert changed.threshold == fitted.threshold


def sized(settings: Settings, width: int, height: int) -> Settings:
    return in_whole_patches(with_tiles(settings, (width, height)), 16)


@pytest.mark.parametrize(
    ("settings", "original", "size", "tile"),
    [
        (Settings(tile=512), (4000, 3000), (4000, 3008), 512),
        (Settings(tile="auto"), (4000, 3000), (4000, 3008), 560),
        (Settings(tile="auto"), (900, 900), (896, 896), 480),
        (Settings(tile="auto"), (1000, 300), (1008, 304), 304),
        (Settings(tile="auto"), (80, 200), (80, 208), 80),
        (Settings(tile="auto", smallest_defect=8.0), (900, 900), (896, 896), 480),
        (Settings(tile="auto", smallest_defect=32.0), (4000, 3000), (2000, 1504), 560),
        (Settings(tile=256, smallest_defect=64.0), (4000, 3000), (1008, 752), 256),
    ],
)
def test_how_large_images_are_to_be(
    settings: Settings, original: tuple[int, int], size: tuple[int, int], tile: int
) -> None:
    chosen = sized(settings, *original)
    assert (chosen.size, chosen.tile) == (size, tile)


@pytest.mark.parametrize(
    ("settings", "original", "message"),
    [
        (
            Settings(tile=512),
            (400, 300),
            r"`tile` 512 is larger than images of 400 x 304 pixels; it is at most 304, or",
        ),
        (
            Settings(tile=512, smallest_defect=64.0),
            (1600, 1200),
            r"larger than images of 400 x 304 pixels, made smaller from 1600 x 1200 by `smallest_defect`; it is at",
        ),
        (Settings(tile="auto"), (50, 300), r"48 x 304 pixels are too small for tiles; leave out `tile`"),
        (Settings(tile="auto", smallest_defect=100.0), (300, 300), r"are too small for tiles; name a smaller defect"),
        (Settings(tile=200), (900, 900), r"`tile` 200 is no multiple of 16 pixels, a patch of backbone .*; take 192"),
    ],
)
def test_tiles_that_do_not_fit(settings: Settings, original: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sized(settings, *original)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tile": "large"}, "`tile` is 'large'; it is a number of pixels, or auto"),
        ({"tile": 20}, "`tile` is 20; it must be within 64 and 4096"),
        ({"tile": 128, "tile_overlap": 100}, "`tile_overlap` is 100; it must be within 0 and 64"),
        ({"smallest_defect": 20.0}, "`smallest_defect` is 20.0, which is for tiles; give `tile` too, or auto"),
        ({"tile": 128, "smallest_defect": 0.0}, "`smallest_defect` is 0.0; it must be within 1 and 16384"),
        ({"tile": 128, "size": (300,)}, r"`size` is \(300,\); it is a width and a height in pixels"),
        ({"tile": 128, "size": (300, 100)}, "`size` is 100; it must be within 128 and 65500"),
        ({"tile": "auto", "size": (300, 200)}, "`tile` is auto and `size` given, .*; name the tile's side"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SoftPatch(**values)


def test_the_size_of_most_images_counts(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, size in zip(paths, [(80, 60), (120, 90), (120, 90), (70, 70)], strict=True):
        Image.new("RGB", size).save(path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    refs = [file_ref(path) for path in (tmp_path / "broken.png", *paths)]
    assert find_image_size(refs) == (120, 90)
    with pytest.raises(InputError, match="none of the images that were tried can be read"):
        find_image_size(refs[:1])


def test_fewer_large_images_are_seen_at_once() -> None:
    runtime = Runtime(batch_size=16)
    assert images_at_once(Settings(), runtime) == 16
    assert images_at_once(Settings(tile=512, size=(512, 512)), runtime) == 4
    assert images_at_once(Settings(tile=512, size=(4000, 3008)), runtime) == 1


def test_what_does_not_fit_in_memory_is_told_of(strips: Path) -> None:
    with pytest.raises(InputError, match=r"images of 336 x 208 pixels, \d+ at a time, takes about 1\.0 GB"):
        SoftPatch(tile=128, tile_overlap=32, memory_budget="100MB").fit(strips)


def test_the_command_line(strips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, bad = tmp_path / "model.safetensors", tmp_path / "bad.png"
    asked = ["--tile", "auto", "--overlap", "32", "--smallest-defect", "16px", "--device", "cpu"]
    code, _, told = run(capsys, "fit", strips, "-o", model, *asked)
    assert code == 0
    assert "Images are looked at as 336 x 208 pixels, in tiles of 208." in told
    Image.fromarray(strip(91, defect=(300, 40))).save(bad)
    run(capsys, "predict", model, bad, "-o", tmp_path / "results", "--overlays", "side-by-side")
    assert "anomalous" in (tmp_path / "results/predictions.csv").read_text()
    _, out, _ = run(capsys, "info", model)
    assert "336 x 208 px, in tiles of 208 x 208 px that share 32, in 13 x 21 patches" in out


@pytest.mark.parametrize("value", ["12km", "-4", "big"])
def test_no_number_of_pixels(value: str, strips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, told = run(capsys, "fit", strips, f"--smallest-defect={value}", "--tile", "auto")
    assert code == 2
    assert f"'{value}' is no number of pixels; it is like 40 or 40px" in " ".join(told.split())
