"""Distances from patches to images, against all pairs computed one by one."""

import pytest
import torch

from softpatch.memory.agreement import image_distances


@pytest.mark.parametrize("patches", [1, 9, 400])
def test_a_patch_is_as_far_from_an_image_as_from_its_nearest_patch(patches: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = (torch.randn(3, 5, 6, generator=generator) + 20).half()
    references = (torch.randn(4, patches, 6, generator=generator) + 20).half()
    found = image_distances(queries, references)
    expected = torch.cdist(queries.double()[:, None], references.double()[None]).amin(dim=3).mT  # (3, 5, 4)
    assert found.dtype == torch.float16
    assert torch.allclose(found.double(), expected, rtol=2e-3)


def test_a_patch_is_at_no_distance_from_its_own_image() -> None:
    images = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(0)).half()
    found = image_distances(images, images)
    own = found[torch.arange(3), :, torch.arange(3)]
    assert own.max() < 0.02  # beside distances of about 16
    assert found.median() > 10
