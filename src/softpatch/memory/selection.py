"""Which patches to keep, and how far to trust each: rank fusion, discarding, soft weights (section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softpatch.config import Settings
from softpatch.memory.discriminators import NoiseSettings, noise_scores
from softpatch.progress import Progress, silent

_SMALLEST = 1e-12  # a score of zero has no logarithm
_STANDING_OUT = 2.5  # robust standard deviations


@dataclass(frozen=True, eq=False)
class PatchNoise:
    """What the discriminators make of all training patches.

    `fused` (N, P) decides which patches are kept; `weights` (N, P) are their soft weights; `outlying` in [0, 1] is the
    share of patches that stand out at their position (see `outlying_share`). `nearest` and `lof` (N, P)
    are the scores of these discriminators, 0 where the settings do not ask for them.
    """

    fused: Tensor
    weights: Tensor
    outlying: float
    nearest: Tensor
    lof: Tensor


def judge_patches(projected: Tensor, settings: Settings, *, progress: Progress = silent) -> PatchNoise:
    """Score the noise of all patches by the chosen discriminators; `projected` are embeddings (N, P, d).

    Without discriminators the noise is 0 everywhere, without a weight rule the weights are 1.
    """
    count, positions, _ = projected.shape
    scores = {name: projected.new_empty(count, positions, dtype=torch.float32) for name in settings.noise_names}
    if scores:
        told = NoiseSettings(settings.lof_neighbors, settings.gaussian_epsilon)
        for group, found in noise_scores(projected, settings.noise_names, told):
            for name, values in found.items():
                scores[name][:, group] = values
            progress("noise scores", group.stop, positions)
    fused = projected.new_zeros(count, positions, dtype=torch.float32)
    nearest, lof = (scores.get(name, fused) for name in ("nearest", "lof"))
    weights = torch.ones_like(fused)
    chosen = [scores[name] for name in settings.discriminators]
    if len(chosen) == 1:
        fused = chosen[0]  # one score needs no ranks to be comparable
    elif chosen:
        fused = fuse(chosen, per_position=settings.rank_scope == "position")
    if settings.weight_rule != "none":
        weights = scores[settings.weight_discriminator]
    if settings.weight_rule == "clipped":
        weights = clip_above_quantile(weights, settings.weight_clip_quantile)
    return PatchNoise(fused, weights, min((outlying_share(score) for score in chosen), default=0.0), nearest, lof)


def outlying_share(scores: Tensor) -> float:
    """The share of patches whose noise score (N, P) stands out from the N at its position, in [0, 1].

    Standing out is to lie more than 2.5 robust standard deviations (1.4826 times the median absolute deviation) above
    the median of the scores' logarithms. Clean folders have about 2 %, by natural tails; contamination adds to it.
    """
    logs = scores.double().clamp_min(_SMALLEST).log()
    median = logs.median(dim=0).values
    deviation = 1.4826 * (logs - median).abs().median(dim=0).values
    return float((logs - median > _STANDING_OUT * deviation.clamp_min(_SMALLEST)).double().mean())


def discard_share(noise: PatchNoise, settings: Settings) -> float:
    """The share of patches to drop for the image score, at most `settings.discard_fraction`.

    Under the "fixed" rule that share, as in the paper. Under the "adaptive" rule twice the share that stands out, but
    at least a third of `discard_fraction`: a clean folder keeps rare patches that the fixed share would drop.
    """
    if settings.discard_rule == "fixed":
        return settings.discard_fraction
    return min(settings.discard_fraction, max(settings.discard_fraction / 3, 2 * noise.outlying))


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


def noisiest(noise: Tensor, share: float) -> Tensor:
    """Which patches are among the given share with the highest noise scores: bool, of the shape of `noise` (N, P)."""
    found = torch.ones(noise.numel(), dtype=torch.bool, device=noise.device)
    found[kept_patches(noise, share)] = False
    return found.view_as(noise)


def clip_above_quantile(weights: Tensor, quantile: float) -> Tensor:
    """Lower every weight above the given quantile of all weights to that quantile; same shape."""
    place = int(quantile * (weights.numel() - 1) + 1e-9) + 1
    return weights.clamp_max(weights.flatten().kthvalue(place).values)
