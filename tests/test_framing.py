import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from softpatch.data.framing import Framing
from softpatch.errors import InputError

PAPER = Framing.square(256, 224)


def framings() -> st.SearchStrategy[Framing]:
    sizes = st.tuples(st.integers(32, 96), st.integers(32, 96)).filter(lambda pair: pair[0] >= pair[1])
    squares = sizes.map(lambda pair: Framing.square(*pair))
    sides = st.integers(8, 24).map(lambda side: 4 * side)
    return squares | st.tuples(sides, sides).map(lambda size: Framing(size, size, step=4))


@pytest.mark.parametrize(("resize", "crop"), [(16, 16), (256, 31), (224, 256), (-256, 224)])
def test_sizes_that_do_not_go_together(resize: int, crop: int) -> None:
    with pytest.raises(InputError, match=f"images of {resize} pixels and a crop of {crop} do not go together"):
        Framing.square(resize, crop)


def test_margin_of_the_paper() -> None:
    assert PAPER.margin == (16, 16)
    assert Framing.square(225, 224).margin == (0, 0)


def test_an_image_of_the_right_size_is_only_cropped() -> None:
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert torch.equal(PAPER.apply(image), image[:, 16:240, 16:240])


def test_halving_averages_pixels() -> None:
    # with antialiasing, halving weighs four pixels in a row by 1, 3, 3, 1: a ramp stays a ramp
    ramp = torch.arange(64.0).div(64).expand(3, 64, 64)
    resized = Framing.square(32, 32).apply(ramp)
    assert resized.shape == (3, 32, 32)
    assert_close(resized[0, 5, 1:31], (torch.arange(1, 31) * 2 + 0.5) / 64)
    assert resized[0, 5, 0].item() == pytest.approx((0 * 3 + 1 * 3 + 2 * 1) / 7 / 64)  # the edge is not repeated


def test_antialiasing_keeps_a_thin_scratch() -> None:
    image = torch.zeros(3, 640, 640)
    image[:, :, 301] = 1
    assert Framing.square(64, 64).apply(image)[0, 30].sum().item() == pytest.approx(0.1, abs=1e-3)


def test_the_aspect_ratio_is_not_kept() -> None:
    image = torch.zeros(3, 40, 200)
    image[:, :20, :] = 1  # the upper half
    framed = Framing.square(64, 32).apply(image)  # rows 16 to 48 of 64: the edge lies in the middle
    assert framed.shape == (3, 32, 32)
    assert framed[:, :15].min() > 0.99
    assert framed[:, 17:].max() < 0.01


@settings(deadline=None)
@given(framings(), st.integers(1, 90), st.integers(1, 90))
def test_white_stays_white(framing: Framing, height: int, width: int) -> None:
    framed = framing.apply(torch.ones(3, height, width))
    assert framed.shape == (3, framing.crop[1], framing.crop[0])
    assert framed.min() > 0.99999
    assert framed.max() <= 1  # not even by rounding


def test_a_cell_of_a_mask_is_anomalous_where_any_pixel_in_it_is() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[11:20, 30:39] = True
    halved = Framing.square(32, 32).apply_to_mask(mask)
    assert halved.dtype == torch.bool
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[5:10, 15:20] = True
    assert torch.equal(halved, expected)
    same_size = torch.rand(256, 256, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(PAPER.apply_to_mask(same_size), same_size[16:240, 16:240])


@settings(deadline=None)
@given(framings(), st.integers(1, 400), st.integers(1, 400), st.data())
def test_no_defect_is_too_thin_for_a_mask(framing: Framing, height: int, width: int, data: st.DataObject) -> None:
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y, x] = True
    whole = replace(framing, crop=framing.size)
    found = whole.apply_to_mask(mask).nonzero()
    assert len(found) > 0
    for place, side, size in ((y, 0, height), (x, 1, width)):
        cells = found[:, side].float().add(0.5) / whole.map_shape[side] * size  # in pixels of the original
        assert (cells - place - 0.5).abs().max() <= 1 + size / whole.map_shape[side]


def test_a_line_of_pixels_is_brought_to_a_square_without_much_memory() -> None:
    line = torch.rand(3, 40_000, 1, generator=torch.Generator().manual_seed(0))
    framed = Framing.square(64, 64).apply(line)
    assert_close(framed[:, :, 0], framed[:, :, 63])
    assert_close(framed, F.interpolate(line[None], size=(64, 64), mode="bilinear", antialias=True)[0])


