"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. Every patch is described by its leading principal coordinates and the norm
of what they leave (Cauchy-Schwarz); one matrix product over these bounds all distances from below, and only bank
patches whose bound is below the nearest distance found so far are looked at.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    compiled,
    half_bits,
    leading_coordinates,
    principal_axes,
    squared_distance_to_half,
)

_SLACK = 1e-5  # of the squared norms: more than the rounding of a bound
_SAMPLE = 4096  # bank patches that axes are computed from: any axes are right, these are good
_CHUNK = 64  # bounds that are looked at together


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """A bank (M, D) float16, prepared to be searched.

    `coordinates` (M, h + 1) are those of the bank patches along orthonormal `axes` (D, h), seen from `mean` (D,), and
    the norm of the rest; without axes they are all coordinates (M, D). `half_norms` (M,) are half the squared norms,
    seen from `mean`.
    """

    points: Tensor
    mean: Tensor
    axes: Tensor | None
    coordinates: Tensor
    half_norms: Tensor


def search_index(points: Tensor) -> SearchIndex:
    """Prepare a bank (M, D) float16 for `nearest_neighbours`.

    On a GPU all distances are computed: one matrix product is faster there than any choice among them.
    """
    mean, axes = points.double().mean(dim=0).float(), None
    if points.device.type == "cpu":
        axes = principal_axes(points[:: -(-len(points) // _SAMPLE)], mean, max(16, points.shape[1] // 8))
    return SearchIndex(points, mean, axes, *_coordinates(points, mean, axes))


def _coordinates(points: Tensor, mean: Tensor, axes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Coordinates of points (n, D) as in `SearchIndex`, and half the squared norms (n,), seen from the mean."""
    centred = points.float() - mean
    half_norms = centred.square().sum(dim=1) / 2
    if axes is None:
        return centred, half_norms
    leading, rest = leading_coordinates(centred, axes)
    return torch.cat([leading, rest[:, None]], dim=1), half_norms


def nearest_neighbours(
    queries: Tensor,
    index: SearchIndex,
    *,
    query_owners: Tensor | None = None,
    bank_owners: Tensor | None = None,
    block_bytes: int = 8 * 2**20,
) -> tuple[Tensor, Tensor]:
    """Find each query's nearest bank patch: Euclidean distances (Q,) float32 and int64 indices (Q,), equation (9).

    `queries` are (Q, D). With owners, (Q,) and (M,) integers such as image numbers, bank patches that share a query's
    owner are passed over; a query that then has no candidate gets an infinite distance. Of bank patches equally near
    the first is found. Memory beyond the arguments: `block_bytes`, and twice the queries. The distance is computed by
    difference, so it does not suffer from the cancellation of the expanded square.
    """
    queries = queries.float()
    coordinates, half_norms = _coordinates(queries, index.mean, index.axes)
    block = max(1, block_bytes // (4 * len(index.points)))
    distances = queries.new_empty(len(queries))
    indices = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # its threads start at their first task
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            bounds = torch.addmm(index.half_norms, coordinates[part], index.coordinates.T, alpha=-1)
            if query_owners is not None and bank_owners is not None:
                bounds.masked_fill_(query_owners[part, None] == bank_owners, torch.inf)
            if index.axes is None:
                distances[part], indices[part] = _nearest(bounds, queries[part], index.points)
            else:
                arguments = (bounds, queries[part], half_norms[part], index, distances[part], indices[part])
                _settle_in_threads(pool, *arguments)
    return distances, indices


def _nearest(halves: Tensor, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The distances and indices of the nearest points, where `halves` (Q, M) order all of them."""
    best, nearest = halves.min(dim=1)
    distances = (queries - points[nearest].float()).square().sum(dim=1).sqrt()
    return distances.masked_fill(best == torch.inf, torch.inf), nearest


def _settle_in_threads(
    pool: ThreadPoolExecutor,
    bounds: Tensor,
    queries: Tensor,
    half_norms: Tensor,
    index: SearchIndex,
    distances: Tensor,
    indices: Tensor,
) -> None:
    slack = 2 * _SLACK * (half_norms + index.half_norms.max())
    edges = torch.linspace(0, len(queries), torch.get_num_threads() + 1).long().tolist()
    shared = half_bits(index.points)
    rows = [each.numpy() for each in (bounds, queries, slack - half_norms, distances, indices)]
    parts = [pool.submit(_settle, shared, *(each[low:high] for each in rows)) for low, high in pairwise(edges)]
    for part in parts:
        part.result()


@compiled
def _settle(points, bounds, queries, allowance, distances, indices):  # type: ignore[no-untyped-def]
    """Write the distances and indices of the nearest points, looking only where `bounds` (Q, M) allow a nearer one.

    A bound is half a squared distance at most, less half the query's squared norm; `allowance` is the latter's
    negative, and what rounding may do.
    """
    count, size = bounds.shape
    chunks = (size + _CHUNK - 1) // _CHUNK
    lowest = np.empty(chunks, np.float32)
    for i in range(count):
        first = 0
        for c in range(chunks):
            least = np.float32(np.inf)
            for j in range(c * _CHUNK, min(size, (c + 1) * _CHUNK)):
                least = min(least, bounds[i, j])
            lowest[c] = least
            if least < lowest[first]:
                first = c
        best = first * _CHUNK
        for j in range(best, min(size, best + _CHUNK)):
            if bounds[i, j] < bounds[i, best]:
                best = j
        if bounds[i, best] == np.inf:
            distances[i], indices[i] = np.inf, best
            continue
        squared = squared_distance_to_half(points[best], queries[i])
        limit = squared / 2 + allowance[i]
        for c in range(chunks):
            if lowest[c] <= limit:
                for j in range(c * _CHUNK, min(size, (c + 1) * _CHUNK)):
                    if bounds[i, j] <= limit:
                        distance = squared_distance_to_half(points[j], queries[i])
                        if distance < squared or (distance == squared and j < best):
                            squared, best = distance, j
                            limit = squared / 2 + allowance[i]
        distances[i], indices[i] = np.sqrt(squared), best
