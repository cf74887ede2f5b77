"""Noise discriminators: how little each training patch looks like those of the other images at its grid position.

Section 3.2 of the paper. A discriminator is a function from the patches of a group of positions, `Patches` of N images,
to their noise scores (B, N), higher meaning more anomalous. To add one, write the function and enter it in
`DISCRIMINATORS`; the name is then valid everywhere.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.errors import InputError
from softpatch.threads import single_threaded_workers

_CACHED_BYTES = 2**22  # stay in a CPU's cache
_GPU_BYTES = 2**28  # keep a GPU busy
_BLOCK = 64  # rows that a Cholesky factorisation takes at a time
_EXACT_IN_SINGLE = 2500  # trace(Σ)/ε: relative errors stay below 3e-5


@dataclass(frozen=True)
class NoiseSettings:
    """What the discriminators can be told."""

    lof_neighbors: int = 6
    gaussian_epsilon: float = 0.01


class Patches:
    """The patches at a group of positions.

    `centred` are float32 values (B, N, D) of the same B positions on N images, as seen from their mean at the position:
    smaller norms, less cancellation. `norms` (B, N) are their squares. Distances are computed so many at a time that
    they take `block_bytes` at most.
    """

    def __init__(self, values: Tensor, told: NoiseSettings, block_bytes: int = _CACHED_BYTES) -> None:
        self.centred = values - values.mean(dim=1, keepdim=True)
        self.norms = self.centred.square().sum(dim=2)
        self.told = told
        self._block_bytes = block_bytes
        self._neighbours: tuple[Tensor, Tensor] | None = None

    @property
    def neighbours(self) -> tuple[Tensor, Tensor]:
        """The K = `lof_neighbors` nearest of the other N - 1 patches at the position, or all where there are fewer.

        Distances float32 (B, N, K) and indices int64 (B, N, K) into the N, in no order of the K. Found once for all
        discriminators.
        """
        if self._neighbours is None:  # functools.cached_property would let one thread in at a time before Python 3.12
            self._neighbours = self._find_neighbours()
        return self._neighbours

    def _find_neighbours(self) -> tuple[Tensor, Tensor]:
        centred, norms = self.centred, self.norms
        positions, count, _ = centred.shape
        neighbors = min(self.told.lof_neighbors, count - 1)
        found = []
        rows = max(1, self._block_bytes // (4 * positions * count))
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            squared = torch.baddbmm(norms[:, part, None] + norms[:, None, :], centred[:, part], centred.mT, alpha=-2)
            own = torch.arange(part.start, part.stop, device=squared.device)
            squared[:, own - start, own] = torch.inf
            found.append(_least(squared, neighbors))
        squared, indices = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return squared.clamp_min(0).sqrt(), indices


def nearest(patches: Patches) -> Tensor:
    """Distance to the nearest patch of another image, equation (1): (B, N), >= 0.

    Blind to defects that occur twice at the same place: they are each other's neighbour.
    """
    distances, _ = patches.neighbours
    return distances.amin(dim=2)


def gaussian(patches: Patches) -> Tensor:
    """Mahalanobis distance to the Gaussian of all N patches, equations (2) and (3): (B, N), >= 0.

    The covariance is Σ + εI. It is never inverted: with X the centred patches and λ = (N-1)ε, the squared distance
    is (N-1)·[K(K+λI)⁻¹]ᵢᵢ with K = XXᵀ, one N x N Cholesky factorisation; where N > D it is the row of X against
    (XᵀX+λI)⁻¹ instead, D x D. Computed in double precision, there in single where tr Σ is at most 2500 ε, to a
    relative 3e-5. Raises `InputError` for patches so large that even that does not tell K + λI from a singular matrix.
    """
    centred = patches.centred
    _, count, dim = centred.shape
    ridge = (count - 1) * patches.told.gaussian_epsilon
    if count <= dim:
        centred = centred.double()
        # [K(K+λI)⁻¹]ᵢᵢ = 1 - λ[(K+λI)⁻¹]ᵢᵢ
        inverse = torch.cholesky_inverse(_cholesky(centred @ centred.mT, ridge, patches), upper=True)
        leverage_root = (1 - ridge * inverse.diagonal(dim1=1, dim2=2)).clamp_min(0).sqrt()
    else:
        if patches.norms.sum(dim=1).amax() > _EXACT_IN_SINGLE * ridge:
            centred = centred.double()
        factors = _cholesky(centred.mT @ centred, ridge, patches)
        whitened = torch.linalg.solve_triangular(factors.mT, centred.mT, upper=False)
        leverage_root = torch.linalg.vector_norm(whitened, dim=1)
    return (math.sqrt(count - 1) * leverage_root).float()


def _cholesky(matrices: Tensor, ridge: float, patches: Patches) -> Tensor:
    """Factorise matrices (B, n, n) of the patches, `ridge` added to their diagonals: upper factors, in their place.

    What lies below the diagonal is left as it happens to be. A block of rows at a time, so that most of the work is
    matrix products.
    """
    diagonal = matrices.diagonal(dim1=1, dim2=2).add_(ridge)
    failed = diagonal.new_zeros(len(matrices), dtype=torch.bool)
    for start in range(0, matrices.shape[1], _BLOCK):
        block, rest = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        factors, info = torch.linalg.cholesky_ex(matrices[:, block, block], upper=True)  # upper: as rows lie in memory
        failed |= info > 0
        right = torch.linalg.solve_triangular(factors.mT, matrices[:, block, rest], upper=False)
        matrices[:, block, block], matrices[:, block, rest] = factors, right
        matrices[:, rest, rest].baddbmm_(right.mT, right, alpha=-1)
    if failed.any() or not diagonal.isfinite().all():
        raise InputError(
            f"the Gaussian of patches with values up to {float(patches.centred.abs().max()):.3g} cannot be computed; "
            "the backbone's weights may be damaged, or need a larger gaussian_epsilon"
        )
    return matrices


def local_outlier_factor(patches: Patches) -> Tensor:
    """How much sparser the patch's surroundings are than its neighbours', equations (4) to (6): (B, N).

    About 1 inside a cluster of any density, larger outside (Breunig et al. 2000). As in scikit-learn, exactly K
    neighbours are taken where distances tie, and 1e-10 is added to the mean reachability distance, so identical
    patches give 1 rather than a division by zero.
    """
    distances, indices = patches.neighbours
    k_distance = distances.amax(dim=2)  # (B, N)
    reachability = torch.maximum(distances, _take(k_distance, indices))
    density = 1 / (reachability.mean(dim=2) + 1e-10)
    return _take(density, indices).mean(dim=2) / density


DISCRIMINATORS: dict[str, Callable[[Patches], Tensor]] = {
    "nearest": nearest,
    "gaussian": gaussian,
    "lof": local_outlier_factor,
}


def check_discriminators(names: Sequence[str]) -> None:
    """Raise `InputError` for a name that is not in `DISCRIMINATORS`."""
    for name in names:
        if name not in DISCRIMINATORS:
            raise InputError(f"discriminator {name!r} is unknown; choose from {', '.join(DISCRIMINATORS)}")


def noise_scores(
    embeddings: Tensor,
    names: Sequence[str],
    settings: NoiseSettings,
    *,
    group_bytes: int | None = None,
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Score all patches, some positions at a time: yields the slice of positions and, by name, their scores (N, B).

    `embeddings` are (N, P, D). As many positions are taken at once as keep one group's N x N distances within
    `group_bytes`, by default what suits the device. Raises `InputError` for an unknown name or fewer than 2 images.
    """
    check_discriminators(names)
    count, positions, _ = embeddings.shape
    if count < 2:
        raise InputError(f"noise scores compare images with each other and need at least 2, not {count}")
    if group_bytes is None:
        group_bytes = _CACHED_BYTES if embeddings.device.type == "cpu" else _GPU_BYTES
    step = max(1, min(positions, group_bytes // (4 * count * count)))
    groups = [slice(start, min(start + step, positions)) for start in range(0, positions, step)]

    def score(group: slice) -> dict[str, Tensor]:
        patches = Patches(embeddings[:, group].transpose(0, 1).float().contiguous(), settings, group_bytes)
        return {name: DISCRIMINATORS[name](patches).T for name in names}

    each = single_threaded_workers().map if embeddings.device.type == "cpu" else map
    yield from zip(groups, each(score, groups), strict=True)


def _least(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` least of each row of values (B, R, N), in no order: values and indices (B, R, count)."""
    if values.device.type == "cpu":
        # To partition values is several times faster than topk, but does not tell where they were.
        rows = values.numpy()
        chosen = np.flatnonzero(rows <= np.partition(rows, count - 1, axis=2)[:, :, count - 1 : count])
        if len(chosen) == rows.size // rows.shape[2] * count:  # else some are equal, and topk decides
            indices = torch.from_numpy(chosen)
            least = values.view(-1)[indices].view(*values.shape[:2], count)
            return least, indices.view(least.shape) % values.shape[2]
    return values.topk(count, dim=2, largest=False)


def _take(values: Tensor, indices: Tensor) -> Tensor:
    """Look up values (B, N) at indices (B, N, K): (B, N, K)."""
    groups, count, neighbors = indices.shape
    return values.gather(1, indices.reshape(groups, count * neighbors)).view(indices.shape)
