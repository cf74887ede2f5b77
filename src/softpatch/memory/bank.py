"""The memory bank: chosen training patches, how far each is trusted, and which image it came from."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from softpatch.memory.agreement import Audit, support, support_radii
from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.neighbours import SearchIndex, nearest_neighbours
from softpatch.progress import Progress, silent

_LIKELIEST = 8  # patches of an image that are scored first, to know what the others have to exceed
_SURE = 0.7  # of a coreset: patches that need no support
_SURELY_LESS = 1 - 1e-5  # in spite of rounding


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """What nominal patches look like.

    `patches` (M, D) float16 are embeddings, `weights` (M,) float32 their soft weights (1 without soft weights), and
    `owners` (M,) int64 the numbers of the training images they were taken from. A query nearer to a patch than that
    patch's support radius, of `radii` (M,) float32, counts as being so far; 0 leaves distances as they are.
    """

    patches: Tensor
    weights: Tensor
    owners: Tensor
    radii: Tensor

    @cached_property
    def index(self) -> SearchIndex:
        """The patches, prepared to be searched."""
        return SearchIndex(self.patches)

    def score(self, embeddings: Tensor, *, owners: Tensor | None = None, enough: Tensor | None = None) -> Tensor:
        """Patch scores, equation (10): weight of the nearest bank patch times the distance to it, its radius at least.

        `embeddings` (N, P, D) give float32 scores (N, P), >= 0. With `owners` (N,) int64, the training number of
        each image, an image is scored against the bank without the patches it gave itself. In place of a score
        below what is `enough` for its image (N,) another below it may be given, which takes less time.
        """
        count, positions, _ = embeddings.shape
        distances, indices = nearest_neighbours(
            embeddings.flatten(0, 1),
            self.index,
            query_owners=None if owners is None else owners.repeat_interleave(positions),
            bank_owners=self.owners,
            radii=self.radii,
            enough=None if enough is None else (enough / self.weights.max()).repeat_interleave(positions),
        )
        return (self.weights[indices] * distances).view(count, positions)

    def highest(self, embeddings: Tensor, likeliest: Tensor, *, owners: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The highest patch score of each image (N,) and the position it is at (N,): the largest that `score` gives.

        Other scores (N, P), such as another bank's, tell where it is likeliest to be. Of most patches it then suffices
        to know a bank patch so near that they cannot have a higher score.
        """
        few = likeliest.topk(min(_LIKELIEST, likeliest.shape[1]), dim=1).indices
        some = embeddings.gather(1, few[:, :, None].expand(-1, -1, embeddings.shape[2]))
        known = self.score(some, owners=owners).amax(dim=1)
        highest, positions = self.score(embeddings, owners=owners, enough=known * _SURELY_LESS).max(dim=1)
        return highest, positions

    def with_radii(self, radii: Tensor) -> "MemoryBank":
        """The same patches under other support radii (M,); what they are searched by is shared."""
        other = replace(self, radii=radii)
        other.__dict__["index"] = self.index  # as cached_property keeps it
        return other

    def joined(self, other: "MemoryBank") -> "MemoryBank":
        """The patches of both, whose owners are numbers of the same images."""
        pairs = zip(self._values, other._values, strict=True)
        return MemoryBank(*(torch.cat(pair) for pair in pairs))

    def of_images(self, numbers: Tensor) -> "MemoryBank":
        """Only the patches of images with the given `numbers` (N,), which rise; their owners are places among these."""
        kept = torch.isin(self.owners, numbers)
        patches, weights, owners, radii = (value[kept] for value in self._values)
        return MemoryBank(patches, weights, torch.searchsorted(numbers, owners), radii)

    def to(self, device: torch.device) -> "MemoryBank":
        """The same bank on another device."""
        return MemoryBank(*(value.to(device) for value in self._values))

    @property
    def _values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.patches, self.weights, self.owners, self.radii


