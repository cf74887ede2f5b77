"""Leaves: every point in one of them and within its box; descriptions that never overstate a distance."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from softpatch.memory.bounds import principal_axes
from softpatch.memory.leaves import AXES, LEAF, SHORT, STEP, describe, lay_out


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


@pytest.mark.parametrize(("dim", "steps"), [(5, 0), (16, 0), (40, 0), (200, 2)])
def test_points_are_at_least_as_far_apart_as_their_descriptions(dim: int, steps: int) -> None:
    points = drawn(200, dim).float()
    mean = points.mean(dim=0)
    described = describe(points - mean, principal_axes(points, mean, AXES + STEP * steps))
    distances = torch.cdist(points.double(), points.double()).numpy() + 1e-5
    leading = described.short[:, : min(dim, SHORT)]
    bounds = [described.short, np.concatenate([leading, described.long], axis=1)]
    leading = bounds[-1][:, :-1]
    for step in range(steps):
        leading = np.concatenate([leading, described.steps.reshape(200, steps, STEP)[:, step]], axis=1)
        bounds.append(np.concatenate([leading, described.rests[:, step : step + 1]], axis=1))
    assert bounds[-1].shape[1] == min(dim, AXES + STEP * steps) + 1
    nearer = [np.linalg.norm(bound[:, None] - bound[None], axis=2) for bound in bounds]
    for shorter, longer in itertools.pairwise([*nearer, distances]):
        assert (shorter <= longer + 1e-5).all()
    assert nearer[-1].mean() > nearer[0].mean() or dim <= SHORT  # it is for this that they are longer


def test_what_leaves_say_of_their_points_is_what_describe_says() -> None:
    points, steps = drawn(300, 200), 2
    mean = points.float().mean(dim=0)
    axes = principal_axes(points, mean, AXES + STEP * steps)
    leaves, described = lay_out(points, torch.arange(300), mean, axes), describe(points.float() - mean, axes)
    places = torch.from_numpy(leaves.members)
    fine = leaves.steps.view(np.float16).reshape(len(places), LEAF, -1).astype(np.float32)
    for leaf, place in zip(*np.nonzero(leaves.members >= 0), strict=True):
        point = places[leaf, place]
        held = leaves.long[leaf, :, place], leaves.rests[leaf, :, place]
        for found, expected in zip(held, (described.long[point], described.rests[point]), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        away = fine[leaf, place] - described.steps.reshape(300, -1)[point]
        assert np.linalg.norm(away) <= leaves.blur * 1.01
    assert 0 < leaves.blur < 0.01


def test_values_that_float16_cannot_hold_blur_everything() -> None:
    points = (65504 * torch.sign(drawn(300, 200) - 3)).half()
    mean = points.float().mean(dim=0)
    leaves = lay_out(points, torch.arange(300), mean, principal_axes(points, mean, AXES + STEP))
    assert leaves.blur == np.inf
