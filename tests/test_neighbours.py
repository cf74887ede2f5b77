"""Nearest-neighbour search: brute force in float64, owners passed over, block by block."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from softpatch.memory import neighbours
from softpatch.memory.neighbours import SearchIndex, nearest_neighbours


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def search_index(bank: Tensor) -> SearchIndex:
    return neighbours.search_index(bank.half())


def all_distances(queries: Tensor, bank: Tensor) -> Tensor:
    return torch.cdist(queries.double(), bank.half().double(), compute_mode="donot_use_mm_for_euclid_dist")


def test_by_hand() -> None:
    queries = torch.tensor([[0.0, 0.0], [3.0, 5.0]])
    bank = torch.tensor([[3.0, 4.0], [-1.0, 0.0], [9.0, 9.0]])
    distances, indices = nearest_neighbours(queries, search_index(bank))
    assert distances.tolist() == [1.0, 1.0]
    assert indices.tolist() == [1, 0]
    assert (distances.dtype, indices.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize(
    ("queries", "bank", "dim"),
    [(1, 1, 1), (40, 1, 7), (300, 90, 3), (150, 400, 64), (70, 5_000, 150), (90, 3_000, 400), (2, 900, 700)],
)
def test_is_brute_force(queries: int, bank: int, dim: int) -> None:
    asked, known = drawn(queries, dim), drawn(bank, dim, seed=1)
    distances, indices = nearest_neighbours(asked, search_index(known))
    expected = all_distances(asked, known).min(dim=1)
    assert torch.equal(indices, expected.indices)
    assert_close(distances, expected.values.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("dim", [9, 150, 400])
def test_owners_are_passed_over_in_every_leaf_and_thread(threads: int, dim: int) -> None:
    queries, bank = drawn(60, dim), drawn(700, dim, seed=1)
    owners, bank_owners = torch.arange(60) % 4, torch.arange(700) % 4
    bank_owners[:70], owners[:3] = 9, 9  # whole leaves may be of one owner
    bank[:70] = bank[0] + 0.01 * drawn(70, dim, seed=2)
    queries[:3] = bank[:3]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = nearest_neighbours(queries, search_index(bank), query_owners=owners, bank_owners=bank_owners)
    finally:
        torch.set_num_threads(before)
    expected = all_distances(queries, bank).masked_fill(owners[:, None] == bank_owners, math.inf).min(dim=1)
    assert torch.equal(found[1], expected.indices)
    assert_close(found[0], expected.values.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("radius", [0.0, 0.3, 3.0])
def test_no_patch_is_nearer_than_its_radius(radius: float) -> None:
    queries, bank = drawn(300, 20), drawn(2_000, 20, seed=1)
    radii = radius * drawn(2_000, seed=2).abs()
    expected = torch.maximum(all_distances(queries, bank), radii.double()).min(dim=1)
    index = search_index(bank)
    without = torch.full((300,), -1), torch.full((2_000,), -2)
    for distances, indices in (
        nearest_neighbours(queries, index, radii=radii),
        neighbours._search_all(queries, index, *without, radii, 2**20),
    ):
        assert_close(distances, expected.values.float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(indices, expected.indices)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_near_enough_patch_is_enough(share: float) -> None:
    queries, bank = drawn(300, 40), drawn(2_000, 40, seed=1)
    expected = all_distances(queries, bank)
    enough = expected.amin(dim=1).quantile(share).expand(300) * (1 + 1e-6)
    distances, indices = nearest_neighbours(queries, search_index(bank), enough=enough)
    assert_close(distances, expected.gather(1, indices[:, None])[:, 0].float(), rtol=1e-5, atol=1e-6)
    others = distances >= enough
    assert torch.equal(others, expected.amin(dim=1) >= enough)
    assert torch.equal(indices[others], expected.argmin(dim=1)[others])
    assert bool((indices != expected.argmin(dim=1)).any()) == (share > 0)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0])
def test_bounds_that_decide_little_do_not_hide_the_nearest(spread: float) -> None:
    # few directions hold nearly all that varies, or none does; queries lie far from, near and in the bank
    wide = drawn(3, 120, seed=2)
    bank = drawn(2_000, 3) @ wide + spread * drawn(2_000, 120, seed=1) + 5
    queries = torch.cat([bank[:100], bank[100:200] + 1e-3 * drawn(100, 120, seed=3), 9 * drawn(100, 120, seed=4)])
    distances, indices = nearest_neighbours(queries, search_index(bank))
    expected = all_distances(queries, bank).min(dim=1)
    assert_close(distances, expected.values.float(), rtol=1e-4, atol=1e-5)
    if spread:
        assert torch.equal(indices, expected.indices)


def test_values_as_large_as_float16_holds() -> None:
    bank = (65504 * torch.sign(drawn(1_000, 400))).half()
    queries = bank[:50] * (1 - 0.3 * torch.rand(50, 400, generator=torch.Generator().manual_seed(4)))
    distances, indices = nearest_neighbours(queries, search_index(bank))
    expected = all_distances(queries, bank).min(dim=1)
    assert torch.equal(indices, expected.indices)
    assert_close(distances, expected.values.float(), rtol=1e-5, atol=0)


def test_of_equally_near_patches_the_first_is_found() -> None:
    bank = drawn(30, 40).repeat(50, 1)
    _, indices = nearest_neighbours(bank, search_index(bank))
    assert torch.equal(indices, torch.arange(30).repeat(50))


def test_patches_of_the_same_owner_are_passed_over() -> None:
    bank = torch.tensor([[0.0], [2.0], [7.0]])
    bank_owners = torch.tensor([0, 1, 2])
    queries = torch.tensor([[0.0], [0.0], [7.0]])
    owners = torch.tensor([0, 5, 2])
    distances, indices = nearest_neighbours(queries, search_index(bank), query_owners=owners, bank_owners=bank_owners)
    assert indices.tolist() == [1, 0, 1]
    assert distances.tolist() == [2.0, 0.0, 5.0]


def test_bank_owners_alone_exclude_nothing() -> None:
    distances, _ = nearest_neighbours(
        torch.zeros(1, 2), search_index(torch.zeros(1, 2)), bank_owners=torch.zeros(1).long()
    )
    assert distances.tolist() == [0.0]


def test_a_query_without_candidates_is_infinitely_far() -> None:
    distances, indices = nearest_neighbours(
        torch.zeros(2, 3),
        search_index(torch.ones(4, 3)),
        query_owners=torch.tensor([1, 0]),
        bank_owners=torch.ones(4, dtype=torch.int64),
    )
    assert distances.tolist() == [math.inf, pytest.approx(math.sqrt(3))]
    assert indices[0] in range(4)


def test_a_patch_in_the_bank_is_at_distance_zero_however_large() -> None:
    bank = (drawn(20, 16) * torch.logspace(-3, 4, 20)[:, None]).half()
    distances, indices = nearest_neighbours(bank, search_index(bank))
    assert indices.tolist() == list(range(20))
    assert distances.tolist() == [0.0] * 20


def test_the_distance_to_a_near_duplicate_of_large_norm_does_not_cancel() -> None:
    # ‖q‖² is 6 400 000: the expanded square would be off by about 0.5, and by more than the squared distance
    bank = torch.stack([torch.full((64,), 316.25), torch.full((64,), -316.25)])
    queries = bank + torch.tensor([0.03125, -0.0625])[:, None]
    distances, indices = nearest_neighbours(queries, search_index(bank))
    assert indices.tolist() == [0, 1]
    assert distances.tolist() == [8 * 0.03125, 8 * 0.0625]


def test_among_near_duplicates_of_large_norm_the_one_found_is_as_near_as_float32_can_tell() -> None:
    bank = drawn(200, 32) * 1e-2 + 100
    queries = drawn(60, 32, seed=1) * 1e-2 + 100
    distances, indices = nearest_neighbours(queries, search_index(bank))
    exact = all_distances(queries, bank)
    assert_close(distances.double(), exact.gather(1, indices[:, None])[:, 0], rtol=1e-4, atol=1e-5)
    assert (distances.square() <= exact.amin(dim=1).square() + 1e-6 * queries.square().sum(dim=1)).all()


def test_arguments_are_left_as_they_are() -> None:
    queries, bank = drawn(5, 3), drawn(4, 3, seed=1)
    before = queries.clone(), bank.clone()
    nearest_neighbours(
        queries, search_index(bank), query_owners=torch.zeros(5).long(), bank_owners=torch.zeros(4).long()
    )
    assert torch.equal(queries, before[0])
    assert torch.equal(bank, before[1])


def test_one_product_of_everything_finds_the_same() -> None:
    # what runs on a GPU, and for the first images that are judged on a CPU
    queries, bank = drawn(40, 20), drawn(90, 20, seed=1).half()
    index = SearchIndex(bank)
    owners, bank_owners = torch.arange(40) % 5, torch.arange(90) % 5
    expected = all_distances(queries, bank).masked_fill(owners[:, None] == bank_owners, math.inf).min(dim=1)
    for block_bytes in (1, 2000, 2**20):
        distances, indices = neighbours._search_all(queries, index, owners, bank_owners, torch.zeros(90), block_bytes)
        assert torch.equal(indices, expected.indices)
        assert_close(distances, expected.values.float(), rtol=1e-5, atol=1e-6)
    distances, _ = nearest_neighbours(queries[:1], index, query_owners=owners[:1], bank_owners=torch.zeros(90).long())
    assert distances.tolist() == [math.inf]


def test_beside_the_cpu_a_search_does_not_wait_for_the_host() -> None:
    bank, queries = (torch.empty(count, 40, dtype=torch.float16, device="meta") for count in (500, 60))
    distances, indices = nearest_neighbours(queries, search_index(bank))  # of tensors without values none can be asked
    assert (distances.device.type, indices.device.type) == ("meta", "meta")
    assert (distances.shape, indices.shape) == ((60,), (60,))
