"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. The bank is laid out in leaves of patches that lie near each other, and
every patch is described by its leading principal coordinates and the norm of what they leave (Cauchy-Schwarz). A query
looks into the leaves whose bounding box comes nearer than the nearest patch found so far, there at the patches whose
description does, and of these at a longer description before the patch itself.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    compiled,
    half_bits,
    leading_coordinates,
    principal_axes,
    sample_of,
    squared_distance,
    squared_distance_to_half,
)

_LEAF = 64  # patches, a vector of which is compared at once
_SHORT = 16  # leading coordinates that decide most comparisons
_TURN = 32  # queries that a thread settles at a time
_BEST_FIRST = 4  # leaves looked into in the order of their bounds; the others as they lie
_SLACK = np.float32(1e-4)  # of a bound, and
_ROUNDING = 1e-8  # of the squared norms: together far more than the rounding of a bound


@dataclass(frozen=True, eq=False)
class Leaves:
    """The layout of a bank (M, D) in L leaves of at most 64 patches.

    `axes` (D, h) are orthonormal. `members` (L, 64) are the numbers of the patches, -1 where a leaf has no more.
    `short` (L, 17, 64) are coordinates along the first 16 axes and the norm of the rest, `long` (L, 64, h - 15) those
    along the others, and the norm of what they leave; it is empty where there are no other axes. `lows` and `highs`
    (17, L) are corners of boxes around the short descriptions. `largest` is the largest squared norm. All float32, seen
    from the mean of the bank.
    """

    axes: Tensor
    members: np.ndarray
    short: np.ndarray
    long: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    largest: float


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """A bank (M, D) float16, prepared to be searched: `mean` (D,) is that of the `points`."""

    points: Tensor
    mean: Tensor
    leaves: Leaves | None


def search_index(points: Tensor) -> SearchIndex:
    """Prepare a bank (M, D) float16 for `nearest_neighbours`.

    On a GPU there are no leaves: to compute all distances in one matrix product is faster there than to choose.
    """
    mean = points.double().mean(dim=0).float()
    if points.device.type != "cpu":
        return SearchIndex(points, mean, None)
    axes = principal_axes(points[sample_of(len(points))], mean, max(_SHORT, points.shape[1] // 8))
    centred = points.float() - mean
    short, long = _descriptions(centred, axes)
    groups = list(_split(short))
    members = np.full((len(groups), _LEAF), -1, np.int64)
    places = np.full((len(groups), short.shape[1], _LEAF), np.float32(1e18))  # infinitely far, but finite
    longer = np.zeros((len(groups), _LEAF, long.shape[1]), np.float32)
    lows, highs = (np.empty((short.shape[1], len(groups)), np.float32) for _ in range(2))
    for leaf, group in enumerate(groups):
        members[leaf, : len(group)] = group
        places[leaf, :, : len(group)] = short[group].T
        longer[leaf, : len(group)] = long[group]
        lows[:, leaf], highs[:, leaf] = short[group].min(axis=0), short[group].max(axis=0)
    largest = float(centred.square().sum(dim=1).max())
    return SearchIndex(points, mean, Leaves(axes, members, places, longer, lows, highs, largest))


def _descriptions(centred: Tensor, axes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The short and the long descriptions of points (n, D) seen from the mean: see `Leaves`."""
    leading, rest = leading_coordinates(centred, axes)
    long = torch.cat([leading[:, _SHORT:], rest[:, None]], dim=1)
    short = torch.cat([leading[:, :_SHORT], torch.linalg.vector_norm(long, dim=1, keepdim=True)], dim=1)
    has_more = axes.shape[1] > _SHORT
    return short.numpy(), long.contiguous().numpy() if has_more else np.empty((len(long), 0), np.float32)


def _split(points: np.ndarray) -> Iterator[np.ndarray]:
    """Halve points (M, k) along the coordinate that varies most, again and again, into groups of at most 64 numbers.

    All groups but the last are full.
    """
    waiting = [np.arange(len(points))]
    while waiting:
        group = waiting.pop()
        if len(group) <= _LEAF:
            yield np.sort(group)
            continue
        values = points[group]
        order = group[np.argsort(values[:, values.var(axis=0).argmax()], kind="stable")]
        half = -(-len(group) // (2 * _LEAF)) * _LEAF
        waiting += [order[half:], order[:half]]


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
    if index.leaves is None:
        return _search_all(queries, index, query_owners, bank_owners)
    centred, leaves = queries - index.mean, index.leaves
    short, long = _descriptions(centred, leaves.axes)
    rounding = (_ROUNDING * (centred.square().sum(dim=1) + leaves.largest)).numpy()
    distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
    layout = (leaves.members, leaves.short, leaves.long, leaves.lows, leaves.highs)
    bank = (half_bits(index.points), *layout, bank_owners.long().numpy())
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
    """Write the distances and indices of the nearest points: arrays as in `Leaves`, and of the queries alike."""
    leaves, coordinates = short.shape[0], short.shape[1]
    bounds, partial, full = np.empty(leaves, np.float32), np.empty(_LEAF, np.float32), np.empty(_LEAF, np.float32)
    for i in range(len(queries)):
        bounds[:] = 0
        for j in range(coordinates):
            for leaf in range(leaves):
                away = max(lows[j, leaf] - query_short[i, j], query_short[i, j] - highs[j, leaf])
                bounds[leaf] += max(np.float32(0), away) ** 2
        nearest, least = np.int64(-1), np.float32(np.inf)  # and its squared distance
        limit = least  # no bound above it can be of a nearer one
        for turn in range(_BEST_FIRST + leaves):
            leaf = turn - _BEST_FIRST
            if leaf < 0:
                leaf = 0
                for other in range(leaves):
                    if bounds[other] < bounds[leaf]:
                        leaf = other
            if bounds[leaf] > limit or bounds[leaf] == np.inf:
                continue
            bounds[leaf] = np.inf  # not again
            partial[:] = 0
            for j in range(coordinates - 1):
                for p in range(_LEAF):
                    partial[p] += (short[leaf, j, p] - query_short[i, j]) ** 2
            lowest = np.float32(np.inf)
            for p in range(_LEAF):
                full[p] = partial[p] + (short[leaf, coordinates - 1, p] - query_short[i, coordinates - 1]) ** 2
                lowest = min(lowest, full[p])
            if lowest > limit:
                continue
            if nearest < 0:  # begin with the likeliest, and most of the others are not looked at
                likeliest = -1
                for p in range(_LEAF):
                    point = members[leaf, p]
                    allowed = point >= 0 and bank_owners[point] != query_owners[i]
                    if allowed and (likeliest < 0 or full[p] < full[likeliest]):
                        likeliest = p
                if likeliest < 0:
                    continue
                nearest = members[leaf, likeliest]
                least = squared_distance_to_half(bits[nearest], queries[i])
                limit = (least + rounding[i]) * (1 + _SLACK)
            for p in range(_LEAF):
                point = members[leaf, p]
                if full[p] > limit or point < 0 or bank_owners[point] == query_owners[i]:
                    continue
                if partial[p] + squared_distance(long[leaf, p], query_long[i]) > limit:
                    continue
                squared = squared_distance_to_half(bits[point], queries[i])
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
                    limit = (least + rounding[i]) * (1 + _SLACK)
        distances[i], indices[i] = np.sqrt(least), max(nearest, 0)
