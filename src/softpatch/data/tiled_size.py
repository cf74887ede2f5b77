"""How large tiled images are to be: as they are, or smaller where the smallest defect that matters allows it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from softpatch.config import AUTO, AUTO_TILE, SEEN_SIDE, SMALLEST_TILE, Settings
from softpatch.data.framing import Size
from softpatch.data.images import ImageRef
from softpatch.data.pixels import UNSCALED
from softpatch.errors import ImageError, InputError

_SAMPLE = 9  # images
_STEP = 32  # pixels that a chosen tile is a multiple of


def find_image_size(refs: Sequence[ImageRef]) -> Size:
    """The (width, height) that most of a sample of images have. Raises `InputError` where none can be read."""
    sizes: Counter[Size] = Counter()
    for number in torch.linspace(0, len(refs) - 1, min(len(refs), _SAMPLE)).long().tolist():
        try:
            height, width = refs[number].load(UNSCALED).shape[1:]
        except ImageError:
            continue
        sizes[width, height] += 1
    if not sizes:
        raise InputError("none of the images that were tried can be read, so their size is not known")
    return sizes.most_common(1)[0][0]


def with_tiles(settings: Settings, original: Size) -> Settings:
    """Settings of tiled images of the `original` size, with the size that they are brought to, and how large tiles are.

    Raises `InputError` where images are smaller than a tile.
    """
    scale = 1.0 if settings.smallest_defect is None else min(1.0, SEEN_SIDE / settings.smallest_defect)
    width, height = (round(scale * side) for side in original)
    shortest, tile = min(width, height), settings.tile
    if tile == AUTO:
        tile = min(AUTO_TILE, shortest // _STEP * _STEP)
    made = "" if scale == 1 else f", made smaller from {original[0]} x {original[1]} by `smallest_defect`"
    if shortest < SMALLEST_TILE:
        raise InputError(
            f"images of {width} x {height} pixels{made} are too small for tiles; "
            + ("leave out `tile`" if scale == 1 else "name a smaller defect")
        )
    if not isinstance(tile, int) or tile > shortest:
        raise InputError(
            f"`tile` {tile} is larger than images of {width} x {height} pixels{made}; it is at most "
            f"{shortest // _STEP * _STEP}, or auto"
        )
    return replace(settings, tile=tile, size=(width, height))


def in_whole_patches(settings: Settings, unit: int) -> Settings:
    """The same with sides that are multiples of a patch's `unit` in pixels, as near as can be.

    Raises `InputError` where the tile is none.
    """
    tile, size = settings.network_side, settings.size or (0, 0)
    if tile % unit:
        raise InputError(
            f"`tile` {tile} is no multiple of {unit} pixels, a patch of backbone {settings.backbone!r}; "
            f"take {tile // unit * unit}"
        )
    width, height = (max(tile, (side + unit // 2) // unit * unit) for side in size)
    return replace(settings, size=(width, height))
