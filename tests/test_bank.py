"""The memory bank: built from kept patches alone, scoring as equation (10) says, without an image's own patches."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from softpatch.memory.bank import ChosenPatches, MemoryBank, choose_patches
from softpatch.memory.coreset import greedy_coreset
from softpatch.progress import Progress, silent

IMAGES, POSITIONS, DIM = 10, 10, 6


EVERY_PATCH = torch.arange(IMAGES * POSITIONS)


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(IMAGES, POSITIONS, DIM, generator=torch.Generator().manual_seed(0)).half()


def choose(
    embeddings: Tensor,
    ratio: float,
    kept: Tensor = EVERY_PATCH,
    *,
    weights: Tensor | None = None,
    largest: int = 1000,
    progress: Progress = silent,
) -> ChosenPatches:
    weights = torch.ones(IMAGES, POSITIONS) if weights is None else weights
    return choose_patches(embeddings, kept, weights, coreset_ratio=ratio, max_bank_size=largest, progress=progress)


def test_kept_patches_are_chosen_with_their_own_weights_and_owners(embeddings: Tensor) -> None:
    kept = EVERY_PATCH[EVERY_PATCH % 3 != 0]
    weights = torch.arange(100.0).view(IMAGES, POSITIONS)  # a patch's weight is its index
    chosen = choose(embeddings, 0.4, kept, weights=weights)
    assert len(chosen.indices) == 40
    assert set(chosen.indices.tolist()) <= set(kept.tolist())
    assert torch.equal(chosen.weights.long(), chosen.indices)
    assert torch.equal(chosen.owners, chosen.indices // POSITIONS)
    patches = embeddings.flatten(0, 1)[chosen.indices]
    bank = chosen.bank(patches)
    assert (bank.patches is patches, bank.weights is chosen.weights, bank.owners is chosen.owners) == (True,) * 3


def test_they_are_a_coreset(embeddings: Tensor) -> None:
    chosen = choose(embeddings, 0.2, EVERY_PATCH[10:])
    assert torch.equal(chosen.indices, greedy_coreset(embeddings.flatten(0, 1), EVERY_PATCH[10:], 20))


def test_an_outlier_that_is_not_kept_stays_out(embeddings: Tensor) -> None:
    embeddings[4, 7] = 1000
    chosen = choose(embeddings, 1.0, EVERY_PATCH[EVERY_PATCH != 47])
    assert len(chosen.indices) == 99
    assert 47 not in chosen.indices


@pytest.mark.parametrize(
    ("ratio", "kept", "largest", "size"),
    [
        (0.1, 100, 1000, 10),
        (0.47, 100, 1000, 47),  # 0.47 * 10 * 10 is 46.99999999999999
        (0.159, 100, 1000, 15),  # a share of all patches, rounded down
        (0.1, 50, 1000, 10),  # of all patches, not of those kept
        (1e-5, 100, 1000, 1),
        (0.5, 20, 1000, 20),
        (1.0, 100, 1000, 100),
        (0.5, 100, 33, 33),
        (1.0, 20, 20, 20),
    ],
)
def test_how_many_are_chosen(embeddings: Tensor, ratio: float, kept: int, largest: int, size: int) -> None:
    assert len(choose(embeddings, ratio, EVERY_PATCH[:kept], largest=largest).indices) == size


def bank_of(patches: list[list[float]], weights: list[float]) -> MemoryBank:
    return MemoryBank(
        torch.tensor(patches).half(), torch.tensor(weights), torch.arange(len(patches)), torch.zeros(len(patches))
    )


def test_score_is_the_weight_of_the_nearest_patch_times_the_distance_to_it() -> None:
    bank = bank_of([[0.0, 0.0], [10.0, 0.0]], [2.0, 0.5])
    embeddings = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [10.0, 8.0]], [[6.0, 3.0], [11.0, 0.0], [0.0, -1.0]]])
    # nearest: bank patch 0, 0, 1 and 1, 1, 0; distances 5, 0, 8 and 5, 1, 1
    assert_close(bank.score(embeddings), torch.tensor([[10.0, 0.0, 4.0], [2.5, 0.5, 2.0]]))


def test_a_query_is_no_nearer_than_the_radius_of_a_patch() -> None:
    patches, owners = torch.tensor([[0.0], [10.0]]).half(), torch.arange(2)
    bank = MemoryBank(patches, torch.ones(2), owners, torch.tensor([4.0, 0.0]))
    # from 0: 0 counts as 4, from 3: as 4, from 7: patch 1 is at 3, and from -5: 5
    assert bank.score(torch.tensor([[[0.0], [3.0], [7.0], [-5.0]]])).tolist() == [[4.0, 4.0, 3.0, 5.0]]
    without = bank.with_radii(torch.zeros(2))
    assert without.score(torch.tensor([[[0.0], [3.0], [7.0], [-5.0]]])).tolist() == [[0.0, 3.0, 3.0, 5.0]]
    assert without.index is bank.index


def test_an_image_is_scored_without_the_patches_it_gave() -> None:
    bank = bank_of([[0.0], [5.0]], [1.0, 3.0])
    embeddings = torch.tensor([[[0.0], [5.0]], [[0.0], [5.0]], [[0.0], [5.0]]])
    scores = bank.score(embeddings, owners=torch.tensor([0, 1, 2]))
    # image 0 has patch 1 alone, image 1 has patch 0 alone, image 2 both
    assert scores.tolist() == [[15.0, 0.0], [0.0, 5.0], [0.0, 0.0]]


def test_an_image_that_gave_the_whole_bank_is_infinitely_far() -> None:
    bank = MemoryBank(torch.zeros(2, 3).half(), torch.ones(2), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    assert bank.score(torch.zeros(1, 4, 3), owners=torch.tensor([0])).tolist() == [[math.inf] * 4]


def test_patches_of_the_bank_are_at_distance_zero(embeddings: Tensor) -> None:
    patches = embeddings.flatten(0, 1)
    bank = MemoryBank(patches, torch.ones(100), EVERY_PATCH // POSITIONS, torch.zeros(100))
    assert bank.score(embeddings).abs().max() == 0


def test_moved_to_a_device_the_bank_is_the_same(embeddings: Tensor) -> None:
    bank = MemoryBank(embeddings.flatten(0, 1), torch.rand(100), EVERY_PATCH // POSITIONS, torch.rand(100))
    moved = bank.to(torch.device("cpu"))
    for ours, theirs in zip(vars(moved).values(), vars(bank).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_progress_is_reported(embeddings: Tensor) -> None:
    calls: list[tuple[str, int, int]] = []
    choose(embeddings, 0.1, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("coreset", 10, 10)


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("likeliest", [torch.clone, torch.rand_like, torch.neg])
def test_the_highest_score_of_an_image_is_that_of_its_highest_patch(
    likeliest: Callable[[Tensor], Tensor], left_out: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(
        torch.randn(2000, 24, generator=generator).half(),
        torch.rand(2000, generator=generator) + 0.5,
        torch.arange(2000) % 5,
        torch.rand(2000, generator=generator) * 6,
    )
    embeddings = torch.randn(5, 300, 24, generator=generator).half()
    owners = torch.arange(5) if left_out else None
    every = bank.score(embeddings, owners=owners)
    scores, positions = bank.highest(embeddings, likeliest(every), owners=owners)
    assert torch.equal(scores, every.amax(dim=1))
    assert torch.equal(positions, every.argmax(dim=1))


@pytest.mark.parametrize(("owner", "score"), [(0, math.inf), (1, 0.0)])
def test_the_highest_score_where_all_patches_are_alike(owner: int, score: float) -> None:
    bank = MemoryBank(torch.zeros(2, 3).half(), torch.ones(2), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    scores, positions = bank.highest(torch.zeros(1, 40, 3).half(), torch.zeros(1, 40), owners=torch.tensor([owner]))
    assert (scores.tolist(), positions.tolist()) == ([score], [0])


def test_beside_the_cpu_the_highest_score_does_not_wait_for_the_host() -> None:
    patches, embeddings = (torch.empty(*shape, dtype=torch.float16, device="meta") for shape in ((90, 8), (3, 40, 8)))
    bank = MemoryBank(
        patches,
        torch.empty(90, device="meta"),
        torch.empty(90, dtype=torch.int64, device="meta"),
        torch.empty(90, device="meta"),
    )
    scores, positions = bank.highest(embeddings, bank.score(embeddings))  # of tensors without values none can be asked
    assert (scores.device.type, scores.shape, positions.shape) == ("meta", (3,), (3,))
