"""New patches for a memory bank: what an older bank lacks of further images, without learning anew.

A trusted image adds the patches that leave the fewest unlike all others. A patch of an image that is not trusted is
known to as many images as hold something like it, the older ones by their patches in the bank.
"""

import torch
from torch import Tensor

from softpatch.memory.agreement import KNOWN_BY, REFERENCES, image_distances, support_radii
from softpatch.memory.bank import ChosenPatches, MemoryBank, bank_size
from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.neighbours import SearchIndex, nearest_neighbours
from softpatch.progress import Progress, silent

_FEW = 256  # patches whose distances to the whole bank are held at once


def choose_additions(
    bank: MemoryBank,
    described: Tensor,
    projected: Tensor,
    trusted: Tensor,
    places: Tensor,
    *,
    with_untrusted: bool,
    coreset_ratio: float,
    max_bank_size: int,
    progress: Progress = silent,
) -> ChosenPatches:
    """Choose what a bank (M, D) is to hold of new images: indices into their patches, and owners among them from 0.

    `described` (M, d) float16 are the bank's patches as `projected` (n·G, P, d) describes those of G copies of each of
    n images, whose positions show the `places` (G, P) of the image itself, which comes first. Of the patches of
    `trusted` images, bool (n,), so many as `coreset_ratio` says are drawn that lie farthest from the bank and from each
    other, and of the other images' as many again `with_untrusted`. Each has the soft weight of the bank's nearest
    patch, and radius 0. The bank has at most `max_bank_size` patches then.
    """
    copies, positions = places.shape
    patches, of_image = projected.view(-1, projected.shape[2]), copies * positions
    covered, nearest = nearest_neighbours(patches, SearchIndex(described))
    room = max_bank_size - len(described)
    picked = []
    for group in (trusted, ~trusted) if with_untrusted else (trusted,):
        numbers = group.nonzero()[:, 0]
        wanted = bank_size(len(numbers) * positions, coreset_ratio, room) if len(numbers) else 0
        kept = (numbers[:, None] * of_image + torch.arange(of_image, device=numbers.device)).flatten()
        picked.append(greedy_coreset(patches, kept, wanted, covered=covered[kept], progress=progress))
        room -= len(picked[-1])
    chosen = torch.cat(picked)
    return ChosenPatches(chosen, bank.weights[nearest[chosen]], chosen // of_image, torch.zeros_like(covered[chosen]))


def additions_radii(
    chosen: ChosenPatches, bank: MemoryBank, described: Tensor, projected: Tensor, trusted: Tensor, places: Tensor
) -> Tensor:
    """Support radii (m,) of the patches that `choose_additions` chose: 0 for those of trusted images.

    The others' are as those of a fit (`support_radii`), whose images are those that gave the bank patches and the new
    ones, but for the owner of each patch.
    """
    copies = len(places)
    radii = torch.zeros_like(chosen.radii)
    asked = (~trusted[chosen.owners]).nonzero()[:, 0]
    if not len(asked):
        return radii
    owners, place = chosen.owners[asked], places.flatten()[chosen.indices[asked] % places.numel()]
    shown = projected[owners * copies, place]  # on the image itself
    references = torch.linspace(0, len(trusted) - 1, min(len(trusted), REFERENCES), device=trusted.device).long()
    older = _distances_to_owners(shown, bank, described)
    newer = image_distances(shown, projected[::copies], references).float()
    newer[owners[:, None] == references] = torch.inf
    every = torch.cat([older, newer], dim=1)
    several = every.kthvalue(min(KNOWN_BY - 1, every.shape[1]), dim=1).values
    nearest_trusted = torch.cat([older, newer[:, trusted[references]]], dim=1).amin(dim=1)
    nothing = torch.zeros_like(trusted[owners])
    radii[asked] = support_radii(nearest_trusted, several, nothing, nothing)
    return radii


def _distances_to_owners(shown: Tensor, bank: MemoryBank, described: Tensor) -> Tensor:
    """How far patches (Q, d) are from each image that gave the bank a patch: (Q, N) float32.

    A patch of the bank is as far as its support radius at least, so an image that is not trusted knows no more than
    others do of what it shows.
    """
    _, numbers = torch.unique(bank.owners, return_inverse=True)
    points = described.float()
    found = []
    for part in torch.split(shown, _FEW):
        distances = torch.maximum(torch.cdist(part.float(), points), bank.radii)
        nearest = torch.full((len(part), int(numbers.max()) + 1), torch.inf, device=shown.device)
        found.append(nearest.scatter_reduce(1, numbers.expand(len(part), -1), distances, "amin"))
    return torch.cat(found)
