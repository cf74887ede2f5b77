"""Noise discriminators: how little each training patch looks like those of the other images at its grid position.

Section 3.2 of the paper. A discriminator is a function from the patches of a group of positions, `Patches` of N images,
to their noise scores (B, N), higher meaning more anomalous. To add one, write the function and enter it in
`DISCRIMINATORS`; the name is then valid everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
            found.append(_nearest_others(centred @ centred[:, part].mT, norms, part, neighbors))
        shifted, indices = (torch.cat(parts, dim=2).mT for parts in zip(*found, strict=True))
        return (shifted + norms[:, :, None]).clamp_min(0).sqrt(), indices


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
    (XᵀX+λI)⁻¹ instead, D x D. Computed in double precision, there on a CPU in single where tr Σ is at most 2500 ε,
    to a relative 3e-5. NaN for patches so large that even that does not tell K + λI from a singular matrix.
    """
    centred = patches.centred
    _, count, dim = centred.shape
    ridge = (count - 1) * patches.told.gaussian_epsilon
    if count <= dim:
        centred = centred.double()
        each = torch.eye(count, dtype=centred.dtype, device=centred.device).expand(len(centred), count, count)
        # [K(K+λI)⁻¹]ᵢᵢ = 1 - λ[(K+λI)⁻¹]ᵢᵢ
        leverages = 1 - ridge * _inverse_forms(centred @ centred.mT, ridge, each)
    else:
        # a GPU is not asked, since it would have to be waited for
        if centred.device.type != "cpu" or patches.norms.sum(dim=1).amax() > _EXACT_IN_SINGLE * ridge:
            centred = centred.double()
        leverages = _inverse_forms(centred.mT @ centred, ridge, centred)
    return ((count - 1) * leverages.clamp_min(0)).sqrt().float()


def _inverse_forms(matrices: Tensor, ridge: float, rows: Tensor) -> Tensor:
    """xᵀ(A+λI)⁻¹x of matrices A (B, n, n), which are overwritten, and rows x (B, m, n): (B, m), NaN where A+λI fails.

    That is ‖xᵀR⁻¹‖² with Cholesky's RᵀR = A+λI. A block of R's rows at a time, which leaves a smaller matrix and
    shorter rows. Only blocks on the diagonal are inverted, and all else are matrix products: much faster on some
    processors than triangular solvers.
    """
    diagonal = matrices.diagonal(dim1=1, dim2=2).add_(ridge)
    forms = rows.new_zeros(rows.shape[:2])
    failed = ~diagonal.isfinite().all(dim=1)
    while matrices.shape[1]:
        factors, info = torch.linalg.cholesky_ex(matrices[:, :_BLOCK, :_BLOCK], upper=True)  # as rows lie in memory
        failed |= info > 0
        unit = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
        inverses = torch.linalg.solve_triangular(factors, unit.expand_as(factors), upper=True)
        whitened = rows[:, :, :_BLOCK] @ inverses
        forms += torch.linalg.vector_norm(whitened, dim=2).square()
        right = inverses.mT @ matrices[:, :_BLOCK, _BLOCK:]
        matrices = matrices[:, _BLOCK:, _BLOCK:].baddbmm_(right.mT, right, alpha=-1)
        rows = torch.baddbmm(rows[:, :, _BLOCK:], whitened, right, alpha=-1)
    return forms.masked_fill(failed[:, None], torch.nan)


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
    `group_bytes`, by default what suits the device. Raises `InputError` for an unknown name or fewer than 2 images, and
    in the end for scores that are not numbers: to ask group by group would make the host wait for a GPU.
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
    failed = torch.zeros((), dtype=torch.bool, device=embeddings.device)
    for group, scores in zip(groups, each(score, groups), strict=True):
        for values in scores.values():
            failed |= values.isnan().any()
        yield group, scores
    if failed:
        raise InputError(
            f"the noise scores of patches with values up to {float(embeddings.abs().max()):.3g} cannot be computed; "
            "the backbone's weights may be damaged, or the Gaussian discriminator needs a larger epsilon"
        )


def _nearest_others(products: Tensor, norms: Tensor, part: slice, count: int) -> tuple[Tensor, Tensor]:
    """The `count` other patches nearest to each of a `part` of N: ‖p‖² - 2p·q and indices (B, count, n), in no order.

    Of the products p·q (B, N, n) of all patches with the part's, and the ‖p‖² (B, N).
    """
    positions, _, rows = products.shape
    if products.device.type == "cpu":
        least = torch.full((positions, count, rows), torch.inf)
        places = torch.zeros(least.shape, dtype=torch.int32)
        from softpatch.memory.kernels.ordering import keep_least

        keep_least(products.numpy(), norms.numpy(), part.start, least.numpy(), places.numpy())
        return least, places.long()
    others = norms[:, :, None] - 2 * products
    own = torch.arange(part.start, part.stop, device=products.device)
    others[:, own, own - part.start] = torch.inf
    return others.topk(count, dim=1, largest=False)


def _take(values: Tensor, indices: Tensor) -> Tensor:
    """Look up values (B, N) at indices (B, N, K): (B, N, K)."""
    groups, count, neighbors = indices.shape
    return values.gather(1, indices.reshape(groups, count * neighbors)).view(indices.shape)
