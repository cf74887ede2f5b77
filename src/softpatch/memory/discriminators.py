"""Noise discriminators: how little each training patch looks like those of the other images at its grid position.

Section 3.2 of the paper. A discriminator is a function from the patches of a group of positions, (B, N, D) with N
images, to their noise scores (B, N), higher meaning more anomalous. To add one, write the function and enter it in
`DISCRIMINATORS`; the name is then valid everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softpatch.errors import InputError


@dataclass(frozen=True)
class NoiseSettings:
    """What the discriminators can be told."""

    lof_neighbors: int = 6
    gaussian_epsilon: float = 0.01


def nearest(patches: Tensor) -> Tensor:
    """Distance to the nearest patch of another image, equation (1): (B, N, D) -> (B, N), >= 0.

    Blind to defects that occur twice at the same place: they are each other's neighbour.
    """
    return _distances_to_others(patches).amin(dim=2)


def gaussian(patches: Tensor, epsilon: float) -> Tensor:
    """Mahalanobis distance to the Gaussian of all N patches, equations (2) and (3): (B, N, D) -> (B, N), >= 0.

    The covariance is Σ + εI. It is never inverted: with X the centred patches and λ = (N-1)ε, the squared distance
    is (N-1)·[K(K+λI)⁻¹]ᵢᵢ with K = XXᵀ, one N x N Cholesky factorisation; where N > D it is the row of X against
    (XᵀX+λI)⁻¹ instead, D x D. Double precision inside. Raises `InputError` for patches so large that even that does
    not tell K + λI from a singular matrix.
    """
    _, count, dim = patches.shape
    centred = patches.double() - patches.double().mean(dim=1, keepdim=True)
    ridge = (count - 1) * epsilon
    if count <= dim:
        # [K(K+λI)⁻¹]ᵢᵢ = 1 - λ[(K+λI)⁻¹]ᵢᵢ
        regular = centred @ centred.mT
        regular.diagonal(dim1=1, dim2=2).add_(ridge)
        inverse = torch.cholesky_inverse(_cholesky(regular, patches))
        leverage = 1 - ridge * inverse.diagonal(dim1=1, dim2=2)
    else:
        regular = centred.mT @ centred
        regular.diagonal(dim1=1, dim2=2).add_(ridge)
        whitened = torch.linalg.solve_triangular(_cholesky(regular, patches), centred.mT, upper=False)
        leverage = whitened.square().sum(dim=1)
    return ((count - 1) * leverage.clamp_min(0)).sqrt().to(patches.dtype)


def _cholesky(matrices: Tensor, patches: Tensor) -> Tensor:
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if failed.any() or not factors.isfinite().all():
        raise InputError(
            f"the Gaussian of patches with values up to {float(patches.abs().max()):.3g} cannot be computed; the "
            "backbone's weights may be damaged, or need a larger gaussian_epsilon"
        )
    return factors


def local_outlier_factor(patches: Tensor, neighbors: int) -> Tensor:
    """How much sparser the patch's surroundings are than its neighbours', equations (4) to (6): (B, N, D) -> (B, N).

    About 1 inside a cluster of any density, larger outside (Breunig et al. 2000). K = `neighbors`, or N - 1 where
    there are fewer others. As in scikit-learn, exactly K neighbours are taken where distances tie, and 1e-10 is added
    to the mean reachability distance, so identical patches give 1 rather than a division by zero.
    """
    neighbors = min(neighbors, patches.shape[1] - 1)
    distances, indices = _distances_to_others(patches).topk(neighbors, dim=2, largest=False)  # (B, N, K)
    k_distance = distances[:, :, -1]  # (B, N)
    reachability = torch.maximum(distances, _take(k_distance, indices))
    density = 1 / (reachability.mean(dim=2) + 1e-10)
    return _take(density, indices).mean(dim=2) / density


DISCRIMINATORS: dict[str, Callable[[Tensor, NoiseSettings], Tensor]] = {
    "nearest": lambda patches, _: nearest(patches),
    "gaussian": lambda patches, settings: gaussian(patches, settings.gaussian_epsilon),
    "lof": lambda patches, settings: local_outlier_factor(patches, settings.lof_neighbors),
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
    group_bytes: int = 256 * 2**20,
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Score all patches, some positions at a time: yields the slice of positions and, by name, their scores (N, B).

    `embeddings` are (N, P, D). As many positions are taken at once as keep one group's N x N distances within
    `group_bytes`. Raises `InputError` for an unknown name or fewer than 2 images.
    """
    check_discriminators(names)
    count, positions, _ = embeddings.shape
    if count < 2:
        raise InputError(f"noise scores compare images with each other and need at least 2, not {count}")
    step = max(1, min(positions, group_bytes // (4 * count * count)))
    for start in range(0, positions, step):
        group = slice(start, min(start + step, positions))
        patches = embeddings[:, group].transpose(0, 1).contiguous()  # (B, N, D)
        yield group, {name: DISCRIMINATORS[name](patches, settings).T for name in names}


def _distances_to_others(patches: Tensor) -> Tensor:
    """Euclidean distances between the N patches of each position, the diagonal infinite: (B, N, N)."""
    centred = patches - patches.mean(dim=1, keepdim=True)  # smaller norms, less cancellation
    squared_norms = centred.square().sum(dim=2)
    squared = torch.baddbmm(squared_norms[:, :, None] + squared_norms[:, None, :], centred, centred.mT, alpha=-2)
    distances = squared.clamp_min_(0).sqrt_()
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return distances


def _take(values: Tensor, indices: Tensor) -> Tensor:
    """Look up values (B, N) at indices (B, N, K): (B, N, K)."""
    groups, count, neighbors = indices.shape
    return values.gather(1, indices.reshape(groups, count * neighbors)).view(indices.shape)
