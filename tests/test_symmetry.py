"""A product's symmetries: found where they are, and not where they are not."""

from itertools import product

import pytest
import torch
from torch import Tensor

from softpatch.symmetry import GROUPS, MOST_IMAGES, NONE, find_symmetries, transform, turned_positions


def pixels(images: Tensor) -> Tensor:
    """Patch embeddings (n, 16, 12) of images (n, 3, 8, 8): their 2 x 2 pixels."""
    return torch.nn.functional.unfold(images, 2, stride=2).mT.half()


def scenes(count: int, part: Tensor, members: tuple[tuple[int, bool], ...]) -> Tensor:
    """Images (count, 3, 8, 8) of a part (3, 8, 8) that lies in any of the ways given, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    ways = [transform(part, members[i % len(members)]) for i in range(count)]
    return torch.stack(ways) + 0.02 * torch.rand(count, 3, 8, 8, generator=generator)


def test_the_groups_are_groups() -> None:
    part = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    for group in GROUPS:
        ways = [transform(part, symmetry) for symmetry in group]
        assert torch.equal(ways[0], part)
        for first, second in product(group, group):
            both = transform(transform(part, first), second)
            assert sum(torch.equal(both, way) for way in ways) == 1
    assert sorted(GROUPS, key=len, reverse=True) == list(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_product_that_lies_so_has_these_symmetries(group: tuple[tuple[int, bool], ...]) -> None:
    part = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert find_symmetries(scenes(24, part, group), pixels, 24) == group


def test_copies_that_would_be_too_many_are_not_made() -> None:
    part = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    images = scenes(24, part, GROUPS[0])
    assert len(find_symmetries(images, pixels, MOST_IMAGES // 8)) == 8
    assert len(find_symmetries(images, pixels, MOST_IMAGES // 8 + 1)) == 4
    assert len(find_symmetries(images, pixels, MOST_IMAGES)) == 1


def test_two_images_show_no_symmetry() -> None:
    assert find_symmetries(torch.zeros(2, 3, 8, 8), pixels, 2) == NONE


def test_positions_turn_as_the_image_does() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(3))
    plain = pixels(image[None])[0].mean(dim=1)
    for symmetry, places in zip(GROUPS[0], turned_positions(GROUPS[0], (4, 4)), strict=True):
        turned = pixels(transform(image, symmetry)[None])[0].mean(dim=1)  # means know no order within a patch
        assert torch.allclose(turned, plain[places], atol=1e-3)
