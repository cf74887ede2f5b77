"""Methods that came after the paper and compare every test patch with every training image: MuSc and MeDS.

Both begin with the distances d₍₁₎ <= d₍₂₎ <= … of a patch to the M training images, each by its nearest patch, wherever
that lies. What follows in those papers, such as re-scoring an image by those most like it, is left out.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from softpatch.bench.features import Features
from softpatch.bench.outcome import Outcome
from softpatch.config import Settings
from softpatch.data.contamination import ContaminatedSplit
from softpatch.memory.agreement import image_distances
from softpatch.progress import Progress
from softpatch.scoring.anomaly_map import anomaly_maps

NEAREST_SHARE = 0.3
"""The share of the images, the nearest ones, whose distances MuSc averages."""
MEMORY_SHARE = 0.1
"""The share of the images that each of MeDS's random memories holds."""
_BATCH = 8


def run(
    split: ContaminatedSplit,
    features: Features,
    settings: Settings,
    score: Callable[[Tensor], Tensor],
    *,
    progress: Progress,
) -> Outcome:
    """Judge the test images of a split by `score`, which makes patch scores (N, P) of distances (N, P, M)."""
    train = features.of(split.train, settings.seed, progress=progress)
    test = features.of([sample.ref for sample in split.test], settings.seed, progress=progress)
    began = time.perf_counter()
    scores: list[Tensor] = []
    for batch in torch.split(test, _BATCH):
        scores += list(score(image_distances(batch, train).float()))
        progress("predict", len(scores), len(test))
    patch_scores = torch.stack(scores)
    maps = anomaly_maps(patch_scores.view(-1, *features.grid), features.map_shape, settings.smoothing_sigma)
    ended = time.perf_counter()
    return Outcome(patch_scores.amax(dim=1).numpy(), list(maps.numpy()), 0.0, ended - began)


def mean_of_nearest(distances: Tensor) -> Tensor:
    """MuSc's first stage (Li et al., ICLR 2024): the mean of the lowest 30 % of the distances (N, P, M), one at least.

    Gives (N, P).
    """
    count = max(1, int(NEAREST_SHARE * distances.shape[2]))
    return distances.topk(count, dim=2, largest=False).values.mean(dim=2)


def mean_over_memories(distances: Tensor) -> Tensor:
    """MeDS's first stage (arXiv 2605.26676): the mean over random memories of the distance to the nearest image in one.

    Over all memories of m of the M images that is Σᵢ d₍ᵢ₎·C(M-i, m-1) / C(M, m), here with m a tenth of M, one at
    least. `distances` (N, P, M) give (N, P).
    """
    images = distances.shape[2]
    chosen = max(1, round(MEMORY_SHARE * images))
    # the first weight is m/M, and each is (M-i-m+1)/(M-i) times the one before it
    earlier = torch.arange(1, images, dtype=torch.float64)
    ratios = (images - earlier - chosen + 1).clamp_min(0) / (images - earlier)
    weights = chosen / images * torch.cat([torch.ones(1, dtype=torch.float64), ratios]).cumprod(dim=0)
    return distances.sort(dim=2).values @ weights.to(distances)
