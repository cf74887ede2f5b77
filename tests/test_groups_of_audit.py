"""Groups of images: what is in them and what their evidence says, on images made to belong together."""

import numpy as np
import pytest
import torch

from softpatch.review.groups import badly_taken, image_looks, linked, near_copies


def pictures(count: int = 14) -> torch.Tensor:
    """Images (N, 3, 64, 64) in [0, 1] of smooth random shades."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear").expand(-1, 3, -1, -1)
    return 0.25 + 0.5 * fine + 0.02 * torch.randn(fine.shape, generator=generator)


def test_near_copies_are_found_and_nothing_else() -> None:
    images = pictures()
    generator = torch.Generator().manual_seed(1)
    noisy = images[3] + 0.01 * torch.randn(images[3].shape, generator=generator)
    again = torch.cat([images, noisy[None], images[:1] * 0.99, images[:1] + 0.004])
    groups = near_copies(image_looks(again).small)
    assert [group.images for group in groups] == [(0, 15, 16), (3, 14)]
    assert groups[0].evidence == "3 pictures are nearly the same"
    assert near_copies(image_looks(images).small) == []


def test_few_images_tell_nothing() -> None:
    looks = image_looks(pictures(5)[[0, 0, 1, 2, 3]])
    assert near_copies(looks.small) == []
    assert badly_taken(looks) == []


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda image: image * 0.4, "exposure", "darker"),
        (lambda image: image * 2, "exposure", "brighter"),
        (lambda image: torch.nn.functional.avg_pool2d(image, 9, 1, 4), "blur", "sharp"),
    ],
)
def test_badly_taken_images_are_told_apart(spoil, kind: str, words: str) -> None:
    images = pictures()
    assert badly_taken(image_looks(images)) == []
    images[5] = spoil(images[5]).clamp(0, 1)
    (group,) = badly_taken(image_looks(images))
    assert (group.kind, group.images) == (kind, (5,))
    assert words in group.evidence
    assert group.evidence.startswith("1 image is ")


def test_looks_of_a_picture_worked_out_by_hand() -> None:
    halves = torch.zeros(1, 3, 64, 64)
    halves[..., 32:] = 1
    looks = image_looks(halves)
    assert looks.light.item() == pytest.approx(0.5)
    assert looks.lost.item() == 1
    # along the edge two columns of 62 pixels differ from the mean of their neighbours by a quarter
    assert looks.sharpness.item() == pytest.approx(2 / 62 / 4 / 0.5, rel=1e-3)
    assert looks.small.norm().item() == pytest.approx(1)


def test_linked_are_those_within_reach_of_each_other_on_the_mean() -> None:
    places = np.array([0.0, 1, 2, 10, 11, 30])
    distances = np.abs(places[:, None] - places)
    assert linked(distances, 2.0) == [[0, 1, 2], [3, 4]]
    assert linked(distances, 0.5) == []
