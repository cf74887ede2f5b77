"""The memory bank: chosen training patches, how far each is trusted, and which image it came from."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.neighbours import SearchIndex, nearest_neighbours, search_index
from softpatch.progress import Progress, silent

_LIKELIEST = 8  # patches of an image that are searched for first, to know what the others have to exceed


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
        count, positions, _ = embeddings.shape
        distances, weights = self._search(embeddings.flatten(0, 1), _of_each(owners, positions))
        return (weights * distances).view(count, positions)

    def highest(self, embeddings: Tensor, *, owners: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The highest patch score of each image (N,) and the position it is at (N,): the largest that `score` gives.

        On a CPU only patches that may have it are searched for: no score is above the largest weight times the distance
        to any bank patch.
        """
        if embeddings.device.type != "cpu":
            scores = self.score(embeddings, owners=owners)
            return scores.amax(dim=1), scores.argmax(dim=1)
        count, positions, _ = embeddings.shape
        patches, givers = embeddings.flatten(0, 1), _of_each(owners, positions)
        distances, _ = self._search(patches, givers, exact=False)
        bounds = (self.weights.max() * distances).view(count, positions)
        scores = torch.zeros(count, positions)

        def search(asked: Tensor) -> None:
            each = asked.flatten()
            distances, weights = self._search(patches[each], None if givers is None else givers[each])
            scores[asked] = weights * distances

        likely = bounds.topk(min(_LIKELIEST, positions), dim=1).indices
        begun = torch.zeros_like(bounds, dtype=torch.bool).scatter(1, likely, True)
        search(begun)
        search((bounds >= scores.amax(dim=1, keepdim=True)) & ~begun)
        return scores.amax(dim=1), scores.argmax(dim=1)

    def _search(self, patches: Tensor, givers: Tensor | None, *, exact: bool = True) -> tuple[Tensor, Tensor]:
        """Distances of patches (Q, D) to the nearest bank patches, and the weights of these: (Q,) and (Q,)."""
        distances, indices = nearest_neighbours(
            patches, self.index, query_owners=givers, bank_owners=self.owners, exact=exact
        )
        return distances, self.weights[indices]

    def to(self, device: torch.device) -> "MemoryBank":
        """The same bank on another device."""
        return MemoryBank(self.patches.to(device), self.weights.to(device), self.owners.to(device))


def _of_each(owners: Tensor | None, positions: int) -> Tensor | None:
    """The owner of each patch, given those of whole images."""
    return None if owners is None else owners.repeat_interleave(positions)


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
