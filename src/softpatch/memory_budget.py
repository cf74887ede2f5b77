"""What a fit needs in memory, known before it begins, and where the projected embeddings are kept."""

import os
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from softpatch.config import Runtime, Settings, parse_bytes
from softpatch.errors import InputError
from softpatch.features.builtin import BUILTIN
from softpatch.features.tiles import TILES_AT_ONCE

_BASE = 900_000_000  # the program, a small network and a batch of images
_PER_WEIGHT = 6  # bytes for each of the network's weights: read, in use, folded, and maps between the layers
_GPU_GROUP = 600_000_000  # distances of a group of positions; on a CPU they stay in its cache
_PER_PATCH = 230  # bytes of the coreset and of the noise scores
_PER_PATCH_COMPARED = 60  # bytes of the distances of suspects to other images


_USUAL_PIXELS = 256 * 256
_BYTES_OF_PIXEL = 12  # three colours as float32
_PER_PIXEL_OF_BUILTIN = 90  # bytes of the built-in network's maps for each pixel of the crop
_PER_PIXEL = 320  # of the largest of timm's usual networks: 300 with wide_resnet50_2, 130 with resnet18


def check_image_memory(settings: Settings, runtime: Runtime, device: torch.device, beside: int = 0) -> None:
    """Raise `InputError` where images of the settings' size would not fit in the memory budget, before any is read.

    A batch of them goes through the network, whole or in tiles, two wait, and each worker resizes one; `beside` are
    further bytes.
    """
    per_pixel = _PER_PIXEL_OF_BUILTIN if settings.backbone == BUILTIN else _PER_PIXEL
    if device.type != "cpu":
        per_pixel = 0
    width, height = settings.size or (settings.resize, settings.resize)
    seen_width, seen_height = settings.size or (settings.seen_side, settings.seen_side)
    at_once = images_at_once(settings, runtime)
    images = (
        (TILES_AT_ONCE if settings.tile else at_once) * settings.network_side**2 * per_pixel
        + 3 * at_once * seen_width * seen_height * _BYTES_OF_PIXEL
        + 2 * runtime.workers * width * height * _BYTES_OF_PIXEL
    )
    need = _BASE + images + beside
    if need > parse_bytes(runtime.memory_budget):
        raise InputError(
            f"to look at images of {seen_width} x {seen_height} pixels, {at_once} at a time, takes about "
            f"{need / 1e9:.1f} GB of memory, more than `memory_budget` {runtime.memory_budget}; allow more, or choose "
            "a smaller `batch_size` or `workers`, or at fit a smaller resize, crop or tile, or a larger smallest_defect"
        )


def images_at_once(settings: Settings, runtime: Runtime) -> int:
    """How many images are read and seen at once: a batch, or of tiled images as many as have no more pixels."""
    if settings.size is None:
        return runtime.batch_size
    return max(1, runtime.batch_size * _USUAL_PIXELS // prod(settings.size))


@dataclass(frozen=True)
class FitMemory:
    """What a fit holds: projected embeddings of a `shape` (N, P, d), float16, which may lie on disk; and the `rest`.

    `rest` is in bytes, of the whole process; `beside` are the bytes that a GPU holds beside the embeddings.
    """

    shape: tuple[int, int, int]
    rest: int
    beside: int

    @property
    def embeddings(self) -> int:
        """Bytes of the projected embeddings."""
        return 2 * prod(self.shape)


def fit_memory(count: int, positions: int, dim: int, settings: Settings, weights: int) -> FitMemory:
    """What a fit of `count` images needs, whose patch embeddings are (positions, dim) each.

    `weights` are the bytes of the network's.
    """
    patches = count * positions
    bank = min(settings.max_bank_size, settings.coreset_ratio * patches)
    shape = (count, positions, min(dim, settings.projected_dim))
    picks = 4 * (shape[2] + 51) * bank
    each = _PER_PATCH + _PER_PATCH_COMPARED * (settings.discard_rule == "agreement")
    rest = _BASE + _PER_WEIGHT * weights + each * patches + round(picks + 2 * dim * (2 * bank + 100 * positions))
    # the coreset needs the embeddings as float32, too
    return FitMemory(shape, rest, 4 * prod(shape) + each * patches + _GPU_GROUP)


def embedding_store(need: FitMemory, budget: str, folder: Path, device: torch.device) -> Tensor:
    """Room for the projected embeddings (N, P, d) float16.

    It is on the `device` where that is a GPU with room for all; else in memory where that fits in the `budget` of the
    whole process, such as "4GB"; else a file in `folder`. Raises `InputError` where even then a fit would not fit, or
    the disk is too full.
    """
    if device.type == "cuda" and need.embeddings + need.beside < torch.cuda.mem_get_info(device)[0]:
        return torch.empty(need.shape, dtype=torch.float16, device=device)
    count, size, allowed = need.shape[0], need.embeddings, parse_bytes(budget)
    if need.rest + size <= allowed:
        return torch.empty(need.shape, dtype=torch.float16)
    if need.rest > allowed:
        raise InputError(
            f"learning from {count:,} images needs about {need.rest / 1e9:.1f} GB of memory, more than "
            f"`memory_budget` {budget}; allow more, or give fewer images or a smaller `crop`"
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"learning from {count:,} images within `memory_budget` {budget} needs {size / 1e9:.1f} GB of disk in "
            f"{folder}, where {free / 1e9:.1f} GB are free; allow more memory, or name another folder by TMPDIR"
        )
    path = folder / "embeddings"
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return torch.from_file(str(path), shared=True, size=size // 2, dtype=torch.float16).view(need.shape)