@dataclass(frozen=True, eq=False)
class ChosenPatches:
    """Which training patches a bank will hold: `indices` (M,) int64 into all N·P, and what it will say of each."""

    indices: Tensor
    weights: Tensor
    owners: Tensor
    radii: Tensor

    def bank(self, patches: Tensor) -> MemoryBank:
        """The bank of the chosen patches, given their embeddings (M, D) float16 in this order."""
        return MemoryBank(patches, self.weights, self.owners, self.radii)


def choose_patches(
    projected: Tensor,
    kept: Tensor,
    weights: Tensor,
    *,
    copies: int = 1,
    coreset_ratio: float,
    max_bank_size: int,
    progress: Progress = silent,
) -> ChosenPatches:
    """Draw the coreset from the kept patches only.

    `projected` (N, P, d) float16 describe all patches, `kept` holds indices into the N·P of them, `weights` is (N, P).
    M = ⌊coreset_ratio · N·P / copies⌋ patches are chosen, at least 1, at most `max_bank_size` and all distinct ones of
    those kept. Their owners are numbers of images, of which every `copies` of the N show the same.
    """
    count, positions, dim = projected.shape
    size = bank_size(count * positions // copies, coreset_ratio, max_bank_size)
    chosen = greedy_coreset(projected.view(count * positions, dim), kept, size, progress=progress)
    weights = weights.flatten()[chosen]
    return ChosenPatches(chosen, weights, chosen // (positions * copies), torch.zeros_like(weights))


def choose_supported_patches(
    projected: Tensor,
    weights: Tensor,
    audit: Audit,
    doubtful: Tensor,
    for_map: Tensor,
    places: Tensor,
    *,
    coreset_ratio: float,
    max_bank_size: int,
    progress: Progress = silent,
) -> tuple[ChosenPatches, ChosenPatches]:
    """Draw a coreset from all patches: the same for the image score and the anomaly map, with support radii for each.

    `projected` (N·G, P, d) float16 describe the patches of G copies of each of N images, the image itself first, whose
    positions show the `places` (G, P) of it. `weights` (N, P) are the soft weights of the images' patches; `doubtful`
    and `for_map` (N, P), bool, are those that several images have to know, for either. Of M = ⌊coreset_ratio · N·P⌋
    patches 70 % are of trusted images and not doubtful: a greedy coreset is drawn to what is rare, so defects would
    else take most of it.
    """
    copies, (_, positions, dim) = len(places), projected.shape
    patches = projected.view(-1, dim)
    size = bank_size(len(patches) // copies, coreset_ratio, max_bank_size)
    sure = (audit.trusted[:, None] & ~doubtful)[:, places].flatten()
    some = greedy_coreset(patches, sure.nonzero()[:, 0], max(1, int(_SURE * size)), progress=progress)
    others = greedy_coreset(patches, (~sure).nonzero()[:, 0], size - len(some), progress=progress)
    chosen = torch.cat([some, others])
    owners, place = chosen // (positions * copies), places.flatten()[chosen % (positions * copies)]
    trusted, unsure, unsure_for_map = audit.trusted[owners], doubtful[owners, place], for_map[owners, place]
    asked = (~trusted | unsure | unsure_for_map).nonzero()[:, 0]
    shown = projected[owners[asked] * copies, place[asked]]  # on the image itself
    nearest_trusted, several = support(shown, owners[asked], projected[::copies], audit, progress=progress)

    def supported(doubtful: Tensor) -> ChosenPatches:
        radii = torch.zeros(len(chosen), device=projected.device)
        radii[asked] = support_radii(nearest_trusted, several, trusted[asked], doubtful[asked])
        return ChosenPatches(chosen, weights[owners, place], owners, radii)

    return supported(unsure), supported(unsure_for_map)


def bank_size(patches: int, coreset_ratio: float, max_bank_size: int) -> int:
    """How many patches a bank holds of so many, copies not counted."""
    return min(max_bank_size, max(1, int(coreset_ratio * patches + 1e-9)))
