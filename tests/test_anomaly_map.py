"""Anomaly maps: bilinear upsampling, then Gaussian smoothing, as the libraries do them one after the other."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.testing import assert_close

from softpatch.scoring.anomaly_map import anomaly_maps


def two_steps(patch_scores: Tensor, shape: tuple[int, int], sigma: float) -> Tensor:
    upsampled = F.interpolate(patch_scores[:, None], size=shape, mode="bilinear", align_corners=False)[:, 0]
    smoothed = [gaussian_filter(image, sigma, mode="reflect") if sigma else image for image in upsampled.numpy()]
    return torch.stack([torch.from_numpy(image) for image in smoothed])


@pytest.mark.parametrize("sigma", [0.0, 0.7, 4.0, 30.0])
@pytest.mark.parametrize(
    ("grid", "shape"),
    [((8, 8), (64, 64)), ((7, 5), (50, 30)), ((1, 3), (33, 40)), ((16, 16), (16, 16)), ((20, 20), (12, 12))],
)
def test_is_upsampling_then_smoothing(grid: tuple[int, int], shape: tuple[int, int], sigma: float) -> None:
    scores = torch.rand(3, *grid, generator=torch.Generator().manual_seed(0))
    maps = anomaly_maps(scores, shape, sigma)
    assert (maps.shape, maps.dtype) == ((3, *shape), torch.float32)
    assert_close(maps, two_steps(scores, shape, sigma), rtol=1e-5, atol=1e-6)


def test_upsampling_by_hand() -> None:
    # pixel centres lie at -1/4, 1/4, 3/4, 5/4 of the distance between the two scores; beyond them the score stays
    maps = anomaly_maps(torch.tensor([[[0.0, 8.0]]]), (4, 4), 0.0)
    assert_close(maps, torch.tensor([0.0, 2.0, 6.0, 8.0]).expand(1, 4, 4))


@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_a_constant_stays_constant(sigma: float) -> None:
    assert_close(anomaly_maps(torch.full((1, 6, 9), 2.5), (40, 40), sigma), torch.full((1, 40, 40), 2.5))


def test_rows_stay_rows() -> None:
    scores = torch.zeros(1, 4, 4)
    scores[0, 0, 3] = 1.0
    assert divmod(int(anomaly_maps(scores, (32, 32), 1.0).argmax()), 32) == (0, 31)


def test_scores_are_left_as_they_are() -> None:
    scores = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    first = anomaly_maps(scores, (16, 16), 2.0)
    first.zero_()  # nor may a caller spoil what is remembered between calls
    assert torch.equal(scores, before)
    assert_close(anomaly_maps(scores, (16, 16), 2.0), two_steps(scores, (16, 16), 2.0))
