"""How large tiled images are to be: as they are, or smaller where the smallest defect that matters allows it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod

from softpatch.config import AUTO_TILES, SEEN_SIDE, SMALLEST_TILE, Settings
from softpatch.data.framing import Size
from softpatch.data.images import ImageRef, readable, some_of
from softpatch.data.pixels import UNSCALED
from softpatch.errors import InputError

_SAMPLE = 9  # images
_STEP = 16  # pixels that a chosen tile is a multiple of: a patch of the usual networks


def find_image_size(refs: Sequence[ImageRef]) -> Size:
    """The (width, height) that most of a sample of images have. Raises `InputError` where none can be read."""
    unscaled = (replace(ref, value_range=UNSCALED) for ref in some_of(refs, _SAMPLE))
    sizes = Counter((image.shape[2], image.shape[1]) for image in readable(unscaled))
    if not sizes:
        raise InputError("none of the images that were tried can be read, so their size is not known")
    return sizes.most_common(1)[0][0]


def with_tiles(settings: Settings, original: Size) -> Settings:
    """Settings of tiled images of the `original` size, with the size that they are brought to, and how large tiles are.

    Raises `InputError` where images are smaller than a tile.
    """
    scale = 1.0 if settings.smallest_defect is None else min(1.0, SEEN_SIDE / settings.smallest_defect)
    width, height = size = (_whole(scale * original[0], _STEP), _whole(scale * original[1], _STEP))
    made = "" if scale == 1 else f", made smaller from {original[0]} x {original[1]} by `smallest_defect`"
    if min(size) < SMALLEST_TILE:
        raise InputError(
            f"images of {width} x {height} pixels{made} are too small for tiles; "
            + ("leave out `tile`" if scale == 1 else "name a smaller defect")
        )
    tile, overlap = settings.tile, settings.tile_overlap
    if not isinstance(tile, int):
        tile = _best_tile(size, overlap)
        overlap = min(overlap, tile // 2)
    if tile > min(size):
        looked_at = f"images of {width} x {height} pixels{made}"
        raise InputError(f"`tile` {tile} is larger than {looked_at}; it is at most {min(size)}, or auto")
    return replace(settings, tile=tile, tile_overlap=overlap, size=size)


def _best_tile(size: Size, overlap: int) -> int:
    """The tile, of those of a usual side that are no larger than the image, that shows the fewest pixels twice."""
    most = min(AUTO_TILES[1], *size)
    least = min(AUTO_TILES[0], most)

    def pixels(tile: int) -> int:
        return prod(1 + ceil((side - tile) / max(1, tile - overlap)) for side in size) * tile**2

    return min(range(most, least - 1, -_STEP), key=pixels)


def _whole(side: float, unit: int) -> int:
    """The multiple of a unit that is nearest, at least one."""
    return max(1, int(side / unit + 0.5)) * unit


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
    width, height = (max(tile, _whole(side, unit)) for side in size)
    return replace(settings, size=(width, height))
