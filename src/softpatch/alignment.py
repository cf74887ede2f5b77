"""Whether parts lie turned or shifted, found by looking: whether images are nearer to each other once they are aligned.

A part that lies as it happens to has few others like it in the bank; brought to lie as one of them does, it has all.
Alignment is found, not assumed: a texture has no pose, and a part that lies still needs none.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from softpatch.data.registration import find_poses, moved, packed_reference, small_greys
from softpatch.symmetry import distances_to_others

_CANDIDATES = 6  # images that may become the reference
_NEARER = 0.9  # aligned patches have to be, beside patches of images as they lie: 0.95 on screws, which it does not help


def find_alignment(images: Tensor, aspects: Sequence[float], embed: Callable[[Tensor], Tensor]) -> tuple[str, float]:
    """The reference that a sample of training images (n, 3, H, W) is aligned by, and how near they are then.

    `aspects` are the originals' widths over their heights, and `embed` gives patch embeddings (n, P, D) float16. The
    reference is "none" where the patches of the median image are not nearer to those of other images once all are
    aligned, by a tenth; how near is that share. As they lie, images are blurred as much as by being moved.
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
    half_a_pixel = torch.tensor([[1.0, 0.0, 1 / width], [0.0, 1.0, 1 / height]])
    plain, aligned = embed(moved(images, half_a_pixel.expand(len(images), -1, -1))), embed(moved(images, poses))
    nearer = float(distances_to_others(aligned, aligned).median() / distances_to_others(plain, plain).median())
    return (reference if nearer <= _NEARER else "none"), nearer
