"""Patch embeddings of images of any size: through the network at once, or tile by tile at full resolution.

Tiles overlap, and where they do, what neighbours say of a cell is averaged, each the less the nearer its border is. So
no seam is seen, and memory is that of a few tiles, however large an image is.
"""

from itertools import product
from math import ceil, prod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from softpatch.config import Settings
from softpatch.features.backbone import Backbone
from softpatch.features.embedding import patch_embeddings

CELLS = 2
"""Cells of the network's grid to a side of a patch of tiled images: a quarter of the patches to keep and to search."""
TILES_AT_ONCE = 16
"""That go through the network together."""


def image_embeddings(images: Tensor, backbone: Backbone, settings: Settings) -> Tensor:
    """Patch embeddings (B, P, D) float16 of framed images (B, 3, h, w), in tiles where `settings` ask for them."""
    if settings.tile is None:
        return patch_embeddings(backbone.feature_maps(images), settings.embedding_dim)
    return _in_tiles(images, backbone, settings)


def embedding_shape(backbone: Backbone, settings: Settings) -> tuple[tuple[int, int], int]:
    """The patch grid (H, W) and the embedding size D that a backbone gives: found by showing it a grey square."""
    side = settings.network_side
    maps = backbone.feature_maps(torch.full((1, 3, side, side), 0.5))
    rows, columns = max((layer.shape[2:] for layer in maps), key=prod)
    if settings.size is not None:
        columns, rows = (side // size_unit(backbone) for side in settings.size)
    return (rows, columns), patch_embeddings(maps, settings.embedding_dim).shape[2]


def size_unit(backbone: Backbone) -> int:
    """Pixels to a side of a patch of tiled images, of which both sides of an image have to be a multiple."""
    return CELLS * backbone.stride


def tile_starts(side: int, tile: int, overlap: int, stride: int) -> list[int]:
    """Where the tiles along a side begin, in pixels, evenly: multiples of `stride`, as `side` and `tile` are.

    There are as few as share `overlap` pixels with their neighbours, or less than a stride fewer.

    >>> tile_starts(1200, 512, 64, 8)
    [0, 344, 688]
    """
    gaps = ceil((side - tile) / (tile - overlap))
    return [round(i * (side - tile) / (gaps * stride)) * stride for i in range(gaps + 1)] if gaps else [0]


def tile_weights(side: int, tile: int, overlap: int, starts: list[int]) -> Tensor:
    """How much each tile says of the cells along a side, (tiles, cells of the side), all in cells.

    They rise from the border of a tile over its `overlap`, as a cube, and sum to 1 for each cell. At a border a network
    sees what it pads an image with; a straight rise would leave five times as much of that.
    """
    place = torch.arange(tile) + 0.5
    rise = torch.minimum(place, tile - place).clamp_max(max(1, overlap)) ** 3
    weights = torch.zeros(len(starts), side)
    for row, start in zip(weights, starts, strict=True):
        row[start : start + tile] = rise
    return weights / weights.sum(dim=0)


def _in_tiles(images: Tensor, backbone: Backbone, settings: Settings) -> Tensor:
    """Patch embeddings (B, P, D) of images (B, 3, H, W), `TILES_AT_ONCE` at a time."""
    tile, overlap, stride = settings.network_side, settings.tile_overlap, backbone.stride
    cells = tile // stride
    height, width = images.shape[2:]
    rows, columns = (tile_starts(side, tile, overlap, stride) for side in (height, width))
    of_row, of_column = (
        tile_weights(side // stride, cells, overlap // stride, [start // stride for start in starts])
        for side, starts in ((height, rows), (width, columns))
    )
    places = list(product(range(len(images)), range(len(rows)), range(len(columns))))
    whole = torch.zeros(0)
    for first in range(0, len(places), TILES_AT_ONCE):
        some = places[first : first + TILES_AT_ONCE]
        tiles = [images[n, :, rows[i] : rows[i] + tile, columns[k] : columns[k] + tile] for n, i, k in some]
        found = patch_embeddings(backbone.feature_maps(torch.stack(tiles)), settings.embedding_dim)
        if not len(whole):
            shape = (len(images), height // stride, width // stride, found.shape[2])
            whole = torch.zeros(shape, device=found.device)
        for (n, i, k), embeddings in zip(some, found, strict=True):
            y, x = (slice(start // stride, start // stride + cells) for start in (rows[i], columns[k]))
            share = (of_row[i, y, None] * of_column[k, x]).to(found.device)
            whole[n, y, x] += embeddings.view(cells, cells, -1) * share[:, :, None]
    return F.avg_pool2d(whole.permute(0, 3, 1, 2), CELLS).flatten(2).mT.half()
