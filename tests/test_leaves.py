"""Leaves: every point in one of them and within its box; descriptions that never overstate a distance."""

import numpy as np
import pytest
import torch
from torch import Tensor

from softpatch.memory.bounds import principal_axes
from softpatch.memory.leaves import AXES, LEAF, SHORT, UNSEEN, describe, lay_out


def drawn(count: int, dim: int) -> Tensor:
    return (torch.randn(count, dim, generator=torch.Generator().manual_seed(count)) + 3).half()


@pytest.mark.parametrize(("count", "dim"), [(1, 4), (63, 40), (64, 16), (65, 3), (5000, 24)])
def test_every_point_is_in_one_leaf_and_in_its_box(count: int, dim: int) -> None:
    points, numbers = drawn(count + 9, dim), torch.arange(9, count + 9).flip(0)
    mean = points.float().mean(dim=0)
    axes = principal_axes(points, mean, AXES)
    leaves = lay_out(points, numbers, mean, axes)
    assert sorted(leaves.members[leaves.members >= 0].tolist()) == list(range(count))
    assert len(leaves.members) == -(-count // LEAF)
    short = describe(points[numbers].float() - mean, axes).short
    for leaf, places in enumerate(leaves.members):
        present = places >= 0
        held = leaves.short[leaf][:, present].T
        np.testing.assert_allclose(held, short[places[present]], rtol=1e-5, atol=1e-5)
        assert (held >= leaves.lows[:, leaf]).all()
        assert (held <= leaves.highs[:, leaf]).all()
        assert (leaves.short[leaf][:, ~present] > 1e17).all()  # infinitely far


@pytest.mark.parametrize("dim", [5, 16, 40])
def test_points_are_at_least_as_far_apart_as_their_descriptions(dim: int) -> None:
    points = drawn(200, dim).float()
    mean = points.mean(dim=0)
    described = describe(points - mean, principal_axes(points, mean, 24))
    distances = torch.cdist(points.double(), points.double()).numpy() + 1e-5
    both = np.concatenate([described.short[:, : min(dim, SHORT)], described.long], axis=1)
    for bound in (described.short, both):
        assert (np.linalg.norm(bound[:, None] - bound[None], axis=2) <= distances).all()
    np.testing.assert_allclose(described.halves, (points - mean).square().sum(dim=1) / 2, rtol=1e-5)


def test_what_leaves_say_of_their_points_is_what_describe_says() -> None:
    points = drawn(300, 90)
    mean = points.float().mean(dim=0)
    axes = principal_axes(points, mean, 40)
    leaves, described = lay_out(points, torch.arange(300), mean, axes), describe(points.float() - mean, axes)
    for leaf, place in np.ndindex(leaves.members.shape):
        point = leaves.members[leaf, place]
        if point < 0:
            assert leaves.halves[leaf, place] == UNSEEN
        else:
            np.testing.assert_allclose(leaves.long[leaf, :, place], described.long[point], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(leaves.halves[leaf, place], described.halves[point], rtol=1e-5)
