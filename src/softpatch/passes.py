"""Training images become patch embeddings, in as many passes as bounded memory needs.

The first pass keeps what is small: projected embeddings, in which noise is judged and the coreset chosen. Where that
is not all there is to know, a second pass looks at the images again and keeps the full embeddings of the few patches
that were chosen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from softpatch.config import Runtime, Settings
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, SkippedImage, read_in_batches
from softpatch.features.backbone import Backbone
from softpatch.features.embedding import patch_embeddings
from softpatch.memory.projection import project
from softpatch.memory_budget import embedding_store, fit_memory
from softpatch.progress import Progress


def embedding_shape(backbone: Backbone, settings: Settings) -> tuple[tuple[int, int], int]:
    """The patch grid (H, W) and the embedding size D that a backbone gives: found by showing it a grey image."""
    maps = backbone.feature_maps(torch.full((1, 3, settings.crop, settings.crop), 0.5))
    rows, columns = max((layer.shape[2:] for layer in maps), key=prod)
    return (rows, columns), patch_embeddings(maps, settings.embedding_dim).shape[2]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the first pass found: the images that could be read, their `projected` embeddings (N, P, d) float16, the
    patch grid (H, W), and the size D of the full embeddings."""

    refs: list[ImageRef]
    projected: Tensor
    grid: tuple[int, int]
    dim: int


def first_pass(
    refs: Sequence[ImageRef],
    backbone: Backbone,
    settings: Settings,
    runtime: Runtime,
    folder: Path,
    *,
    on_skip: Callable[[SkippedImage], None] | None,
    progress: Progress,
) -> Seen:
    """Look at every image; one that cannot be read goes to `on_skip`, or raises `ImageError` without it.

    What does not fit in the memory budget is kept in `folder`. Raises `InputError`, before any image is read, where
    even that is not enough.
    """
    grid, dim = embedding_shape(backbone, settings)
    weights = sum(weight.numel() * weight.element_size() for weight in backbone.network.parameters())
    need = fit_memory(len(refs), prod(grid), dim, settings, weights)
    projected = embedding_store(need, runtime.memory_budget, folder, backbone.device)
    usable: list[ImageRef] = []
    for batch, embeddings in _embedded(refs, backbone, settings, runtime, on_skip):
        projected[len(usable) : len(usable) + len(batch)] = project(embeddings, settings.projected_dim, settings.seed)
        usable += batch
        progress("patch embeddings", len(usable), len(refs))
    return Seen(usable, projected[: len(usable)], grid, dim)


def full_embeddings(
    seen: Seen, needed: Tensor, backbone: Backbone, settings: Settings, runtime: Runtime, *, progress: Progress
) -> Tensor:
    """Embeddings (n, D) float16 of the patches `needed` (n,), int64 indices into all N·P that rise.

    Where projecting lost nothing they are at hand; else the images are looked at a second time.
    """
    positions, done = seen.projected.shape[1], 0
    if seen.projected.shape[2] == seen.dim:
        return seen.projected.flatten(0, 1)[needed]
    found = torch.empty(len(needed), seen.dim, dtype=torch.float16, device=needed.device)
    for batch, embeddings in _embedded(seen.refs, backbone, settings, runtime, None):
        bounds = torch.tensor([done, done + len(batch)]) * positions
        first, after = torch.searchsorted(needed, bounds.to(needed.device)).tolist()
        chosen = (needed[first:after] - done * positions).to(embeddings.device)
        found[first:after] = embeddings.flatten(0, 1)[chosen]
        done += len(batch)
        progress("patches of the bank", done, len(seen.refs))
    return found


def _embedded(
    refs: Sequence[ImageRef],
    backbone: Backbone,
    settings: Settings,
    runtime: Runtime,
    on_skip: Callable[[SkippedImage], None] | None,
) -> Iterator[tuple[list[ImageRef], Tensor]]:
    """Batch by batch: images, and their patch embeddings (B, P, D) float16."""
    framing = Framing(settings.resize, settings.crop)
    for batch, _, images in read_in_batches(
        refs, framing.apply, batch_size=runtime.batch_size, workers=runtime.workers, on_skip=on_skip
    ):
        yield list(batch), patch_embeddings(backbone.feature_maps(images), settings.embedding_dim)
