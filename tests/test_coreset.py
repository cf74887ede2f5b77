"""The coreset: the picks of the plain greedy loop, whatever the shape of the data.

Coordinates are multiples of a power of two that half precision holds, so that float32 computes the distances that
decide without rounding and the picks are the same on every machine, ties included.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from softpatch.memory import coreset
from softpatch.progress import silent


def greedy_coreset(points: Tensor, count: int, **reports: Callable[[str, int, int], None]) -> Tensor:
    return coreset.greedy_coreset(points.half(), torch.arange(len(points)), count, **reports)


def plain_greedy(points: Tensor, first: int, count: int) -> list[int]:
    """The loop as the paper has it, in float64, until `count` picks are made or every point coincides with one."""
    rows = points.double().numpy()
    squared = np.full(len(rows), np.inf)
    picks = []
    while len(picks) < count and squared.max() > 0:
        pick = int(squared.argmax()) if picks else first
        picks.append(pick)
        squared = np.minimum(squared, np.square(rows - rows[pick]).sum(axis=1))
    return picks


def assert_is_plain_greedy(points: Tensor, count: int) -> list[int]:
    points = points.half()
    picks = greedy_coreset(points, count).tolist()
    from_mean = (points.double() - points.double().mean(dim=0)).norm(dim=1)
    assert from_mean[picks[0]] <= from_mean.min() + 1e-5 * from_mean.max()
    assert picks == plain_greedy(points, picks[0], count)
    return picks


def normal(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, dim, generator=generator)


def anisotropic(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return normal(count, dim, generator) * torch.logspace(1, -1, dim)


def low_rank(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return normal(count, 2, generator) @ normal(2, dim, generator)


def far_from_zero(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return normal(count, dim, generator) + 50


def clusters(count: int, dim: int, generator: torch.Generator) -> Tensor:
    centres = 5 * normal(6, dim, generator)
    return centres[torch.randint(6, (count,), generator=generator)] + 0.5 * normal(count, dim, generator)


def outliers(count: int, dim: int, generator: torch.Generator) -> Tensor:
    points = normal(count, dim, generator)
    points[::50] *= 20
    return points


DATA = [normal, anisotropic, low_rank, far_from_zero, clusters, outliers]


@pytest.mark.parametrize("draw", DATA)
def test_all_distances_at_every_pick_choose_the_same(
    draw: Callable[[int, int, torch.Generator], Tensor],
) -> None:
    # what runs on a GPU
    points = (64 * draw(400, 8, torch.Generator().manual_seed(0))).round().half() / 64
    points[300:] = points[:100]
    kept = torch.arange(len(points)).flip(0)
    for count in (1, 50, 400):
        expected = coreset.greedy_coreset(points, kept, count)
        assert torch.equal(coreset._pick_with_all_distances(points[kept].float(), kept, count, None, silent), expected)


@pytest.mark.parametrize(("count", "dim"), [(900, 1), (900, 3), (700, 16), (700, 17), (700, 40)])
@pytest.mark.parametrize("draw", DATA)
def test_picks_are_those_of_the_plain_loop(
    draw: Callable[[int, int, torch.Generator], Tensor], count: int, dim: int
) -> None:
    points = (64 * draw(count, dim, torch.Generator().manual_seed(dim))).round() / 64
    assert_is_plain_greedy(points, 300)


@pytest.mark.parametrize("dim", [2, 16, 24])
def test_tight_clusters_far_apart(dim: int) -> None:
    # a cluster is much smaller than the distance between them, so rounded coordinates tell little within it
    generator = torch.Generator().manual_seed(1)
    centres = (8 * normal(5, dim, generator)).round().clamp(-30, 30)
    spread = (3 * normal(800, dim, generator)).round() / 16
    assert_is_plain_greedy(centres[torch.randint(5, (800,), generator=generator)] + spread, 400)


def test_many_picks_from_many_points() -> None:
    points = (256 * normal(3000, 8, torch.Generator().manual_seed(0))).round() / 256
    picks = assert_is_plain_greedy(points, 1500)
    assert len(picks) == len(set(picks)) == 1500


def test_a_large_lattice_where_most_distances_tie() -> None:
    points = torch.cartesian_prod(torch.arange(80.0), torch.arange(80.0))  # more than 64 leaves
    assert_is_plain_greedy(points[torch.randperm(6400, generator=torch.Generator().manual_seed(0))], 500)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 40])
def test_few_picks(count: int) -> None:
    points = (64 * normal(200, 5, torch.Generator().manual_seed(0))).round() / 64
    assert len(assert_is_plain_greedy(points, count)) == count


@pytest.mark.parametrize("count", [500, 501, 10_000])
def test_every_point_is_picked_once_where_as_many_are_asked_for(count: int) -> None:
    points = (1024 * normal(500, 6, torch.Generator().manual_seed(0))).round() / 1024
    assert sorted(assert_is_plain_greedy(points, count)) == list(range(500))


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_points_that_coincide_are_picked_once(dim: int) -> None:
    different = torch.arange(90.0)[:, None].expand(90, dim)
    points = different.repeat(5, 1)[torch.randperm(450, generator=torch.Generator().manual_seed(0))]
    picks = assert_is_plain_greedy(points, 200)
    assert sorted(points[picks, 0].tolist()) == different[:, 0].tolist()


def test_identical_points_give_one_pick() -> None:
    assert greedy_coreset(torch.full((50, 3), 0.1), 20).tolist() == [0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60),
    count=st.integers(1, 70),
)
def test_any_few_points_on_a_lattice(rows: list[tuple[int, int]], count: int) -> None:
    assert_is_plain_greedy(torch.tensor(rows, dtype=torch.float32), count)


@pytest.mark.parametrize("points", [torch.rand(5, 3), torch.empty(0, 3)])
def test_nothing_asked_for(points: Tensor) -> None:
    picks = greedy_coreset(points, 0)
    assert picks.tolist() == []
    assert picks.dtype == torch.int64


def test_no_points() -> None:
    assert greedy_coreset(torch.empty(0, 3), 4).tolist() == []


def test_first_pick_is_nearest_to_the_mean() -> None:
    points = torch.tensor([[-10.0], [-1.0], [0.5], [2.0], [10.0]])  # mean 0.3
    # then the farthest from it, the farthest from both, and of the last two, as far as each other, the first
    assert greedy_coreset(points, 5).tolist() == [2, 0, 4, 1, 3]


def test_covering_radius_never_grows() -> None:
    points = torch.randn(1000, 12, generator=torch.Generator().manual_seed(3)).half()
    picks = greedy_coreset(points, 200)
    distances = torch.cdist(points[picks].double(), points.double())
    radii = distances.cummin(dim=0).values.amax(dim=1)
    assert (radii.diff() <= 0).all()
    # and each pick lay at that radius, so that it was the farthest
    assert torch.allclose(distances.cummin(dim=0).values[:-1].gather(1, picks[1:, None])[:, 0], radii[:-1], rtol=1e-5)


def test_the_start_of_a_longer_coreset_is_the_shorter_one() -> None:
    points = torch.randn(600, 10, generator=torch.Generator().manual_seed(4))
    longer = greedy_coreset(points, 300).tolist()
    assert greedy_coreset(points, 120).tolist() == longer[:120]


def test_points_are_left_as_they_are() -> None:
    points = torch.randn(100, 4, generator=torch.Generator().manual_seed(5))
    before = points.clone()
    greedy_coreset(points, 50)
    assert torch.equal(points, before)


@pytest.mark.parametrize("count", [1, 17, 1300])
def test_progress_ends_with_all_done(count: int) -> None:
    calls: list[tuple[str, int, int]] = []
    points = torch.randn(1300, 3, generator=torch.Generator().manual_seed(6))
    greedy_coreset(points, count, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("coreset", count, count)
    assert {(stage, total) for stage, _, total in calls} == {("coreset", count)}
    assert all(earlier[1] < later[1] for earlier, later in pairwise(calls))
    assert len(calls) > 1 or count == 1


def test_beside_the_cpu_no_pick_waits_for_the_host() -> None:
    # tensors without values, as of a GPU that has not computed them yet: whatever asks for one fails
    points, reports = torch.empty(300, 8, dtype=torch.float16, device="meta"), []
    with pytest.raises(NotImplementedError, match="no data"):  # to name the picks in the end
        coreset.greedy_coreset(
            points, torch.arange(300, device="meta"), 40, progress=lambda _, done, total: reports.append((done, total))
        )
    assert reports[-1] == (40, 40)


@pytest.mark.parametrize("shape", [normal, clusters, outliers, far_from_zero])
@pytest.mark.parametrize("device_like", [False, True], ids=["by leaves", "all distances"])
def test_an_older_coreset_is_added_to(shape: Callable, device_like: bool) -> None:
    points = shape(700, 12, torch.Generator().manual_seed(3)).half()
    first = greedy_coreset(points, 60)
    rest = torch.ones(len(points), dtype=torch.bool)
    rest[first] = False
    others = rest.nonzero()[:, 0]
    covered = torch.cdist(points[others].double(), points[first].double()).amin(dim=1).float()
    if device_like:
        added = coreset._pick_with_all_distances(points[others].float(), others, 90, covered, silent)
    else:
        added = coreset.greedy_coreset(points, others, 90, covered=covered)
    assert torch.cat([first, added]).tolist() == greedy_coreset(points, 150).tolist()


def test_what_is_covered_is_not_picked() -> None:
    points = normal(50, 4, torch.Generator().manual_seed(0)).half()
    covered = torch.zeros(50)
    covered[[7, 9]] = torch.tensor([1.0, 2.0])
    picks = coreset.greedy_coreset(points, torch.arange(50), 10, covered=covered)
    assert picks.tolist() == [9, 7]
    assert not len(coreset.greedy_coreset(points, torch.arange(50), 10, covered=torch.zeros(50)))
