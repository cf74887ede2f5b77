"""The memory bank: chosen training patches, how far each is trusted, and which image it came from."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.neighbours import SearchIndex, nearest_neighbours, search_index
from softpatch.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """What nominal patches look like.

    `patches` (M, D) float32 are embeddings, `weights` (M,) float32 their soft weights (1 without soft weights), and
    `owners` (M,) int64 the numbers of the training images they were taken from.
    """

    patches: Tensor
    weights: Tensor
    owners: Tensor

    @cached_property
    def index(self) -> SearchIndex:
        """The patches, prepared to be searched."""
        return search_index(self.patches)

    def score(self, embeddings: Tensor, *, owners: Tensor | None = None) -> Tensor:
        """Patch scores, equation (10): weight of the nearest bank patch times the distance to it.

        `embeddings` (N, P, D) give float32 scores (N, P), >= 0. With `owners` (N,) int64, the training number of
        each image, an image is scored against the bank without the patches it gave itself.
        """
        count, positions, dim = embeddings.shape
        distances, indices = nearest_neighbours(
            embeddings.reshape(count * positions, dim),
            self.index,
            query_owners=None if owners is None else owners.repeat_interleave(positions),
            bank_owners=self.owners,
        )
        return (self.weights[indices] * distances).view(count, positions)

    def to(self, device: torch.device) -> "MemoryBank":
        """The same bank on another device."""
        return MemoryBank(self.patches.to(device), self.weights.to(device), self.owners.to(device))


def build_bank(
    embeddings: Tensor,
    projected: Tensor,
    kept: Tensor,
    weights: Tensor,
    *,
    coreset_ratio: float,
    progress: Progress = silent,
) -> MemoryBank:
    """Draw the coreset from the kept patches only, and take their embeddings and soft weights into a bank.

    `embeddings` (N, P, D) and `projected` (N, P, d) describe all patches, `kept` holds indices into the N·P of them,
    `weights` is (N, P). The bank has M = ⌊coreset_ratio · N·P⌋ patches, at least 1 and at most all
    distinct ones of those kept.
    """
    count, positions, dim = embeddings.shape
    size = max(1, int(coreset_ratio * count * positions + 1e-9))
    chosen = kept[greedy_coreset(projected.reshape(count * positions, -1)[kept], size, progress=progress)]
    return MemoryBank(
        patches=embeddings.reshape(count * positions, dim)[chosen],
        weights=weights.flatten()[chosen],
        owners=chosen // positions,
    )
