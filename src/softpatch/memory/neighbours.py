"""Exact nearest-neighbour search in a memory bank."""

import torch
from torch import Tensor


def nearest_neighbours(
    queries: Tensor,
    bank: Tensor,
    *,
    query_owners: Tensor | None = None,
    bank_owners: Tensor | None = None,
    block: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Find each query's nearest bank patch: Euclidean distances (Q,) float32 and int64 indices (Q,), equation (9).

    `queries` are (Q, D), `bank` is (M, D). With owners, (Q,) and (M,) integers such as image numbers, bank patches
    that share a query's owner are passed over; a query that then has no candidate gets an infinite distance.
    Memory beyond the arguments: `block` x M floats. The distance to the neighbour found is computed by difference,
    so it does not suffer from the cancellation of the expanded square.
    """
    half_norms = bank.square().sum(dim=1) / 2
    distances, indices = [], []
    for start in range(0, len(queries), block):
        chunk = queries[start : start + block]
        scores = torch.addmm(half_norms, chunk, bank.T, alpha=-1)  # ‖q-m‖²/2 less ‖q‖²/2
        if query_owners is not None and bank_owners is not None:
            scores.masked_fill_(query_owners[start : start + block, None] == bank_owners, torch.inf)
        best, index = scores.min(dim=1)
        distance = (chunk - bank[index]).square().sum(dim=1).sqrt()
        distances.append(distance.masked_fill(best == torch.inf, torch.inf))
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)
