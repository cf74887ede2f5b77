"""Which patches to keep, and how far to trust each: rank fusion, discarding, soft weights (section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ranks(scores: Tensor) -> Tensor:
    """Replace scores by their rank divided by their count along the last dimension, equation (7): (..., n), in (0, 1].

    Equal scores share the mean of their ranks, so the order of images does not matter.
    """
    ordered = scores.sort(dim=-1).values.contiguous()
    scores = scores.contiguous()
    below = torch.searchsorted(ordered, scores)
    through = torch.searchsorted(ordered, scores, right=True)
    return (below + through + 1).float() / (2 * scores.shape[-1])


def fuse(scores: Sequence[Tensor], *, per_position: bool) -> Tensor:
    """Average the ranks of several discriminators' noise scores (N, P), equation (8): (N, P), in (0, 1].

    Ranks are taken among the N patches of each position, or among all N·P patches.
    """
    if per_position:
        return torch.stack([ranks(score.T).T for score in scores]).mean(dim=0)
    return torch.stack([ranks(score.flatten()).view_as(score) for score in scores]).mean(dim=0)


def kept_patches(noise: Tensor, discard_fraction: float) -> Tensor:
    """Drop the patches with the highest noise scores: sorted int64 indices into the flattened (N, P) of those kept.

    Exactly ⌊discard_fraction · N·P⌋ patches are dropped.
    """
    dropped = int(discard_fraction * noise.numel() + 1e-9)
    order = noise.flatten().argsort(stable=True)
    return order[: noise.numel() - dropped].sort().values


def clip_above_quantile(weights: Tensor, quantile: float) -> Tensor:
    """Lower every weight above the given quantile of all weights to that quantile; same shape."""
    place = int(quantile * (weights.numel() - 1) + 1e-9) + 1
    return weights.clamp_max(weights.flatten().kthvalue(place).values)
