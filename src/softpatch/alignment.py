"""Whether parts lie turned or shifted, found by looking: whether images are nearer to each other once they are aligned.

A part that lies as it happens to has few others like it in the bank; brought to lie as one of them does, it has all.
Alignment is found, not assumed: a texture has no pose, and a part that lies still needs none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softpatch.data.registration import find_poses, moved, packed_reference, small_greys
from softpatch.symmetry import distances_to_others

_CANDIDATES = 6  # images that may become the reference
_NEARER = 0.8  # aligned patches have to be, beside patches of images as they lie
_OFTEN = 0.9  # of the images have to show a place that is looked at


@dataclass(frozen=True, eq=False)
class Alignment:
    """The `reference` that images are aligned by, where nearly all show something then, bool (H, W), and how near the
    patches of the median image are to those of others, beside images as they lie."""

    reference: str
    seen: Tensor
    nearer: float

    @property
    def helps(self) -> bool:
        """Whether images are nearer to each other by a fifth, so that it is worth its while."""
        return self.nearer <= _NEARER


def find_alignment(images: Tensor, aspects: Sequence[float], embed: Callable[[Tensor, Tensor], Tensor]) -> Alignment:
    """Align a sample of training images (n, 3, H, W) by the one of them that most match best.

    `aspects` are the originals' widths over their heights, and `embed` gives patch embeddings (n, P, D) float16 of
    images of which only what is true in a mask (H, W) is looked at. As they lie, images are blurred as much as by being
    moved.
    """
    greys = small_greys(images)
    found = []
    for number in torch.linspace(0, len(images) - 1, min(len(images), _CANDIDATES)).long().tolist():
        reference = packed_reference(greys[number])
        pairs = [find_poses(grey[None], reference, aspect) for grey, aspect in zip(greys, aspects, strict=True)]
        poses, matches = (torch.cat(each) for each in zip(*pairs, strict=True))
        found.append((float(matches.median()), reference, poses))
    _, reference, poses = max(found, key=lambda each: each[0])
    height, width = images.shape[2:]
    seen = moved(images.new_ones(1, 1, height, width).expand(len(images), -1, -1, -1), poses, beyond="zeros")
    mask = seen[:, 0].mean(dim=0) > _OFTEN
    half_a_pixel = torch.tensor([[1.0, 0.0, 1 / width], [0.0, 1.0, 1 / height]]).expand(len(images), -1, -1)
    plain, aligned = (embed(moved(images, each), mask) for each in (half_a_pixel, poses))
    nearer = float(distances_to_others(aligned, aligned).median() / distances_to_others(plain, plain).median())
    return Alignment(reference, mask, nearer)
