"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. The bank is laid out in leaves of patches that lie near each other, and
every patch is described by its leading principal coordinates and the norm of what they leave (Cauchy-Schwarz). A query
looks into the leaves whose bounding box comes nearer than the nearest patch found so far, there at the patches whose
description does, and of these at a longer description before the patch itself. Descriptions are compared in matrix
products, of a leaf with all queries that look into it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    SLACK,
    compiled,
    half_bits,
    place_of_least,
    principal_axes,
    sample_of,
    squared_distance,
)
from softpatch.memory.leaves import AXES, LEAF, UNSEEN, Leaves, bound_leaves, describe, lay_out
from softpatch.memory.workers import single_threaded_workers

_TURN = 784  # queries that a thread settles at a time at most, which look into a leaf one after the other
_BEST_FIRST = 2  # leaves where a query begins
_OF_ONE_THREAD = 2**18  # multiplications that OpenBLAS does not share out
_ROUNDING = np.float32(1e-5)  # of squared norms: more than the rounding of a product
_LESS, _MORE = np.float32(1) - _ROUNDING, np.float32(1) + SLACK


@dataclass(frozen=True, eq=False)
class Layout:
    """A bank in `leaves` along `axes` (D, h)."""

    axes: Tensor
    leaves: Leaves


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
    axes = principal_axes(points[sample_of(len(points))], mean, max(AXES, points.shape[1] // 6))
    leaves = lay_out(points, torch.arange(len(points)), mean, axes)
    return SearchIndex(points, mean, Layout(axes, leaves))


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
    if query_owners is None or bank_owners is None:
        query_owners = torch.full((len(queries),), -1, device=queries.device)
        bank_owners = torch.full((len(index.points),), -2, device=queries.device)
    layout = index.layout
    if layout is None:
        return _search_all(queries.float(), index, query_owners, bank_owners)
    leaves, axes = layout.leaves, layout.axes
    owners = bank_owners.long().numpy()[leaves.members]
    described = (leaves.rows, leaves.halves, leaves.lows, leaves.highs)
    bank = (half_bits(index.points), leaves.members, owners, *described)
    distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
    threads = torch.get_num_threads()
    starts, reach = range(0, len(queries), threads * _TURN), threads * _TURN
    # every thread takes some from every region of an image, so that all take equally long
    parts = [slice(start + i, start + reach, threads) for start in starts for i in range(threads)]

    def settle(part: slice) -> None:
        asked = queries[part].float().contiguous()
        seen = describe(asked - index.mean, axes)
        per_query = (asked.numpy(), seen.rows, seen.short, seen.halves)
        found = np.empty(len(asked), np.float32), np.empty(len(asked), np.int64)
        _settle(*bank, *per_query, query_owners[part].contiguous().long().numpy(), *found)
        distances[part], indices[part] = found

    with single_threaded_workers() as pool:
        for _ in pool.map(settle, parts):
            pass  # but for what it may raise
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
    owners,
    rows,
    halves,
    lows,
    highs,
    queries,
    query_rows,
    query_short,
    query_halves,
    query_owners,
    distances,
    indices,
):
    """Write the distances and indices of the nearest points: arrays as in `Leaves`, and of the queries alike.

    Of points p and q with ‖p-q‖² = ‖p‖² + ‖q‖² - 2p·q the product is at most that of their descriptions. So p is not
    nearer than a squared distance d where that product, less ‖p‖²/2, is below ‖q‖²/2 - d/2.
    """
    leaves, count = len(members), len(queries)
    boxes, waiting = np.empty((count, leaves), np.float32), np.empty(leaves, np.float32)
    room, products = np.empty_like(query_rows), np.empty((count, LEAF), np.float32)
    away, chosen, met = np.empty(LEAF, np.float32), np.empty(LEAF, np.int64), np.empty(count, np.int64)
    for i in range(count):
        bound_leaves(lows, highs, query_short, i, boxes)
        for leaf in range(leaves):
            waiting[leaf] = boxes[i, leaf]
        nearest, least = np.int64(-1), UNSEEN  # and its squared distance
        for _ in range(min(_BEST_FIRST, leaves)):  # the likeliest point of each
            leaf = place_of_least(waiting)
            if waiting[leaf] > least:
                break
            waiting[leaf] = np.inf
            met[0] = i
            _multiply(query_rows, met, 1, room, rows, leaf, products)
            for p in range(LEAF):
                away[p] = halves[leaf, p] - products[0, p]
                if owners[leaf, p] == query_owners[i]:
                    away[p] = UNSEEN
            likeliest = place_of_least(away)
            if away[likeliest] < UNSEEN / 2:
                point = members[leaf, likeliest]
                squared = squared_distance(bits, point, queries, i)
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
        distances[i], indices[i] = least, nearest
    for leaf in range(leaves):  # what all queries want of it is read once
        meet = 0
        for i in range(count):
            met[meet] = i
            meet += boxes[i, leaf] <= distances[i] * _MORE + _ROUNDING * query_halves[i]
        _multiply(query_rows, met, meet, room, rows, leaf, products)
        for n in range(meet):
            i = met[n]
            needed = query_halves[i] * _LESS - distances[i] * _MORE / 2
            highest = np.float32(-np.inf)
            for p in range(LEAF):
                highest = max(highest, products[n, p] - halves[leaf, p] * _LESS)
            if highest < needed:
                continue
            left = 0
            for p in range(LEAF):  # without a branch, which would often be foreseen wrongly
                chosen[left] = p
                left += (products[n, p] - halves[leaf, p] * _LESS >= needed) & (owners[leaf, p] != query_owners[i])
            nearest, least = indices[i], distances[i]
            for k in range(left):
                point = members[leaf, chosen[k]]
                squared = squared_distance(bits, point, queries, i)
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
            distances[i], indices[i] = least, nearest
    for i in range(count):
        distances[i] = np.sqrt(distances[i]) if indices[i] >= 0 else np.inf
        indices[i] = max(indices[i], 0)


@compiled
def _multiply(described, met, count, room, rows, leaf, products):  # type: ignore[no-untyped-def]
    """Write to `products` (n, 64) those of the first `count` points `met` (n,) and each of a leaf.

    The points are `described` (Q, l), the leaves' by `rows` (L, l, 64); `room` is as large as `described`.
    """
    for n in range(count):
        for j in range(described.shape[1]):
            room[n, j] = described[met[n], j]
    size = max(1, _OF_ONE_THREAD // (LEAF * described.shape[1]))
    for start in range(0, count, size):
        stop = min(start + size, count)
        np.dot(room[start:stop], rows[leaf], products[start:stop])
