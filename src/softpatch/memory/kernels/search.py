"""Search leaves of points for the nearest of each query."""

import numpy as np

from softpatch.memory.bounds import SLACK
from softpatch.memory.kernels.compiling import compiled
from softpatch.memory.kernels.distances import largest_of, place_of_least, squared_distance
from softpatch.memory.leaves import LEAF, UNSEEN

_OF_ONE_THREAD = 2**18  # multiplications that OpenBLAS does not share out
_ROUNDING = np.float32(3e-5)  # of squared norms: many times the rounding of a product
_LESS, _MORE = np.float32(1) - _ROUNDING, np.float32(1) + SLACK


@compiled
def bound_leaves(lows, highs, short, boxes, nearest):  # type: ignore[no-untyped-def]
    """Write to `boxes` (L, n) how near points, `short` (17, n), can be to those of each leaf, squared.

    And to `nearest` (n,) int32 the leaf for which that is least, 0 where all are NaN. Leaf by leaf, for many points at
    once.
    """
    leaves, count = boxes.shape
    least = np.full(count, np.float32(np.inf))
    nearest[:] = 0
    for leaf in range(leaves):
        boxes[leaf] = 0
        for j in range(len(lows)):
            for i in range(count):
                away = max(lows[j, leaf] - short[j, i], short[j, i] - highs[j, leaf])
                boxes[leaf, i] += max(np.float32(0), away) ** 2
        for i in range(count):
            nearer = boxes[leaf, i] < least[i]
            nearest[i] = np.int32(leaf) if nearer else nearest[i]
            least[i] = boxes[leaf, i] if nearer else least[i]


@compiled
def settle(  # type: ignore[no-untyped-def]
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
