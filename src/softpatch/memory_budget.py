"""What a fit needs in memory, known before it begins, and where the projected embeddings are kept."""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from softpatch.config import Settings, parse_bytes
from softpatch.errors import InputError

_BASE = 900_000_000  # the program, the network and a batch of images
_GROUP = 600_000_000  # distances of a group of positions
_PER_PATCH = 130  # bytes of the coreset and of the noise scores


def embedding_store(
    count: int,
    positions: int,
    dim: int,
    settings: Settings,
    budget: str,
    folder: Path,
    device: torch.device,
) -> Tensor:
    """Room for projected embeddings (count, positions, d) float16 of images whose full embeddings are of size `dim`.

    It is on the `device` where that is a GPU with room for what follows; else in memory where that fits in the
    `budget` of the whole process, such as "4GB"; else a file in `folder`.
    Raises `InputError` where even then a fit would not fit, or the disk is too full.
    """
    shape = (count, positions, min(dim, settings.projected_dim))
    patches, size = count * positions, 2 * count * positions * shape[2]
    bank = min(settings.max_bank_size, settings.coreset_ratio * patches)
    if device.type == "cuda" and 4 * size + _PER_PATCH * patches + _GROUP < torch.cuda.mem_get_info(device)[0]:
        return torch.empty(shape, dtype=torch.float16, device=device)  # the coreset needs them as float32, too
    rest = _BASE + max(_GROUP, _PER_PATCH * patches) + round(2 * dim * (2 * bank + 100 * positions))
    allowed = parse_bytes(budget)
    if rest + size <= allowed:
        return torch.empty(shape, dtype=torch.float16)
    if rest > allowed:
        raise InputError(
            f"learning from {count:,} images needs about {rest / 1e9:.1f} GB of memory, more than --memory-budget "
            f"{budget}; allow more, or give fewer images or a smaller --crop"
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"learning from {count:,} images within --memory-budget {budget} needs {size / 1e9:.1f} GB of disk in "
            f"{folder}, where {free / 1e9:.1f} GB are free; allow more memory, or name another folder by TMPDIR"
        )
    path = folder / "embeddings"
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return torch.from_file(str(path), shared=True, size=size // 2, dtype=torch.float16).view(shape)
