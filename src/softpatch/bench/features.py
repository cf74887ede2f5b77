"""Patch embeddings of a category's images, computed once for all tasks that look at them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softpatch.config import Runtime, Settings
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, read_in_batches
from softpatch.features.backbone import Backbone
from softpatch.progress import Progress, silent


@dataclass
class Features:
    """What a backbone sees in images, remembered.

    `embed` makes patch embeddings (B, P, D) float16 of the backbone's maps. `grid` is the patch grid (H, W) of the
    images seen last; `seconds` and `images` count the work that was done.
    """

    backbone: Backbone
    settings: Settings
    runtime: Runtime
    embed: Callable[[Sequence[Tensor]], Tensor]
    grid: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    images: int = 0
    _seen: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)

    def of(self, refs: Sequence[ImageRef], seed: int, *, progress: Progress = silent) -> Tensor:
        """The patch embeddings (N, P, D) float16 of images; copies that contamination disturbed are told by `seed`."""
        keys = [(ref.name, None if ref.path else seed) for ref in refs]
        missing = {key: ref for key, ref in zip(keys, refs, strict=True) if key not in self._seen}
        began, done = time.perf_counter(), 0
        order = list(missing)
        for _, _, images in read_in_batches(
            list(missing.values()),
            Framing(self.settings.resize, self.settings.crop).apply,
            batch_size=self.runtime.batch_size,
            workers=self.runtime.workers,
        ):
            maps = self.backbone.feature_maps(images)
            finest = max(maps, key=lambda layer: layer.shape[2] * layer.shape[3])
            self.grid = (finest.shape[2], finest.shape[3])
            for embeddings in self.embed(maps).cpu():
                self._seen[order[done]] = embeddings.clone()
                done += 1
            progress("patch embeddings", done, len(missing))
        self.seconds += time.perf_counter() - began
        self.images += len(missing)
        return torch.stack([self._seen[key] for key in keys])

    @property
    def seconds_per_image(self) -> float:
        return self.seconds / max(1, self.images)
