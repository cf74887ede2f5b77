"""Rank fusion, discarding and clipping: by hand, against scipy, and with exact counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch.testing import assert_close

from softpatch.config import preset_settings
from softpatch.memory.selection import (
    PatchNoise,
    clip_above_quantile,
    discard_share,
    fuse,
    judge_patches,
    kept_patches,
    outlying_share,
    ranks,
)


def test_ranks_by_hand() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 2.0, 9.0])).tolist() == [0.75, 0.25, 0.5, 1.0]


def test_equal_scores_share_the_mean_of_their_ranks() -> None:
    # sorted 1, 2, 2, 5: ranks 1, (2 + 3) / 2 twice, 4
    assert ranks(torch.tensor([2.0, 5.0, 2.0, 1.0])).tolist() == [2.5 / 4, 1.0, 2.5 / 4, 0.25]
    assert ranks(torch.full((3,), 7.0)).tolist() == [torch.tensor(2 / 3).item()] * 3
    assert ranks(torch.tensor([4.0])).tolist() == [1.0]


def test_an_infinite_score_ranks_highest() -> None:
    assert ranks(torch.tensor([torch.inf, 0.0, 1e30, 5.0])).tolist() == [1.0, 0.25, 0.75, 0.5]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_ranks_are_those_of_scipy(rows: list[list[int]]) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)
    expected = torch.from_numpy(rankdata(scores.numpy(), method="average", axis=-1) / 6).float()
    assert_close(ranks(scores), expected)
    assert_close(ranks(scores.T.contiguous().T), expected)


def test_fuse_among_all_patches() -> None:
    first = torch.tensor([[1.0, 2.0], [3.0, 40.0]])  # ranks 1 2 / 3 4
    second = torch.tensor([[7.0, 7.0], [5.0, 6.0]])  # ranks 3.5 3.5 / 1 2
    expected = torch.tensor([[2.25, 2.75], [2.0, 3.0]], dtype=torch.float64) / 4
    assert_close(fuse([first, second], per_position=False), expected)


def test_fuse_within_each_position() -> None:
    first = torch.tensor([[1.0, 50.0], [3.0, 40.0], [2.0, 60.0]])  # columns are positions: ranks 1 3 2 and 2 1 3
    second = torch.tensor([[9.0, 0.0], [8.0, 0.0], [7.0, 0.0]])  # ranks 3 2 1 and 2 2 2
    expected = torch.tensor([[2.0, 2.0], [2.5, 1.5], [1.5, 2.5]], dtype=torch.float64) / 3
    fused = fuse([first, second], per_position=True)
    assert_close(fused, expected, atol=1 / 24, rtol=0)  # half of what lies between two neighbouring values
    assert fused[0, 0] != fused[0, 1]  # equal ranks at their positions, told apart by those among all
    unequal = expected.flatten()[:, None] < expected.flatten()
    assert (fused.flatten()[:, None] < fused.flatten())[unequal].all()


@pytest.mark.parametrize("per_position", [False, True])
def test_fusing_one_discriminator_keeps_its_order(per_position: bool) -> None:
    scores = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    fused = fuse([scores], per_position=per_position)
    assert fused.shape == scores.shape
    assert_close(fused.argsort(dim=0), scores.argsort(dim=0))


@pytest.mark.parametrize(
    ("fraction", "count", "dropped"),
    [
        (0.0, 100, 0),
        (0.15, 100, 15),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (0.58, 100, 58),  # 0.58 * 100 is 57.99999999999999
        (0.5, 7, 3),
        (0.95, 10, 9),
        (0.15, 6, 0),
    ],
)
def test_the_exact_count_is_dropped(fraction: float, count: int, dropped: int) -> None:
    noise = torch.rand(1, count, generator=torch.Generator().manual_seed(0))
    assert len(kept_patches(noise, fraction)) == count - dropped


def test_the_noisiest_are_dropped_and_the_rest_is_in_order() -> None:
    noise = torch.tensor([[0.9, 0.1, 0.8], [0.2, 1.0, 0.3]])
    kept = kept_patches(noise, 0.5)
    assert kept.tolist() == [1, 3, 5]
    assert kept.dtype == torch.int64


def test_among_equal_scores_the_first_are_kept() -> None:
    assert kept_patches(torch.zeros(4, 5), 0.25).tolist() == list(range(15))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(fraction=st.floats(0, 0.95), images=st.integers(1, 9), seed=st.integers(0, 999))
def test_no_kept_patch_is_noisier_than_a_dropped_one(fraction: float, images: int, seed: int) -> None:
    noise = torch.rand(images, 7, generator=torch.Generator().manual_seed(seed))
    kept = kept_patches(noise, fraction)
    assert (kept.diff() > 0).all()
    is_kept = torch.zeros(noise.numel(), dtype=torch.bool)
    is_kept[kept] = True
    dropped = noise.flatten()[~is_kept]
    if len(dropped):
        assert noise.flatten()[kept].max() <= dropped.min()


def test_clip_above_quantile_by_hand() -> None:
    weights = torch.tensor([[5.0, 1.0, 3.0], [2.0, 4.0, 100.0]])
    # the quantile is a value that occurs, the lower one: number ⌊0.8 · 5⌋ = 4 of 1 2 3 4 5 100, counted from 0
    assert clip_above_quantile(weights, 0.8).tolist() == [[5.0, 1.0, 3.0], [2.0, 4.0, 5.0]]
    assert clip_above_quantile(weights, 0.79).tolist() == [[4.0, 1.0, 3.0], [2.0, 4.0, 4.0]]
    assert_close(clip_above_quantile(weights, 1.0), weights)
    assert clip_above_quantile(weights, 0.0).unique().tolist() == [1.0]


def test_clip_above_quantile_leaves_its_argument() -> None:
    weights = torch.tensor([1.0, 9.0])
    clip_above_quantile(weights, 0.5)
    assert weights.tolist() == [1.0, 9.0]


def test_outlying_share_worked_out_by_hand() -> None:
    # logs 0 1 2 3 4 at both positions but for one 6: median 2, deviations 2 1 0 1 2 and 2 1 0 1 4, their median 1
    logs = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 6.0]])
    assert outlying_share(logs.exp()) == pytest.approx(0.1)  # 6 - 2 > 2.5 * 1.4826 = 3.7 > 4 - 2
    assert outlying_share(torch.ones(5, 3)) == 0
    assert outlying_share(torch.zeros(5, 3)) == 0


def test_outlying_share_follows_the_contamination() -> None:
    scores = (1 + 0.1 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0))).abs()
    clean = outlying_share(scores)
    assert clean < 0.03
    scores[:20, 5:15] *= 3  # a tenth of the images at a third of the positions
    assert outlying_share(scores) == pytest.approx(clean + 0.1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("rule", "outlying", "share"),
    [("fixed", 0.01, 0.15), ("adaptive", 0.01, 0.05), ("adaptive", 0.04, 0.08), ("adaptive", 0.3, 0.15)],
)
def test_discard_share(rule: str, outlying: float, share: float) -> None:
    noise = PatchNoise(torch.zeros(2, 2), torch.ones(2, 2), outlying, torch.zeros(2, 2), torch.zeros(2, 2))
    settings = preset_settings("softpatch+", {"discard_rule": rule})
    assert discard_share(noise, settings) == pytest.approx(share)


def test_judging_without_discriminators_or_weights() -> None:
    noise = judge_patches(torch.rand(5, 4, 3), preset_settings("patchcore", {}))
    assert (noise.fused == 0).all()
    assert (noise.weights == 1).all()
    assert noise.outlying == 0


def test_judging_takes_the_smallest_outlying_share() -> None:
    patches = torch.randn(40, 6, 5, generator=torch.Generator().manual_seed(0))
    both = judge_patches(patches, preset_settings("softpatch+", {}))
    alone = [
        judge_patches(patches, preset_settings("softpatch+", {"discriminators": (name,)})).outlying
        for name in ("gaussian", "lof")
    ]
    assert both.outlying == min(alone) < max(alone)
