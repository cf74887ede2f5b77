"""Images of one product are one group, images of several are several."""

import pytest
import torch
from torch import Tensor

from softpatch.memory.groups import SAMPLE, image_groups


def images(count: int, centre: float, spread: float = 0.1, seed: int = 0) -> Tensor:
    """Patch embeddings (count, 6, 8) float16 around a centre, each image a little off."""
    generator = torch.Generator().manual_seed(seed)
    offsets = spread * torch.randn(count, 1, 8, generator=generator)
    return (centre + offsets + torch.randn(count, 6, 8, generator=generator)).half()


@pytest.mark.parametrize("count", [2, 5, 6, 40, SAMPLE + 100])
def test_one_product_is_one_group(count: int) -> None:
    (group,) = image_groups(images(count, 0))
    assert len(group) == min(count, SAMPLE)


@pytest.mark.parametrize("others", [3, 10, 40])
def test_two_products_are_two_groups(others: int) -> None:
    first, second = image_groups(torch.cat([images(others, 8, seed=1), images(40, 0)]))
    assert sorted([first, second], key=len, reverse=others < 40) == [first, second]
    assert {*range(others)} in (set(first), set(second))


def test_several_products_are_as_many_groups() -> None:
    found = image_groups(torch.cat([images(20, 9 * number, seed=number) for number in range(5)]))
    assert [len(group) for group in found] == [20] * 5


def test_one_or_two_odd_images_are_outliers() -> None:
    (group,) = image_groups(torch.cat([images(40, 0), images(1, 20, seed=1), images(1, -20, seed=2)]))
    assert len(group) == 42


def test_images_that_are_all_alike() -> None:
    (group,) = image_groups(images(1, 0).expand(30, -1, -1))
    assert len(group) == 30
