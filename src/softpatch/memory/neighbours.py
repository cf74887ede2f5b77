"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. The bank is laid out in leaves of patches that lie near each other, and
every patch is described by its leading principal coordinates and the norm of what they leave (Cauchy-Schwarz). A query
looks into the leaves whose bounding box comes nearer than the nearest patch found so far, there at the patches whose
description does, and of these at longer and longer descriptions before the patch itself.
"""

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
)
from softpatch.memory.leaves import AXES, LEAF, STEP, Leaves, bound_leaves, bound_points, describe, lay_out
from softpatch.memory.workers import single_threaded_workers

_TURN = 784  # queries that a thread settles at a time at most, which look into a leaf one after the other
_BEST_FIRST = 3  # leaves where a query begins
_UNSEEN = np.float32(1e30)  # farther than any patch, squared, and finite


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
    refined = max(0, points.shape[1] // 4 - AXES) // STEP * STEP
    axes = principal_axes(points[sample_of(len(points))], mean, AXES + refined)
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
    if query_owners is None or bank_owners is None:
        query_owners = torch.full((len(queries),), -1, device=queries.device)
        bank_owners = torch.full((len(index.points),), -2, device=queries.device)
    layout = index.layout
    if layout is None:
        return _search_all(queries.float(), index, query_owners, bank_owners)
    leaves, largest, axes = layout.leaves, layout.largest, layout.axes
    owners = bank_owners.long().numpy()[leaves.members]
    described = (leaves.short, leaves.long, leaves.steps, leaves.rests, leaves.blur, leaves.lows, leaves.highs)
    distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)

    threads = torch.get_num_threads()
    reach = threads * _TURN
    # every thread takes some from every region of an image, so that all take equally long
    starts = range(0, len(queries), reach)
    parts = [slice(start + i, start + reach, threads) for start in starts for i in range(threads)]

    def settle(part: slice) -> None:
        asked = queries[part].float().contiguous()
        centred = asked - index.mean
        seen = describe(centred, axes)
        rounding = (ROUNDING * (centred.square().sum(dim=1) + largest)).numpy()
        bank = (half_bits(index.points), leaves.members, owners, *described)
        per_query = (asked.numpy(), seen.short, seen.long, seen.steps, seen.rests, rounding)
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
    short,
    long,
    steps,
    rests,
    blur,
    lows,
    highs,
    queries,
    query_short,
    query_long,
    query_steps,
    query_rests,
    rounding,
    query_owners,
    distances,
    indices,
):
    """Write the distances and indices of the nearest points: arrays as in `Leaves`, and of the queries alike."""
    leaves, count = len(members), len(queries)
    boxes, waiting = np.empty((count, leaves), np.float32), np.empty(leaves, np.float32)
    partial, bounds, chosen = np.empty(LEAF, np.float32), np.empty(LEAF, np.float32), np.empty(LEAF, np.int64)
    for i in range(count):
        bound_leaves(lows, highs, query_short, i, boxes)
        for leaf in range(leaves):
            waiting[leaf] = boxes[i, leaf]
        nearest, least = np.int64(-1), _UNSEEN  # and its squared distance
        for _ in range(min(_BEST_FIRST, leaves)):  # the likeliest point of each
            leaf = place_of_least(waiting)
            if waiting[leaf] > least:
                break
            waiting[leaf] = np.inf
            partial[:] = 0
            bound_points(short, leaf, query_short, i, partial, bounds)
            bound_points(long, leaf, query_long, i, partial, bounds)
            likeliest, lowest = -1, _UNSEEN
            for p in range(LEAF):
                if bounds[p] < lowest and owners[leaf, p] != query_owners[i]:
                    likeliest, lowest = p, bounds[p]
            if likeliest >= 0:
                point = members[leaf, likeliest]
                squared = squared_distance(bits, point, queries, i)
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
        distances[i], indices[i] = least, nearest
    for leaf in range(leaves):  # what all queries want of it is read once
        for i in range(count):
            nearest, least = indices[i], distances[i]
            limit = (least + rounding[i]) * (1 + SLACK)  # no bound above it can be of a nearer one
            if boxes[i, leaf] > limit:
                continue
            partial[:] = 0
            if bound_points(short, leaf, query_short, i, partial, bounds) > limit:
                continue
            if bound_points(long, leaf, query_long, i, partial, bounds) > limit:
                continue
            left = 0
            for p in range(LEAF):  # without a branch, which would often be foreseen wrongly
                chosen[left] = p
                left += (bounds[p] <= limit) & (owners[leaf, p] != query_owners[i])
            blurred = (np.sqrt(limit) + blur) ** 2
            for step in range(rests.shape[1]):
                before, left = left, 0
                for n in range(before):
                    p = chosen[n]
                    row = (leaf * LEAF + p) * rests.shape[1] + step
                    partial[p] += squared_distance(steps, row, query_steps, i * rests.shape[1] + step)
                    chosen[left] = p
                    left += partial[p] + (rests[leaf, step, p] - query_rests[i, step]) ** 2 <= blurred
            for n in range(left):
                point = members[leaf, chosen[n]]
                squared = squared_distance(bits, point, queries, i)
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
            distances[i], indices[i] = least, nearest
    for i in range(count):
        distances[i] = np.sqrt(distances[i]) if indices[i] >= 0 else np.inf
        indices[i] = max(indices[i], 0)
