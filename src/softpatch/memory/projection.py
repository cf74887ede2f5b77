"""A fixed random projection: the cheap space in which noise scores and the coreset are computed."""

from math import sqrt

import torch
from torch import Tensor


def project(embeddings: Tensor, projected_dim: int, seed: int) -> Tensor:
    """Project float16 embeddings (..., D) to (..., projected_dim); where D is no larger, return them as they are."""
    dim = embeddings.shape[-1]
    if dim <= projected_dim:
        return embeddings
    return (embeddings.float() @ random_projection(dim, projected_dim, seed).to(embeddings.device)).half()


def random_projection(dim: int, projected_dim: int, seed: int) -> Tensor:
    """Draw a Gaussian projection that keeps distances in expectation (Johnson-Lindenstrauss).

    Returns float32 (dim, projected_dim). The same `seed` gives the same matrix on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dim, projected_dim, generator=generator) / sqrt(projected_dim)
