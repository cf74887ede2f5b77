"""The random projection: fixed by its seed, and distances kept in expectation."""

import pytest
import torch

from softpatch.memory.projection import project, random_projection


def test_the_seed_alone_decides() -> None:
    first = random_projection(64, 8, seed=3)
    torch.rand(5)
    assert torch.equal(random_projection(64, 8, seed=3), first)
    assert not torch.equal(random_projection(64, 8, seed=4), first)
    assert (first.shape, first.dtype) == ((64, 8), torch.float32)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    random_projection(64, 8, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("dim", "projected_dim"), [(8, 8), (8, 128)])
def test_nothing_is_projected_where_nothing_is_gained(dim: int, projected_dim: int) -> None:
    embeddings = torch.rand(2, 3, dim).half()
    assert project(embeddings, projected_dim, seed=0) is embeddings


def test_projected_embeddings_are_half_precision_too() -> None:
    embeddings = torch.rand(2, 3, 64).half()
    projected = project(embeddings, 8, seed=5)
    assert torch.equal(projected, (embeddings.float() @ random_projection(64, 8, seed=5)).half())


def test_distances_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 1024, generator=generator)
    ratios = torch.pdist(points @ random_projection(1024, 128, seed=0)) / torch.pdist(points)
    assert abs(float(ratios.square().mean()) - 1) < 0.05
    assert ratios.min() > 0.6
    assert ratios.max() < 1.4
