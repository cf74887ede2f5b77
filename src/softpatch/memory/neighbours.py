"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. The bank is laid out in leaves of patches that lie near each other, and
every patch is described by its leading principal coordinates and the norm of what they leave (Cauchy-Schwarz). Queries
look into the leaves whose bounding box comes nearer than the nearest patch that they have found so far, there at the
patches whose description does. Descriptions are compared in matrix products, of a leaf with all queries that look into
it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    SLACK,
    compiled,
    half_bits,
    largest_of,
    place_of_least,
    principal_axes,
    sample_of,
    squared_distance,
)
from softpatch.memory.leaves import AXES, LEAF, UNSEEN, Leaves, bound_leaves, describe, lay_out
from softpatch.threads import single_threaded_workers

_TURN = 784  # queries that a thread settles at a time at most, which look into a leaf one after the other
_OF_ONE_THREAD = 2**18  # multiplications that OpenBLAS does not share out
_ROUNDING = np.float32(3e-5)  # of squared norms: many times the rounding of a product
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
    radii: Tensor | None = None,
    enough: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find each query's nearest bank patch: Euclidean distances (Q,) float32 and int64 indices (Q,), equation (9).

    `queries` are (Q, D). With owners, (Q,) and (M,) integers such as image numbers, bank patches that share a query's
    owner are passed over; a query that then has no candidate gets an infinite distance. Of bank patches equally near
    the first is found. The distance is computed by difference, so it does not suffer from the cancellation of the
    expanded square. With `radii` (M,) float32, a query nearer to a patch than its radius counts as being so far.

    Where a query has a patch nearer than is `enough` for it (Q,), on a CPU any such patch may be found, which takes a
    fraction of the time.
    """
    if query_owners is None or bank_owners is None:
        query_owners = torch.full((len(queries),), -1, device=queries.device)
        bank_owners = torch.full((len(index.points),), -2, device=queries.device)
    radii = torch.zeros(len(index.points), device=queries.device) if radii is None else radii
    layout = index.layout
    if layout is None:
        return _search_all(queries.float(), index, query_owners, bank_owners, radii)
    limits = torch.zeros(len(queries)) if enough is None else enough.float().square().clamp_max(float(UNSEEN))
    leaves, axes = layout.leaves, layout.axes
    owners = bank_owners.long().numpy()[leaves.members]
    floors = radii.square().numpy()
    bank = (half_bits(index.points), floors, leaves.members, owners, leaves.rows, leaves.lows, leaves.highs)
    distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)

    def settle(part: slice) -> None:
        asked = queries[part].float().contiguous()
        seen = describe(asked - index.mean, axes)
        told = query_owners[part].contiguous().long().numpy(), limits[part].contiguous().numpy()
        found = np.empty(len(asked), np.float32), np.empty(len(asked), np.int64)
        _settle(*bank, asked.numpy(), seen.rows, np.ascontiguousarray(seen.short.T), seen.halves, *told, *found)
        distances[part], indices[part] = found

    threads = torch.get_num_threads()
    starts, reach = range(0, len(queries), threads * _TURN), threads * _TURN
    # every thread takes some from every region of an image, so that all take equally long
    parts = [slice(start + i, start + reach, threads) for start in starts for i in range(threads)]
    for _ in single_threaded_workers().map(settle, parts):
        pass  # but for what it may raise
    return torch.from_numpy(distances), torch.from_numpy(indices)


def _search_all(
    queries: Tensor,
    index: SearchIndex,
    query_owners: Tensor,
    bank_owners: Tensor,
    radii: Tensor,
    block_bytes: int = 2**28,
) -> tuple[Tensor, Tensor]:
    """Compute all distances, as suits a GPU, so many at a time that they take `block_bytes`."""
    points = index.points.float() - index.mean
    half_norms, half_floors = points.square().sum(dim=1) / 2, radii.square() / 2
    found = []
    block = max(1, block_bytes // (4 * len(points)))
    for asked, owners in zip(torch.split(queries, block), torch.split(query_owners, block), strict=True):
        centred = asked - index.mean
        halves = torch.addmm(half_norms, centred, points.T, alpha=-1)  # ‖q-m‖²/2 less ‖q‖²/2
        halves = torch.maximum(halves.add_(centred.square().sum(dim=1, keepdim=True) / 2), half_floors)
        best, nearest = halves.masked_fill_(owners[:, None] == bank_owners, torch.inf).min(dim=1)
        distances = torch.maximum((asked - index.points[nearest].float()).square().sum(dim=1).sqrt(), radii[nearest])
        found.append((distances.masked_fill(best == torch.inf, torch.inf), nearest))
    distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, indices


@compiled
def _settle(  # type: ignore[no-untyped-def]
    bits,
    floors,
    members,
    owners,
    rows,
    lows,
    highs,
    queries,
    query_rows,
    query_short,
    query_halves,
    query_owners,
    limits,
    distances,
    indices,
):
    """Write the distances and indices of the nearest points: arrays as in `Leaves`, and of the queries alike.

    Of points p and q with ‖p-q‖² = ‖p‖² + ‖q‖² - 2p·q the product is at most that of their descriptions. So p is not
    nearer than a squared distance d where that product, less ‖p‖²/2, is below ‖q‖²/2 - d/2. Small parts of ‖q‖² and of
    d allow for rounding, since ‖p‖ is at most ‖q‖ + √d where p is nearer. A squared distance counts as the point's of
    the `floors` (M,) at least; one below the query's of the `limits` settles it.
    """
    leaves, count, width = len(members), len(queries), rows.shape[1]
    boxes, products = np.empty((leaves, count), np.float32), np.empty((count, LEAF), np.float32)
    likeliest, reach = np.empty(count, np.int32), np.empty(count, np.float32)
    met, room = np.empty(count, np.int64), np.empty((count, width), np.float32)
    away, chosen = np.empty(LEAF, np.float32), np.empty(LEAF, np.int64)
    bound_leaves(lows, highs, query_short, boxes, likeliest)
    found, giver = np.int64(-1), np.int64(-1)  # what a query found first, and its owner
    for i in range(count):
        # Begin with what the query before it found, which lies beside it, and the likeliest of the nearest leaf.
        nearest, least = np.int64(-1), UNSEEN  # and its squared distance
        if found >= 0 and giver != query_owners[i]:
            nearest, least = found, max(floors[found], squared_distance(bits, found, queries, i))
        leaf = likeliest[i]
        met[0] = i
        _multiply(query_rows, met, 1, room, rows, leaf, products)
        for p in range(LEAF):
            away[p] = UNSEEN if owners[leaf, p] == query_owners[i] else -products[0, p]
        place = place_of_least(away)
        point = members[leaf, place]
        if point >= 0 and owners[leaf, place] != query_owners[i]:
            squared = max(floors[point], squared_distance(bits, point, queries, i))
            if squared < least or (squared == least and point < nearest):
                nearest, least, found, giver = point, squared, point, owners[leaf, place]
        distances[i], indices[i] = least, nearest
        reach[i] = _reach(least, limits[i], query_halves[i])
    for leaf in range(leaves):  # what all queries want of it is read once
        meet = 0
        for i in range(count):
            met[meet] = i
            meet += boxes[leaf, i] <= reach[i]
        _multiply(query_rows, met, meet, room, rows, leaf, products)
        for n in range(meet):
            i = met[n]
            nearest, least = indices[i], distances[i]
            needed = query_halves[i] * _LESS - least * _MORE / 2
            if largest_of(products[n]) < needed:
                continue
            near = 0
            for p in range(LEAF):  # without a branch, which would often be foreseen wrongly
                chosen[near] = p
                near += (products[n, p] >= needed) & (owners[leaf, p] != query_owners[i])
            for k in range(near):
                point = members[leaf, chosen[k]]
                if floors[point] > least:
                    continue
                squared = max(floors[point], squared_distance(bits, point, queries, i))
                if squared < least or (squared == least and point < nearest):
                    nearest, least = point, squared
            distances[i], indices[i] = least, nearest
            reach[i] = _reach(least, limits[i], query_halves[i])
    for i in range(count):
        distances[i] = np.sqrt(distances[i]) if indices[i] >= 0 else np.inf
        indices[i] = max(indices[i], 0)


@compiled
def _reach(least, limit, half):  # type: ignore[no-untyped-def]
    """How near a leaf's box has to be to a query that has found `least`, squared; negative where that is enough."""
    return np.float32(-1) if least < limit else least * _MORE + _ROUNDING * half


@compiled
def _multiply(described, met, count, room, rows, leaf, products):  # type: ignore[no-untyped-def]
    """Write to `products` (n, 64) those of the first `count` points `met` (n,) and each of a leaf, less ‖p‖²/2.

    The points are `described` (Q, h + 1), the leaves' by `rows` (L, h + 2, 64); `room` is (Q, h + 2).
    """
    width = rows.shape[1]
    for n in range(count):
        for j in range(width - 1):
            room[n, j] = described[met[n], j]
        room[n, width - 1] = 1
    size = max(1, _OF_ONE_THREAD // (LEAF * width))
    for start in range(0, count, size):
        stop = min(start + size, count)
        np.dot(room[start:stop], rows[leaf], products[start:stop])
