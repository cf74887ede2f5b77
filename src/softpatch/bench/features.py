"""Patch embeddings of a category's images, computed once for all tasks that look at them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softpatch.config import Runtime, Settings, parse_bytes
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, as_asked, read_in_batches
from softpatch.errors import InputError
from softpatch.features.backbone import Backbone
from softpatch.progress import Progress, silent


@dataclass
class Features:
    """What a backbone sees in images, remembered.

    `embed` makes one tensor of numbers per image of the backbone's maps, whose `shapes` are (C, H, W); with `pixels`
    the image itself, in [0, 1], is the last of them. `seconds` and `images` count the work that was done.
    """

    backbone: Backbone
    settings: Settings
    runtime: Runtime
    embed: Callable[[Sequence[Tensor]], Tensor]
    pixels: bool = False
    shapes: tuple[tuple[int, int, int], ...] = ()
    seconds: float = 0.0
    images: int = 0
    _seen: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)

    def of(self, refs: Sequence[ImageRef], seed: int, *, progress: Progress = silent) -> Tensor:
        """What `embed` makes of images, (N, ...); copies that contamination disturbed are told by `seed`."""
        keys = [(ref.name, None if ref.path else seed) for ref in refs]
        missing = {key: ref for key, ref in zip(keys, refs, strict=True) if key not in self._seen}
        began, done = time.perf_counter(), 0
        order = list(missing)
        for _, _, images in read_in_batches(
            as_asked(list(missing.values()), self.settings),
            Framing.of(self.settings).apply,
            batch_size=self.runtime.batch_size,
            workers=self.runtime.workers,
        ):
            maps = self.backbone.feature_maps(images)
            if self.pixels:
                maps = [*maps, images.to(maps[0].device)]
            self.shapes = tuple((layer.shape[1], layer.shape[2], layer.shape[3]) for layer in maps)
            embeddings = self.embed(maps).cpu()
            self._refuse_too_much(embeddings[0], len(missing))
            for embedding in embeddings:
                self._seen[order[done]] = embedding.clone()
                done += 1
            progress("patch embeddings", done, len(missing))
        self.seconds += time.perf_counter() - began
        self.images += len(missing)
        return torch.stack([self._seen[key] for key in keys])

    def _refuse_too_much(self, each: Tensor, missing: int) -> None:
        """Raise `InputError` where what is remembered of all images, and once more together, exceeds the budget."""
        count = len(self._seen) + missing
        need = 2 * each.numel() * each.element_size() * count
        if need > parse_bytes(self.runtime.memory_budget):
            raise InputError(
                f"the patch embeddings of {count:,} images take {need / 1e9:.1f} GB of memory, more "
                f"than `memory_budget` {self.runtime.memory_budget}; allow more, or choose a smaller `backbone` or crop"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """The patch grid (H, W): the finest of the maps'."""
        return max((shape[1:] for shape in self.shapes), key=lambda grid: grid[0] * grid[1])

    @property
    def map_shape(self) -> tuple[int, int]:
        """The rows and columns of an anomaly map."""
        return Framing.of(self.settings).map_shape

    @property
    def seconds_per_image(self) -> float:
        return self.seconds / max(1, self.images)
