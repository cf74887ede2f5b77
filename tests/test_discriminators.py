"""Noise scores: against scikit-learn, explicit inverses and brute force, by hand, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor
from torch.testing import assert_close

from softpatch.errors import InputError
from softpatch.memory import discriminators
from softpatch.memory.discriminators import DISCRIMINATORS, NoiseSettings, Patches, noise_scores

EVERY_NAME = pytest.mark.parametrize("name", DISCRIMINATORS)


def nearest(values: Tensor) -> Tensor:
    return discriminators.nearest(Patches(values, NoiseSettings()))


def gaussian(values: Tensor, epsilon: float) -> Tensor:
    return discriminators.gaussian(Patches(values, NoiseSettings(gaussian_epsilon=epsilon)))


def local_outlier_factor(values: Tensor, neighbors: int) -> Tensor:
    return discriminators.local_outlier_factor(Patches(values, NoiseSettings(lof_neighbors=neighbors)))


def score_by(name: str, values: Tensor, told: NoiseSettings | None = None) -> Tensor:
    return DISCRIMINATORS[name](Patches(values, told or NoiseSettings()))


def random_patches(positions: int, images: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(positions, images, dim, generator=torch.Generator().manual_seed(seed))


def line(*points: float) -> Tensor:
    """One position, one dimension: (1, N, 1)."""
    return torch.tensor(points, dtype=torch.float32)[None, :, None]


def mahalanobis(patches: Tensor, epsilon: float) -> Tensor:
    """Equations (2) and (3) as they are written, with the D x D inverse."""
    patches = patches.double()
    centred = patches - patches.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / (patches.shape[1] - 1)
    inverse = torch.linalg.inv(covariance + epsilon * torch.eye(patches.shape[2], dtype=torch.float64))
    return torch.einsum("bnd,bde,bne->bn", centred, inverse, centred).sqrt()


def sklearn_lof(patches: Tensor, neighbors: int) -> Tensor:
    scores = []
    for position in patches.double().numpy():
        model = LocalOutlierFactor(n_neighbors=min(neighbors, len(position) - 1), algorithm="brute", metric="euclidean")
        scores.append(torch.from_numpy(-model.fit(position).negative_outlier_factor_))
    return torch.stack(scores)


def test_nearest_by_hand() -> None:
    assert_close(nearest(line(0, 1, 4, 10)), torch.tensor([[1.0, 1.0, 3.0, 6.0]]))


def test_nearest_is_blind_to_a_defect_that_occurs_twice() -> None:
    assert_close(nearest(line(0, 1, 9, 9)), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize(("images", "dim"), [(2, 1), (5, 3), (30, 40)])
def test_nearest_is_brute_force(images: int, dim: int) -> None:
    patches = random_patches(7, images, dim)
    distances = torch.cdist(patches.double(), patches.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(dim1=1, dim2=2).fill_(math.inf)
    assert_close(nearest(patches), distances.amin(dim=2).float(), rtol=1e-4, atol=1e-4)


def test_gaussian_by_hand_with_more_images_than_dimensions() -> None:
    # mean 1, variance (1 + 1) / (2 - 1) = 2, plus ε = 1: 1 / √3 on either side
    assert_close(gaussian(line(0, 2), epsilon=1.0), torch.full((1, 2), 1 / math.sqrt(3)))


def test_gaussian_by_hand_with_more_dimensions_than_images() -> None:
    # the same along the first axis; along the others nothing varies
    patches = torch.tensor([[[0.0, 5.0, 5.0], [2.0, 5.0, 5.0]]])
    assert_close(gaussian(patches, epsilon=1.0), torch.full((1, 2), 1 / math.sqrt(3)))


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 10.0])
@pytest.mark.parametrize(
    ("images", "dim"), [(2, 9), (8, 20), (12, 12), (13, 12), (50, 6), (40, 1), (200, 150), (130, 140)]
)
def test_gaussian_is_the_explicit_inverse(images: int, dim: int, epsilon: float) -> None:
    patches = random_patches(5, images, dim) * torch.linspace(0.1, 3, dim) + 2
    assert_close(gaussian(patches, epsilon), mahalanobis(patches, epsilon).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [2.3e3, 3e3, 1e7])  # trace(Σ)/ε; up to 2,500 is left to single precision
@pytest.mark.parametrize("leading", [1, 4, 64])  # axes that hold nearly all of it
def test_gaussian_is_exact_where_variances_differ_much(ratio: float, leading: int) -> None:
    scale = torch.full((64,), 0.1)
    scale[:leading] = math.sqrt(ratio * 0.01 / leading)
    turned = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0]
    patches = (random_patches(3, 250, 64) * scale) @ turned + 1
    assert_close(gaussian(patches, 0.01), mahalanobis(patches, 0.01).float(), rtol=3e-5, atol=0)


@pytest.mark.parametrize("images", [8, 30])  # fewer and more than the dimensions
def test_gaussian_of_values_beyond_reason(images: int) -> None:
    patches = random_patches(2, images, 6).repeat(1, 1, 2)
    patches[1] *= 1e14
    assert gaussian(patches, epsilon=0.01).isnan().tolist() == [[False] * images, [True] * images]
    scores = noise_scores(patches.transpose(0, 1), ["gaussian"], NoiseSettings(), group_bytes=1)
    assert next(scores)[0] == slice(0, 1)  # what can be computed comes all the same
    with pytest.raises(InputError, match=r"values up to \S+e\+14 cannot be computed"):
        list(scores)


def test_lof_by_hand() -> None:
    # Points 0, 1, 2, 10 with K = 2. The neighbours: {1, 2}, {0, 2}, {1, 0}, {2, 1}; the K-distances: 2, 1, 2, 9.
    # Reachability distances max(K-distance of the neighbour, distance) and their means:
    #   0: 1, 2 -> 3/2    1: 2, 2 -> 2    2: 1, 2 -> 3/2    10: 8, 9 -> 17/2
    # Densities 2/3, 1/2, 2/3, 2/17. LOF is the mean density of the neighbours over the point's own:
    #   0: (1/2 + 2/3) / 2 · 3/2 = 7/8    1: 2/3 · 2 = 4/3    2: 7/8    10: (2/3 + 1/2) / 2 · 17/2 = 119/24
    expected = torch.tensor([[7 / 8, 4 / 3, 7 / 8, 119 / 24]])
    assert_close(local_outlier_factor(line(0, 1, 2, 10), 2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "dim", "neighbors"),
    [(7, 128, 6), (25, 4, 6), (60, 16, 1), (60, 1, 10), (100, 32, 20), (6, 3, 6), (4, 3, 20), (2, 2, 6)],
)
def test_lof_is_that_of_scikit_learn_at_every_position(images: int, dim: int, neighbors: int) -> None:
    patches = random_patches(6, images, dim)
    patches[:, 0] *= 5  # an outlier
    expected = sklearn_lof(patches, neighbors).float()
    assert_close(local_outlier_factor(patches, neighbors), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copies", [2, 6, 7, 20])
def test_duplicates_give_finite_lof_scores_and_an_outlier_stays_the_largest(copies: int) -> None:
    patches = torch.cat([random_patches(3, 1, 8).expand(3, copies, 8), random_patches(3, 5, 8, seed=1)], dim=1)
    patches[:, -1] += 20
    scores = local_outlier_factor(patches, 3)
    assert scores.isfinite().all()
    assert (scores.argmax(dim=1) == copies + 4).all()


def test_identical_images_are_no_outliers() -> None:
    patches = random_patches(4, 1, 10).expand(4, 9, 10)
    assert_close(local_outlier_factor(patches, 6), torch.ones(4, 9), rtol=1e-3, atol=1e-3)
    assert_close(nearest(patches), torch.zeros(4, 9), rtol=0, atol=1e-3)
    assert_close(gaussian(patches, 0.01), torch.zeros(4, 9), rtol=0, atol=1e-3)


@EVERY_NAME
def test_an_outlier_scores_highest(name: str) -> None:
    patches = random_patches(5, 20, 8)
    patches[:, 13] += 8
    assert (score_by(name, patches).argmax(dim=1) == 13).all()


@EVERY_NAME
@settings(max_examples=25, deadline=None, derandomize=True)
@given(images=st.integers(3, 20), dim=st.integers(2, 24), seed=st.integers(0, 999))
def test_permuting_images_permutes_the_scores(name: str, images: int, dim: int, seed: int) -> None:
    patches = random_patches(2, images, dim, seed)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    expected = score_by(name, patches)[:, order]
    assert_close(score_by(name, patches[:, order]), expected, rtol=1e-3, atol=1e-4)


@EVERY_NAME
@settings(max_examples=25, deadline=None, derandomize=True)
@given(images=st.integers(3, 20), dim=st.integers(2, 24), seed=st.integers(0, 999), shift=st.floats(-50, 50))
def test_shifting_all_images_changes_nothing(name: str, images: int, dim: int, seed: int, shift: float) -> None:
    patches = random_patches(2, images, dim, seed)
    expected = score_by(name, patches)
    assert_close(score_by(name, patches + shift), expected, rtol=2e-3, atol=1e-3)


@EVERY_NAME
def test_a_large_shift_costs_no_precision(name: str) -> None:
    patches = (1024 * random_patches(2, 15, 8)).round() / 1024  # float32 holds these, and the sum with 1024, exactly
    expected = score_by(name, patches)
    assert_close(score_by(name, patches + 1024), expected, rtol=1e-3, atol=1e-3)


@EVERY_NAME
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), repeated=st.integers(1, 8))
def test_scores_are_finite_and_not_negative_whatever_repeats(name: str, seed: int, repeated: int) -> None:
    patches = random_patches(2, 9, 5, seed)
    patches[:, :repeated] = patches[:, :1].clone()
    scores = score_by(name, patches, NoiseSettings(lof_neighbors=3))
    assert scores.isfinite().all()
    assert (scores >= 0).all()


def gathered(embeddings: Tensor, group_bytes: int) -> tuple[list[slice], dict[str, Tensor]]:
    names = tuple(DISCRIMINATORS)
    groups = list(noise_scores(embeddings, names, NoiseSettings(), group_bytes=group_bytes))
    scores = {name: torch.cat([found[name] for _, found in groups], dim=1) for name in names}
    return [group for group, _ in groups], scores


def test_noise_scores_are_those_of_each_position_by_itself() -> None:
    embeddings = random_patches(12, 11, 8)  # here (N, P, D)
    groups, scores = gathered(embeddings, group_bytes=2**20)
    assert groups == [slice(0, 11)]
    for name in DISCRIMINATORS:
        assert scores[name].shape == (12, 11)
        for position in range(11):
            alone = score_by(name, embeddings[:, position][None])[0]
            assert_close(scores[name][:, position], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("group_bytes", "sizes"), [(1, [1] * 11), (3 * 4 * 12 * 12, [3, 3, 3, 2])])
def test_the_size_of_groups_changes_no_score(group_bytes: int, sizes: list[int]) -> None:
    embeddings = random_patches(12, 11, 8)
    groups, scores = gathered(embeddings, group_bytes)
    assert [group.stop - group.start for group in groups] == sizes
    _, expected = gathered(embeddings, group_bytes=2**20)
    for name in DISCRIMINATORS:
        assert_close(scores[name], expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_bytes", [1, 4 * 4 * 12 * 5, 2**20])
def test_the_size_of_blocks_changes_no_neighbour(block_bytes: int) -> None:
    values = random_patches(4, 12, 8)
    distances, indices = Patches(values, NoiseSettings(lof_neighbors=5), block_bytes).neighbours
    every = torch.cdist(values.double(), values.double())
    every.diagonal(dim1=1, dim2=2).fill_(math.inf)
    expected = every.topk(5, dim=2, largest=False).indices.sort(dim=2).values
    found = indices.sort(dim=2)
    assert torch.equal(found.values, expected)
    assert_close(distances.gather(2, found.indices), every.gather(2, expected).float(), rtol=1e-4, atol=1e-4)


def test_exactly_k_neighbours_are_taken_where_distances_tie() -> None:
    values = line(0, 1, -1, 2, -2, 3, -3, 9)  # of 0, and of others, the third and fourth nearest are equally far
    distances, indices = Patches(values, NoiseSettings(lof_neighbors=3)).neighbours
    assert indices.shape == (1, 8, 3)
    assert_close(distances.sort(dim=2).values[0, [0, 7]], torch.tensor([[1.0, 1.0, 2.0], [6.0, 7.0, 8.0]]))
    assert all(len(set(row)) == 3 for row in indices[0].tolist())


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_score(threads: int) -> None:
    embeddings = random_patches(12, 11, 8)
    _, expected = gathered(embeddings, group_bytes=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        groups, scores = gathered(embeddings, group_bytes=1)
    finally:
        torch.set_num_threads(before)
    assert groups == [slice(place, place + 1) for place in range(11)]
    for name in DISCRIMINATORS:
        assert torch.equal(scores[name], expected[name])


def test_settings_reach_the_discriminators() -> None:
    embeddings = random_patches(12, 3, 8)
    told = NoiseSettings(lof_neighbors=3, gaussian_epsilon=2.0)
    ((_, scores),) = noise_scores(embeddings, ["lof", "gaussian"], told)
    patches = embeddings.transpose(0, 1).contiguous()
    assert_close(scores["lof"], local_outlier_factor(patches, 3).T)
    assert_close(scores["gaussian"], gaussian(patches, 2.0).T)


def test_unknown_discriminator() -> None:
    with pytest.raises(InputError, match="discriminator 'loff' is unknown; choose from nearest, gaussian, lof"):
        next(noise_scores(random_patches(5, 2, 3), ["lof", "loff"], NoiseSettings()))


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images(images: int) -> None:
    with pytest.raises(InputError, match=f"need at least 2, not {images}"):
        next(noise_scores(torch.zeros(images, 4, 3), ["nearest"], NoiseSettings()))


@pytest.mark.parametrize("dim", [8, 80])
def test_beside_the_cpu_groups_do_not_wait_for_the_host(dim: int) -> None:
    embeddings = torch.empty(70, 11, dim, dtype=torch.float16, device="meta")  # without values, none can be asked for
    group, scores = next(noise_scores(embeddings, tuple(DISCRIMINATORS), NoiseSettings()))
    assert group == slice(0, 11)
    assert {(score.device.type, score.shape) for score in scores.values()} == {("meta", (70, 11))}
