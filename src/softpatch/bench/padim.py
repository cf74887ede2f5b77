"""PaDiM: a Gaussian per grid position (Defard et al. 2021).

The features of three layers, brought to the finest grid, are reduced to a random choice of channels; the anomaly score
of a patch is its Mahalanobis distance to the training patches at its position, of an image the largest of its map.
"""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from softpatch.bench.features import Features
from softpatch.bench.outcome import Outcome
from softpatch.config import Settings
from softpatch.data.contamination import ContaminatedSplit
from softpatch.errors import InputError
from softpatch.progress import Progress, silent
from softpatch.scoring.anomaly_map import anomaly_maps

EPSILON = 0.01
"""What is added to the covariance's diagonal, as in the paper."""
CHANNELS = {"resnet18": 100, "wide_resnet50_2": 550}
"""How many channels are chosen, as in the paper; 100 for other backbones, or all where there are fewer."""


def run(split: ContaminatedSplit, features: Features, settings: Settings, *, progress: Progress) -> Outcome:
    """Fit the training images of a split and judge its test images."""
    train = features.of(split.train, settings.seed, progress=progress)
    began = time.perf_counter()
    gaussians = fit_gaussians(train, progress=progress)
    fitted = time.perf_counter()
    test = features.of([sample.ref for sample in split.test], settings.seed, progress=progress)
    looked = time.perf_counter()
    scores = distances(test, *gaussians)
    maps = anomaly_maps(scores.view(-1, *features.grid), features.map_shape, settings.smoothing_sigma)
    ended = time.perf_counter()
    return Outcome(maps.amax(dim=(1, 2)).numpy(), list(maps.numpy()), fitted - began, ended - looked)


def chosen_channels(maps: Sequence[Tensor], backbone: str, seed: int) -> Tensor:
    """A random choice of the channels of maps (B, C, H, W), each repeated to the finest grid: float16 (B, P, D)."""
    finest = max((tuple(each.shape[2:]) for each in maps), key=lambda grid: grid[0] * grid[1])
    joined = torch.cat([F.interpolate(each, size=finest, mode="nearest") for each in maps], dim=1)
    available = joined.shape[1]
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    chosen = order[: min(available, CHANNELS.get(backbone, 100))].sort().values
    return joined[:, chosen.to(joined.device)].flatten(2).mT.half()


def fit_gaussians(patches: Tensor, *, progress: Progress = silent) -> tuple[Tensor, Tensor]:
    """Means (P, D), and Cholesky factors (P, D, D) of covariances plus `EPSILON`·I, of patches (N, P, D): float32."""
    count, positions, dim = patches.shape
    if count < 2:
        raise InputError(f"{count} training image is too few for PaDiM; it needs the covariance of 2 or more")
    means = patches.float().mean(dim=0)
    factors = torch.empty(positions, dim, dim)
    for position in range(positions):
        centred = (patches[:, position].float() - means[position]).double()
        covariance = centred.T @ centred / (count - 1)
        covariance.diagonal().add_(EPSILON)
        factors[position] = torch.linalg.cholesky(covariance)
        progress("Gaussians", position + 1, positions)
    return means, factors


def distances(patches: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Mahalanobis distances (N, P) of patches (N, P, D)."""
    scores = torch.empty(patches.shape[:2])
    for position, factor in enumerate(factors):
        centred = (patches[:, position].float() - means[position]).T  # (D, N)
        scores[:, position] = torch.linalg.solve_triangular(factor, centred, upper=False).square().sum(dim=0).sqrt()
    return scores
