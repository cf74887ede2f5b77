"""A fixed random projection: the cheap space in which noise scores and the coreset are computed."""

from math import sqrt

import torch
from torch import Tensor


def random_projection(dim: int, projected_dim: int, seed: int) -> Tensor:
    """Draw a Gaussian projection that keeps distances in expectation (Johnson-Lindenstrauss).

    Returns float32 (dim, projected_dim).

    The same `seed` gives the same matrix on every device. Where `dim` is not larger than `projected_dim` there is
    nothing to gain, and the identity (dim, dim) is returned.
    """
    if dim <= projected_dim:
        return torch.eye(dim)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dim, projected_dim, generator=generator) / sqrt(projected_dim)
