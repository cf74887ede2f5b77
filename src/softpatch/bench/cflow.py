"""CFLOW-AD: a conditional normalising flow per layer (Gudovskiy et al. 2022), on the FrEIA library.

For each of three layers a flow of eight coupling blocks learns the likelihood of the feature vector at a grid position,
given where that position is. The likelihoods of all layers, each divided by the largest in training, are upsampled and
added; how far the sum is from its largest value is the anomaly map, and its largest value the image score.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softpatch.bench.features import Features
from softpatch.bench.outcome import Outcome
from softpatch.config import Settings
from softpatch.data.contamination import ContaminatedSplit
from softpatch.errors import InputError
from softpatch.progress import Progress
from softpatch.scoring.anomaly_map import anomaly_maps

BLOCKS, CLAMPING, CONDITION = 8, 1.9, 128
"""Coupling blocks of a flow, the limit of their scaling, and numbers that say where a position is: as in the paper."""


@dataclass(frozen=True)
class Training:
    """How long a flow is trained: `epochs` over all positions, but at most `steps` steps of `batch` positions."""

    epochs: int
    steps: int
    batch: int = 8192
    learning_rate: float = 2e-4


BUDGETS = {"paper": Training(epochs=200, steps=10**9), "small": Training(epochs=10**9, steps=300, batch=2048,
                                                                         learning_rate=2e-3)}  # fmt: skip
"""The paper's 25 epochs of 8 parts each, or what two cores do in a few minutes."""


def flattened(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H, W) of several layers side by side: float16 (B, all numbers)."""
    return torch.cat([each.flatten(1) for each in maps], dim=1).half()


def unflattened(vectors: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """Undo `flattened`: patches (B, H·W, C) float16 of each layer, of shapes (C, H, W)."""
    parts = vectors.split([math.prod(shape) for shape in shapes], dim=1)  # type: ignore[no-untyped-call]
    return [part.view(len(part), shape[0], -1).mT for part, shape in zip(parts, shapes, strict=True)]


def run(
    split: ContaminatedSplit, features: Features, settings: Settings, budget: str, *, progress: Progress
) -> Outcome:
    """Fit the training images of a split and judge its test images."""
    train = features.of(split.train, settings.seed, progress=progress)
    test = features.of([sample.ref for sample in split.test], settings.seed, progress=progress)
    shapes, device = features.shapes, features.backbone.device
    total = torch.zeros(len(test), *features.map_shape)
    fitting = predicting = 0.0
    layers = zip(unflattened(train, shapes), unflattened(test, shapes), shapes, strict=True)
    for number, (seen, asked, (_, rows, columns)) in enumerate(layers):
        began = time.perf_counter()
        flow = train_flow(seen, (rows, columns), BUDGETS[budget], settings.seed + number, device, progress=progress)
        largest = log_likelihoods(flow, seen, (rows, columns), device).max()
        fitted = time.perf_counter()
        scores = log_likelihoods(flow, asked, (rows, columns), device).sub(largest).clamp_max(0).exp()
        total += anomaly_maps(scores.view(-1, rows, columns), features.map_shape, 0.0)
        fitting, predicting = fitting + fitted - began, predicting + time.perf_counter() - fitted
    maps = (len(shapes) - total).clamp_min(0)
    return Outcome(maps.amax(dim=(1, 2)).numpy(), list(maps.numpy()), fitting, predicting)


def make_flow(channels: int, seed: int) -> Any:
    """A conditional flow of vectors (n, channels), its random choices drawn from `seed`."""
    try:
        import FrEIA.framework as framework
        import FrEIA.modules as modules
    except ImportError as error:
        raise InputError("cflow needs FrEIA; install it with pip install 'softpatch[bench]'") from error

    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.ReLU(), nn.Linear(2 * inputs, outputs))

    before = np.random.get_state()  # noqa: NPY002 - FrEIA draws its rotations from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        flow: Any = framework.SequenceINN(channels)
        for _ in range(BLOCKS):
            flow.append(
                modules.AllInOneBlock,
                cond=0,
                cond_shape=(CONDITION,),
                subnet_constructor=subnet,
                affine_clamping=CLAMPING,
                global_affine_type="SOFTPLUS",
                permute_soft=channels <= 512,
            )
    np.random.set_state(before)  # noqa: NPY002
    return flow


def train_flow(
    patches: Tensor,
    grid: tuple[int, int],
    training: Training,
    seed: int,
    device: torch.device,
    *,
    progress: Progress,
) -> Any:
    """Teach a flow the likelihood of patches (N, P, C), P the positions of a grid (H, W)."""
    flow = make_flow(patches.shape[2], seed).to(device)
    optimiser = torch.optim.Adam(flow.parameters(), training.learning_rate)
    per_epoch = -(-patches.shape[0] * patches.shape[1] // training.batch)
    steps = min(training.steps, training.epochs * per_epoch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches = _shuffled(patches, where(grid), training.batch, seed)
    for step in range(steps):
        values, conditions = (each.to(device) for each in next(batches))
        loss = -nn.functional.logsigmoid(log_likelihood(flow, values.float(), conditions)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        progress("training", step + 1, steps)
    return flow.eval()


def _shuffled(patches: Tensor, conditions: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of patches and of where they are, in another random order in every epoch, for ever."""
    random = torch.Generator().manual_seed(seed)
    count, positions, channels = patches.shape
    while True:
        for chosen in torch.split(torch.randperm(count * positions, generator=random), size):
            image, position = chosen // positions, chosen % positions
            yield patches[image, position].view(-1, channels), conditions[position]


def where(grid: tuple[int, int]) -> Tensor:
    """Sines and cosines, of many wavelengths, of the row and the column of every position: (H·W, 128)."""
    quarter = CONDITION // 4
    frequencies = torch.exp(torch.arange(quarter) * (-math.log(10_000) / quarter))
    rows, columns = torch.meshgrid(*(torch.arange(side).float() for side in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def log_likelihood(flow: Any, values: Tensor, conditions: Tensor) -> Tensor:
    """The logarithm of the density of vectors (n, C) given their conditions (n, 128), divided by C: (n,)."""
    latent, log_determinant = flow(values, [conditions])
    channels = values.shape[1]
    gaussian = -0.5 * latent.square().sum(dim=1) - 0.5 * channels * math.log(2 * math.pi)
    found: Tensor = (gaussian + log_determinant) / channels
    return found


@torch.inference_mode()
def log_likelihoods(flow: Any, patches: Tensor, grid: tuple[int, int], device: torch.device) -> Tensor:
    """The same for all patches (N, P, C) of images: (N, P)."""
    conditions = where(grid).to(device)
    return torch.stack([log_likelihood(flow, image.float().to(device), conditions).cpu() for image in patches])
