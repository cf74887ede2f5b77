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
    described = describe(points[numbers].float() - mean, axes)
    few = min(dim, SHORT)
    for leaf, places in enumerate(leaves.members):
        present = places >= 0
        held = leaves.rows[leaf][:-1, present].T
        halves = -leaves.rows[leaf, -1]
        np.testing.assert_allclose(held, described.rows[places[present]], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(halves[present], described.halves[places[present]], rtol=1e-5)
        assert (halves[~present] == UNSEEN).all()
        short = np.concatenate([held[:, :few], leaves.rests[leaf][present, None]], axis=1)
        np.testing.assert_allclose(short, described.short[places[present]], rtol=1e-4, atol=1e-4)
        assert (short >= leaves.lows[:, leaf]).all()
        assert (short <= leaves.highs[:, leaf]).all()


@pytest.mark.parametrize("dim", [5, 16, 17, 40])
def test_points_are_at_least_as_far_apart_as_their_descriptions(dim: int) -> None:
    points = drawn(200, dim).float()
    mean = points.mean(dim=0)
    described = describe(points - mean, principal_axes(points, mean, 24))
    assert described.short.shape == (200, min(dim, SHORT) + 1)
    assert described.rows.shape == (200, min(dim, 24) + 1)
    distances = torch.cdist(points.double(), points.double()).numpy()
    by_rows, by_short = (
        np.linalg.norm(bound[:, None] - bound[None], axis=2) for bound in (described.rows, described.short)
    )
    assert (by_rows <= distances + 1e-5).all()
    assert (by_short <= by_rows + 1e-5).all()
    np.testing.assert_allclose(described.halves, (points - mean).square().sum(dim=1) / 2, rtol=1e-5)
