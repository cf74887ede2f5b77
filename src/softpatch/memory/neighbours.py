"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. The bank is laid out in leaves of patches that lie near each other, and
every patch is described by its leading principal coordinates and the norm of what they leave (Cauchy-Schwarz). A query
looks into the leaves whose bounding box comes nearer than the nearest patch found so far, there at the patches whose
description does, and of these at a longer description before the patch itself.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    ROUNDING,
    SLACK,
    compiled,
    half_bits,
    place_of_least,
    principal_axes,
    sample_of,
    squared_distance,
    squared_distance_to_half,
)
from softpatch.memory.leaves import AXES, LEAF, Leaves, add_squares, bound_leaves, describe, lay_out

_TURN = 32  # queries that a thread settles at a time
_BEST_FIRST = 4  # leaves looked into in the order of their bounds; the others as they lie


@dataclass(frozen=True, eq=False)
class Layout:
    """A bank in `leaves` along `axes` (D, h), and its `largest` squared norm, seen from its mean."""

    axes: Tensor
    leaves: Leaves
    largest: float


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """A bank (M, D) float16, prepared to be searched: `mean` (D,) is that of the `points`, `layout` None on a GPU."""

    points: Tensor
    mean: Tensor
    layout: Layout | None


def search_index(points: Tensor) -> SearchIndex:
    """Prepare a bank (M, D) float16 for `nearest_neighbours`.

    On a GPU there are no leaves: to compute all distances in one matrix product is faster there than to choose.
    """
    mean = points.double().mean(dim=0).float()
    if points.device.type != "cpu":
        return SearchIndex(points, mean, None)
    axes = principal_axes(points[sample_of(len(points))], mean, max(AXES, points.shape[1] // 8))
    leaves = lay_out(points, torch.arange(len(points)), mean, axes)
    return SearchIndex(points, mean, Layout(axes, leaves, float((points.float() - mean).square().sum(dim=1).max())))


def nearest_neighbours(
    queries: Tensor,
    index: SearchIndex,
    *,
    query_owners: Tensor | None = None,
    bank_owners: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find each query's nearest bank patch: Euclidean distances (Q,) float32 and int64 indices (Q,), equation (9).

    `queries` are (Q, D). With owners, (Q,) and (M,) integers such as image numbers, bank patches that share a query's
    owner are passed over; a query that then has no candidate gets an infinite distance. Of bank patches equally near
    the first is found. The distance is computed by difference, so it does not suffer from the cancellation of the
    expanded square.
    """
    queries = queries.float()
    if query_owners is None or bank_owners is None:
        query_owners = torch.full((len(queries),), -1, device=queries.device)
        bank_owners = torch.full((len(index.points),), -2, device=queries.device)
    layout = index.layout
    if layout is None:
        return _search_all(queries, index, query_owners, bank_owners)
    centred, leaves = queries - index.mean, layout.leaves
    short, long = describe(centred, layout.axes)
    rounding = (ROUNDING * (centred.square().sum(dim=1) + layout.largest)).numpy()
    distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
    laid_out = (leaves.members, leaves.short, leaves.long, leaves.lows, leaves.highs)
    bank = (half_bits(index.points), *laid_out, bank_owners.long().numpy())
    asked = (queries.contiguous().numpy(), short, long, rounding, query_owners.long().numpy())
    per_query = (*asked, distances, indices)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        turns = [slice(start, start + _TURN) for start in range(0, len(queries), _TURN)]
        parts = [pool.submit(_settle, *bank, *[array[turn] for array in per_query]) for turn in turns]
    for part in parts:
        part.result()
    return torch.from_numpy(distances), torch.from_numpy(indices)


def _search_all(
    queries: Tensor, index: SearchIndex, query_owners: Tensor, bank_owners: Tensor, block_bytes: int = 2**28
) -> tuple[Tensor, Tensor]:
    """Compute all distances, as suits a GPU, so many at a time that they take `block_bytes`."""
    points = index.points.float() - index.mean
    half_norms = points.square().sum(dim=1) / 2
    found = []
    block = max(1, block_bytes // (4 * len(points)))
    for asked, owners in zip(torch.split(queries, block), torch.split(query_owners, block), strict=True):
        halves = torch.addmm(half_norms, asked - index.mean, points.T, alpha=-1)  # ‖q-m‖²/2 less ‖q‖²/2
        best, nearest = halves.masked_fill_(owners[:, None] == bank_owners, torch.inf).min(dim=1)
        distances = (asked - index.points[nearest].float()).square().sum(dim=1).sqrt()
        found.append((distances.masked_fill(best == torch.inf, torch.inf), nearest))
    distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, indices


@compiled
def _settle(  # type: ignore[no-untyped-def]
    bits,
    members,
    short,
    long,
    lows,
    highs,
    bank_owners,
    queries,
    query_short,
    query_long,
    rounding,
    query_owners,
    distances,
    indices,
):
    """Write the distances and indices of the nearest points: arrays as in `Layout`, and of the queries alike."""
    leaves, coordinates = short.shape[0], short.shape[1]
    bounds, partial, full = np.empty(leaves, np.float32), np.empty(LEAF, np.float32), np.empty(LEAF, np.float32)
    for i in range(len(queries)):
        bound_leaves(lows, highs, query_short[i], bounds)
        nearest, least = np.int64(-1), np.float32(np.inf)  # and its squared distance
        limit = least  # no bound above it can be of a nearer one
        for turn in range(_BEST_FIRST + leaves):
            leaf = turn - _BEST_FIRST
            if leaf < 0:
                leaf = place_of_least(bounds)
            if bounds[leaf] > limit or bounds[leaf] == np.inf:
                continue
            bounds[leaf] = np.inf  # not again
            partial[:] = 0
            add_squares(short[leaf], query_short[i], 0, coordinates - 1, partial)
            lowest = np.float32(np.inf)
            for p in range(LEAF):
                full[p] = partial[p] + (short[leaf, coordinates - 1, p] - query_short[i, coordinates - 1]) ** 2
                lowest = min(lowest, full[p])
            if lowest > limit:
                continue
            if nearest < 0:  # begin with the likeliest, and most of the others are not looked at
                likeliest = -1
                for p in range(LEAF):
                    point = members[leaf, p]
                    allowed = point >= 0 and bank_owners[point] != query_owners[i]
                    if allowed and (likeliest < 0 or full[p] < full[likeliest]):
                        likeliest = p
                if likeliest < 0:
                    continue
                nearest = members[leaf, likeliest]
                least = squared_distance_to_half(bits[nearest], queries[i])
                limit = (least + rounding[i]) * (1 + SLACK)
            for p in range(LEAF):
                point = members[leaf, p]
                if full[p] > limit or point < 0 or bank_owners[point] == query_owners[i]:
                    continue
                if partial[p] + squared_distance(long[leaf, p], query_long[i]) > limit:
                    continue
                squared = squared_distance_to_half(bits[point], queries[i])
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
                    limit = (least + rounding[i]) * (1 + SLACK)
        distances[i], indices[i] = np.sqrt(least), max(nearest, 0)
