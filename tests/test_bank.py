"""The memory bank: built from kept patches alone, scoring as equation (10) says, without an image's own patches."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from softpatch.memory.bank import MemoryBank, build_bank
from softpatch.memory.coreset import greedy_coreset

IMAGES, POSITIONS, DIM = 10, 10, 6


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(IMAGES, POSITIONS, DIM, generator=torch.Generator().manual_seed(0))


def every_patch(count: int = IMAGES * POSITIONS) -> Tensor:
    return torch.arange(count)


def test_the_bank_holds_kept_patches_with_their_own_weights_and_owners(embeddings: Tensor) -> None:
    kept = every_patch()[torch.arange(100) % 3 != 0]
    weights = torch.arange(100.0).view(IMAGES, POSITIONS)  # a patch's weight is its index
    bank = build_bank(embeddings, embeddings, kept, weights, coreset_ratio=0.4)
    indices = bank.weights.long()
    assert len(bank.patches) == 40
    assert set(indices.tolist()) <= set(kept.tolist())
    assert torch.equal(bank.patches, embeddings.flatten(0, 1)[indices])
    assert torch.equal(bank.owners, indices // POSITIONS)
    assert bank.owners.dtype == torch.int64


def test_the_coreset_is_drawn_in_the_projected_space(embeddings: Tensor) -> None:
    projected = embeddings[:, :, :2] * torch.tensor([1.0, 30.0])
    weights = torch.arange(100.0).view(IMAGES, POSITIONS)
    bank = build_bank(embeddings, projected, every_patch(), weights, coreset_ratio=0.2)
    assert bank.weights.long().tolist() == greedy_coreset(projected.flatten(0, 1), 20).tolist()


def test_an_outlier_that_is_not_kept_stays_out(embeddings: Tensor) -> None:
    embeddings[4, 7] = 1000
    kept = every_patch()[every_patch() != 47]
    bank = build_bank(embeddings, embeddings, kept, torch.ones(IMAGES, POSITIONS), coreset_ratio=1.0)
    assert len(bank.patches) == 99
    assert bank.patches.max() < 1000


@pytest.mark.parametrize(
    ("ratio", "kept", "size"),
    [
        (0.1, 100, 10),
        (0.47, 100, 47),  # 0.47 * 10 * 10 is 46.99999999999999
        (0.159, 100, 15),  # a share of all patches, rounded down
        (0.1, 50, 10),  # of all patches, not of those kept
        (1e-5, 100, 1),
        (0.5, 20, 20),
        (1.0, 100, 100),
    ],
)
def test_the_size_of_the_bank(embeddings: Tensor, ratio: float, kept: int, size: int) -> None:
    ones = torch.ones(IMAGES, POSITIONS)
    assert len(build_bank(embeddings, embeddings, every_patch(kept), ones, coreset_ratio=ratio).patches) == size


def test_score_is_the_weight_of_the_nearest_patch_times_the_distance_to_it() -> None:
    bank = MemoryBank(
        patches=torch.tensor([[0.0, 0.0], [10.0, 0.0]]), weights=torch.tensor([2.0, 0.5]), owners=torch.tensor([0, 1])
    )
    embeddings = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [10.0, 8.0]], [[6.0, 3.0], [11.0, 0.0], [0.0, -1.0]]])
    # nearest: bank patch 0, 0, 1 and 1, 1, 0; distances 5, 0, 8 and 5, 1, 1
    assert_close(bank.score(embeddings), torch.tensor([[10.0, 0.0, 4.0], [2.5, 0.5, 2.0]]))


def test_an_image_is_scored_without_the_patches_it_gave() -> None:
    bank = MemoryBank(
        patches=torch.tensor([[0.0], [5.0]]), weights=torch.tensor([1.0, 3.0]), owners=torch.tensor([0, 1])
    )
    embeddings = torch.tensor([[[0.0], [5.0]], [[0.0], [5.0]], [[0.0], [5.0]]])
    scores = bank.score(embeddings, owners=torch.tensor([0, 1, 2]))
    # image 0 has patch 1 alone, image 1 has patch 0 alone, image 2 both
    assert scores.tolist() == [[15.0, 0.0], [0.0, 5.0], [0.0, 0.0]]


def test_an_image_that_gave_the_whole_bank_is_infinitely_far() -> None:
    bank = MemoryBank(patches=torch.zeros(2, 3), weights=torch.ones(2), owners=torch.zeros(2, dtype=torch.int64))
    assert bank.score(torch.zeros(1, 4, 3), owners=torch.tensor([0])).tolist() == [[math.inf] * 4]


def test_without_discarding_and_weights_every_training_patch_is_found(embeddings: Tensor) -> None:
    bank = build_bank(embeddings, embeddings, every_patch(), torch.ones(IMAGES, POSITIONS), coreset_ratio=1.0)
    assert bank.score(embeddings).abs().max() == 0


def test_moved_to_a_device_the_bank_is_the_same(embeddings: Tensor) -> None:
    bank = build_bank(embeddings, embeddings, every_patch(), torch.rand(IMAGES, POSITIONS), coreset_ratio=0.1)
    moved = bank.to(torch.device("cpu"))
    for ours, theirs in zip(vars(moved).values(), vars(bank).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_progress_is_reported(embeddings: Tensor) -> None:
    calls: list[tuple[str, int, int]] = []
    ones = torch.ones(IMAGES, POSITIONS)
    build_bank(
        embeddings, embeddings, every_patch(), ones, coreset_ratio=0.1, progress=lambda *call: calls.append(call)
    )
    assert calls[-1] == ("coreset", 10, 10)
