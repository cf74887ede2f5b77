"""Symmetries of a product, found by looking: turned or mirrored images of it that could be images of others.

A part that lies turned at random, or a texture without a top, has them; then turned and mirrored copies of the training
images are as good as more training images. They are found, not assumed: a copy's patches must be about as near to the
other images as those of the image itself.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from softpatch.memory.agreement import image_distances

SAMPLE = 24
"""Images that are looked at."""
MOST_IMAGES = 2000
"""Training images, with their copies, up to which copies are worth their time."""
_NEAR_ENOUGH = 1.05  # symmetric products: 0.99 to 1.03; others: 1.08 and more, with one exception (docs/lab)
_TOO_FAR = 1.12  # of the first images: the others need not be looked at
_FIRST = 8
_POSITIONS = 262  # that are compared, or one in three

Symmetry = tuple[int, bool]
"""Quarter turns counter-clockwise, after mirroring left to right or not."""

NONE: tuple[Symmetry, ...] = ((0, False),)
"""An image as it is."""
GROUPS: tuple[tuple[Symmetry, ...], ...] = (
    tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
    tuple((turns, False) for turns in range(4)),
    ((0, False), (2, False), (0, True), (2, True)),
    ((0, False), (2, False), (1, True), (3, True)),
    *(((0, False), other) for other in ((2, False), (0, True), (1, True), (2, True), (3, True))),
    NONE,
)
"""The symmetries of a square that go together, largest first: what two of a group do after each other, a third does."""


def transform(images: Tensor, symmetry: Symmetry) -> Tensor:
    """Turn and mirror images (..., H, W); a quarter turn makes them (..., W, H)."""
    turns, mirrored = symmetry
    if (turns, mirrored) == (0, False):
        return images
    return torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1)).contiguous()


def turned_positions(symmetries: Sequence[Symmetry], grid: tuple[int, int]) -> Tensor:
    """Which of the P positions of a patch grid (H, W) each position of the G copies of an image shows: int64 (G, P)."""
    positions = torch.arange(prod(grid)).view(grid)
    return torch.stack([transform(positions, symmetry).flatten() for symmetry in symmetries])


def find_symmetries(images: Tensor, embed: Callable[[Tensor], Tensor], training_images: int) -> tuple[Symmetry, ...]:
    """Find the largest of `GROUPS` that the product has, of those that leave at most `MOST_IMAGES` to learn from.

    `images` (n, 3, H, W) are a sample of the `training_images`, and `embed` gives patch embeddings (n, P, D) float16.
    Images that are no squares have no quarter turns. Of a group's members, the median image's patches may be 5 %
    farther from the other images than untransformed ones. Contamination hardly matters to medians.
    """
    if len(images) < 3:
        return NONE
    plain = embed(images)
    own = distances_to_others(plain, plain)

    def far(turned: Tensor) -> float:
        """How far embeddings of turned images are, over the distances of the images as they are."""
        return float(distances_to_others(turned, plain).median() / own[: len(turned)].median())

    def near_enough(symmetry: Symmetry) -> bool:
        turned = transform(images, symmetry)
        first, others = embed(turned[:_FIRST]), turned[_FIRST:]
        if far(first) > _TOO_FAR:
            return False
        return far(torch.cat([first, embed(others)]) if len(others) else first) <= _NEAR_ENOUGH

    found = {NONE[0]: True}
    for group in GROUPS:
        if len(group) * training_images > MOST_IMAGES:
            continue
        if images.shape[2] != images.shape[3] and any(turns % 2 for turns, _ in group):
            continue
        for symmetry in group:
            if symmetry not in found:
                found[symmetry] = near_enough(symmetry)
        if all(found[symmetry] for symmetry in group):
            return group
    return NONE


def distances_to_others(queries: Tensor, references: Tensor) -> Tensor:
    """How far the patches of each image (n,) are, on average, from the nearest of the other `references` (m, P, D).

    The first n of these are the images themselves, as they are.
    """
    every = max(3, queries.shape[1] // _POSITIONS)
    distances = image_distances(queries[:, ::every], references).float()
    own = torch.arange(len(queries), device=distances.device)
    distances[own, :, own] = torch.inf
    return distances.amin(dim=2).mean(dim=1)
