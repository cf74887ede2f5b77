"""The network of an exported graph, up to patch embeddings: of whole images, or of their tiles."""

from itertools import product

import torch
from torch import Tensor, nn

from softpatch.detector import Detector
from softpatch.features.backbone import Backbone
from softpatch.features.embedding import joined_layers
from softpatch.features.tiles import CELLS, tile_starts, tile_weights


class Embedding(nn.Module):
    """Framed images (N, 3, h, w) in [0, 1] become patch embeddings (N, P, D): float32, rounded to float16 before.

    See `softpatch.features.embedding.patch_embeddings`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, embedding_dim: int) -> None:
        super().__init__()
        self.network, self.embedding_dim = backbone.network, embedding_dim
        self.register_buffer("mean", backbone.mean)
        self.register_buffer("std", backbone.std)

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.network((frames - self.mean) / self.std)
        return joined_layers(maps, self.embedding_dim).half().float()


class TiledEmbedding(nn.Module):
    """What `Embedding` gives, of the tiles of framed images of one size, whose places are always the same.

    All tiles go through the network together. What they say of a cell is averaged, and cells are joined into patches,
    by one matrix for the rows and one for the columns; see `softpatch.features.tiles.image_embeddings`.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, of_tile: Embedding, size: tuple[int, int], tile: int, overlap: int, stride: int) -> None:
        """`size` is that of framed images (width, height); all is in pixels."""
        super().__init__()
        self.of_tile, self.tile, self.cells = of_tile, tile, tile // stride
        width, height = size
        self.starts = tuple(tile_starts(side, tile, overlap, stride) for side in (height, width))
        for name, side, starts in zip(("rows", "columns"), (height, width), self.starts, strict=True):
            self.register_buffer(
                name, joining(side // stride, self.cells, overlap // stride, [s // stride for s in starts])
            )

    def forward(self, frames: Tensor) -> Tensor:
        rows, columns = self.starts
        corners = product(rows, columns)
        tiles = torch.cat([frames[:, :, y : y + self.tile, x : x + self.tile] for y, x in corners])
        found = self.of_tile(tiles)  # no length of a tensor is asked for: it would become that of the example
        cells = found.view(len(rows), len(columns), -1, self.cells, self.cells, found.shape[2])
        lines = cells.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)  # (N, cells, cells, D), some twice
        patches = self.rows @ (self.columns @ lines).flatten(2)
        embeddings: Tensor = patches.view(-1, self.rows.shape[0] * self.columns.shape[0], found.shape[2])
        return embeddings.half().float()


def embedding_of(detector: Detector) -> nn.Module:
    """Framed images (N, 3, h, w) become the patch embeddings (N, P, D) that a detector has of them."""
    settings, backbone = detector.settings, detector.backbone
    whole = Embedding(backbone, settings.embedding_dim)
    if settings.tile is None or settings.size is None:
        return whole
    width, height = settings.size
    return TiledEmbedding(whole, (width, height), settings.network_side, settings.tile_overlap, backbone.stride)


def joining(side: int, tile: int, overlap: int, starts: list[int]) -> Tensor:
    """How the cells along all tiles, one after the other, make up the patches along a side: (patches, cells of tiles).

    All arguments are in cells, and as `tile_weights` takes them.
    """
    weights = tile_weights(side, tile, overlap, starts)
    matrix = torch.zeros(side // CELLS, len(starts) * tile)
    for number, start in enumerate(starts):
        for cell in range(tile):
            matrix[(start + cell) // CELLS, number * tile + cell] = weights[number, start + cell] / CELLS
    return matrix