def test_masks_and_images_are_framed_alike() -> None:
    y, x = torch.meshgrid(torch.arange(150), torch.arange(210), indexing="ij")
    disc = (x - 120) ** 2 + (y - 60) ** 2 < 30**2
    framing = Framing.square(96, 64)
    grey = framing.apply(disc.float().expand(3, -1, -1))[0]
    assert ((grey > 1e-6) != framing.apply_to_mask(disc)).float().mean() < 0.05
    assert framing.apply_to_mask(disc)[grey > 0.5].all()


def test_points_map_to_the_original() -> None:
    assert PAPER.to_original(0, 0, 256, 256) == (16, 16)
    assert PAPER.to_original(223, 100, 256, 256) == (239, 116)
    # at 512 pixels, pixel 16 of 256 covers the pixels 32 and 33
    assert PAPER.to_original(0, 0, 512, 256) == (32.5, 16)
    assert Framing.square(64, 64).to_original(60, 0, 32, 640) == (29.75, 4.5)
    assert Framing.square(64, 64).to_original(63, 0, 32, 640) == (31, 4.5)  # never beyond the last pixel


def test_maps_come_back_where_they_were() -> None:
    anomaly_map = np.random.default_rng(0).random((224, 224), np.float32)
    whole = PAPER.map_to_original(anomaly_map, 256, 256)
    assert np.array_equal(whole[16:240, 16:240], anomaly_map)
    assert np.isnan(whole).sum() == 256**2 - 224**2
    wide = PAPER.map_to_original(anomaly_map, width=512, height=128)
    assert wide.shape == (128, 512)
    inside = ~np.isnan(wide)
    assert inside[8:120, 32:480].all()
    assert inside.sum() == 112 * 448
    shrunk = F.interpolate(torch.from_numpy(anomaly_map)[None, None], (112, 448), mode="bilinear")[0, 0]
    assert_close(torch.from_numpy(wide[8:120, 32:480]), shrunk)


@settings(deadline=None)
@given(framings(), st.integers(1, 300), st.integers(1, 300))
def test_maps_of_any_size_fill_the_seen_part(framing: Framing, width: int, height: int) -> None:
    whole = framing.map_to_original(np.ones(framing.map_shape, np.float32), width, height)
    assert whole.shape == (height, width)
    inside = ~np.isnan(whole)
    assert np.abs(whole[inside] - 1).max() < 1e-6
    shares = (crop / size for crop, size in zip(framing.crop, framing.size, strict=True))
    for seen, side, share in zip((inside.any(0).sum(), inside.any(1).sum()), (width, height), shares, strict=True):
        assert seen >= 1
        assert abs(seen - share * side) <= 1


@settings(deadline=None)
@given(framings(), st.integers(100, 300), st.integers(100, 300), st.data())
def test_a_peak_comes_back_near_where_its_point_maps(
    framing: Framing, width: int, height: int, data: st.DataObject
) -> None:
    y, x = (data.draw(st.integers(0, side - 1)) for side in framing.map_shape)
    anomaly_map = np.zeros(framing.map_shape, np.float32)
    anomaly_map[y, x] = 1
    weights = np.nan_to_num(framing.map_to_original(anomaly_map, width, height))
    at_x, at_y = framing.to_original(x, y, width, height)
    centre_x = (weights.sum(0) * np.arange(width)).sum() / weights.sum()
    centre_y = (weights.sum(1) * np.arange(height)).sum() / weights.sum()
    # at the border a peak spreads to one side only, by a quarter of a pixel of the map; rounding moves it by one
    assert math.isclose(centre_x, at_x, abs_tol=1 + width * framing.step / framing.size[0] / 4)
    assert math.isclose(centre_y, at_y, abs_tol=1 + height * framing.step / framing.size[1] / 4)


def test_what_the_crop_covers_of_the_original() -> None:
    assert Framing.square(256, 224).covered(256, 512) == (16, 32, 240, 480)
    assert Framing.square(64, 64).covered(10, 3000) == (0, 0, 10, 3000)
    assert Framing.square(320, 32).covered(1, 5) == (0, 2, 1, 3)  # less than a pixel, and never none


def test_a_box_of_a_map_is_that_of_the_whole() -> None:
    anomaly_map = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    for framing, width, height in ((Framing.square(40, 32), 100, 30), (Framing.square(32, 32), 7, 300)):
        left, top, right, bottom = framing.covered(width, height)
        box = left + 1, top + 3, right - 2, bottom
        whole = framing.map_to_original(anomaly_map, width, height)[box[1] : box[3], box[0] : box[2]]
        assert np.allclose(framing.map_in_box(anomaly_map, box, width, height), whole, atol=1e-5)
