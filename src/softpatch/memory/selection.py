"""Which patches to keep, and how far to trust each: rank fusion, discarding, soft weights (section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from softpatch.config import Settings
from softpatch.memory.discriminators import NoiseSettings, noise_scores
from softpatch.progress import Progress, silent


def noise_and_weights(projected: Tensor, settings: Settings, *, progress: Progress = silent) -> tuple[Tensor, Tensor]:
    """Score the noise of all patches: the fused scores that decide which are kept, and the soft weights, (N, P) each.

    `projected` are embeddings (N, P, d). Without discriminators the noise is 0 everywhere, without a weight rule the
    weights are 1.
    """
    count, positions, _ = projected.shape
    scores = {name: projected.new_empty(count, positions) for name in settings.noise_names}
    if scores:
        told = NoiseSettings(settings.lof_neighbors, settings.gaussian_epsilon)
        for group, found in noise_scores(projected, settings.noise_names, told):
            for name, values in found.items():
                scores[name][:, group] = values
            progress("noise scores", group.stop, positions)
    nothing = projected.new_zeros(count, positions)
    chosen = [scores[name] for name in settings.discriminators]
    if len(chosen) > 1:
        noise = fuse(chosen, per_position=settings.rank_scope == "position")
    else:
        noise = chosen[0] if chosen else nothing  # one score needs no ranks to be comparable
    if settings.weight_rule == "none":
        return noise, nothing + 1
    weights = scores[settings.weight_discriminator]
    if settings.weight_rule == "clipped":
        weights = clip_above_quantile(weights, settings.weight_clip_quantile)
    return noise, weights


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
    """Average the ranks of several discriminators' noise scores (N, P), equation (8): float64 (N, P), in (0, 1].

    Ranks are taken among all N·P patches, or among the N of each position. The latter take few values; where they are
    equal the former decide, so that no order of images or positions does.
    """
    overall = torch.stack([ranks(score.flatten()).view_as(score) for score in scores]).double().mean(dim=0)
    if not per_position:
        return overall
    by_position = torch.stack([ranks(score.T).T for score in scores]).double().mean(dim=0)
    step = 1 / (2 * len(scores) * scores[0].shape[0])  # between neighbouring values of by_position
    return by_position * (1 - step / 2) + overall * step / 2


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
