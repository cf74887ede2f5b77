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

    `patches` (M, D) float16 are embeddings, `weights` (M,) float32 their soft weights (1 without soft weights), and
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


@dataclass(frozen=True, eq=False)
class ChosenPatches:
    """Which training patches a bank will hold: `indices` (M,) int64 into all N·P, their soft `weights` and `owners`."""

    indices: Tensor
    weights: Tensor
    owners: Tensor

    def bank(self, patches: Tensor) -> MemoryBank:
        """The bank of the chosen patches, given their embeddings (M, D) float16 in this order."""
        return MemoryBank(patches, self.weights, self.owners)


def choose_patches(
    projected: Tensor,
    kept: Tensor,
    weights: Tensor,
    *,
    coreset_ratio: float,
    max_bank_size: int,
    progress: Progress = silent,
) -> ChosenPatches:
    """Draw the coreset from the kept patches only.

    `projected` (N, P, d) float16 describe all patches, `kept` holds indices into the N·P of them, `weights` is (N, P).
    M = ⌊coreset_ratio · N·P⌋ patches are chosen, at least 1, at most `max_bank_size` and all distinct ones of those
    kept.
    """
    count, positions, dim = projected.shape
    size = min(max_bank_size, max(1, int(coreset_ratio * count * positions + 1e-9)))
    chosen = greedy_coreset(projected.view(count * positions, dim), kept, size, progress=progress)
    return ChosenPatches(chosen, weights.flatten()[chosen], chosen // positions)
