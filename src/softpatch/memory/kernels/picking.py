"""Pick the points of a coreset from leaves."""

import numpy as np

from softpatch.memory.bounds import SLACK
from softpatch.memory.kernels.compiling import compiled
from softpatch.memory.kernels.distances import largest_of, place_of_least, squared_distance, widened
from softpatch.memory.leaves import LEAF, SHORT

_BEST_FIRST = 4  # picks that a leaf sees in the order of their bounds; the others as they came
_FEW = 8  # rows of a description
_LESS = np.float32(1) - SLACK


@compiled
def _lower(  # type: ignore[no-untyped-def]
    bits, kept, members, rows, top, bounds, described, values, first, rounding, squared
):
    """Lower the distances of leaf `top` in `squared` (L, 64) to picks that it did not know.

    Those are the picks from `first` on; all picks are `described` (n, h + 1), as are the leaves' points by `rows`
    (L, h + 2, 64), and have `values` (n, D). `bounds` (m,) say how near each of the new ones can be to any point of
    the leaf.
    """
    largest, partial = largest_of(squared[top]), np.empty(LEAF, np.float32)
    every = described.shape[1]
    few, more = min(_FEW, every), min(SHORT, every)
    for turn in range(_BEST_FIRST + len(bounds)):
        new = turn - _BEST_FIRST
        if new < 0:
            new = place_of_least(bounds)
        if bounds[new] * _LESS - rounding >= largest:
            continue
        bounds[new] = np.inf  # not again
        n = first + new
        partial[:] = 0
        _add_squares(rows, top, described, n, 0, few, partial)  # enough to pass over most picks
        if not _any_nearer(partial, squared, top, rounding):
            continue
        _add_squares(rows, top, described, n, few, more, partial)
        if not _any_nearer(partial, squared, top, rounding):
            continue
        _add_squares(rows, top, described, n, more, every, partial)
        for p in range(LEAF):
            if partial[p] * _LESS - squared[top, p] < rounding:
                point = kept[members[top, p]]
                squared[top, p] = min(squared[top, p], squared_distance(bits, point, values, n))
        largest = largest_of(squared[top])


@compiled
def _add_squares(rows, leaf, described, i, start, stop, partial):  # type: ignore[no-untyped-def]
    """Add to `partial` (64,) the squared differences of rows `start` to `stop` of a leaf and those of point i."""
    for j in range(start, stop - 3, 4):  # four at once, since storing the sum costs as much as adding to it
        a, b, c, d = described[i, j], described[i, j + 1], described[i, j + 2], described[i, j + 3]
        for p in range(LEAF):
            first = (rows[leaf, j, p] - a) ** 2 + (rows[leaf, j + 1, p] - b) ** 2
            partial[p] += first + (rows[leaf, j + 2, p] - c) ** 2 + (rows[leaf, j + 3, p] - d) ** 2
    for j in range(stop - (stop - start) % 4, stop):
        for p in range(LEAF):
            partial[p] += (rows[leaf, j, p] - described[i, j]) ** 2


@compiled
def _any_nearer(partial, squared, top, rounding):  # type: ignore[no-untyped-def]
    """Whether a bound `partial` (64,) leaves room for any distance below those of leaf `top` in `squared` (L, 64)."""
    lowest = np.float32(np.inf)
    for p in range(LEAF):
        lowest = min(lowest, partial[p] * _LESS - squared[top, p])
    return lowest < rounding


@compiled
def _farthest(squared, members):  # type: ignore[no-untyped-def]
    """Where `squared` (64,) is largest: of equal ones, the first member."""
    far = 0
    for p in range(1, LEAF):
        more = squared[p] - squared[far]
        if more > 0 or (more == 0 and members[p] < members[far]):
            far = p
    return far


@compiled
def _top(highest, worst, farthest, members):  # type: ignore[no-untyped-def]
    """The leaf whose `worst` (L,) is largest: of equal ones, that of the first member.

    `highest` are the largest of every 64.
    """
    largest, top = largest_of(highest), -1
    for group in range(len(highest)):
        if highest[group] < largest:
            continue
        for leaf in range(group * LEAF, min((group + 1) * LEAF, len(worst))):
            if worst[leaf] == largest and (top < 0 or members[leaf, farthest[leaf]] < members[top, farthest[top]]):
                top = leaf
    return top


@compiled
def _add_outside(values, low, high, bounds):  # type: ignore[no-untyped-def]
    """Add to `bounds` (n,) how far `values` (n,) lie outside the interval from `low` to `high`, squared."""
    for n in range(len(bounds)):
        bounds[n] += max(low - values[n], values[n] - high, np.float32(0)) ** 2


@compiled
def pick(  # type: ignore[no-untyped-def]
    bits,
    kept,
    members,
    rows,
    rests,
    lows,
    highs,
    squared,
    highest,
    worst,
    farthest,
    known,
    described,
    values,
    columns,
    rounding,
    cell,
    picks,
    start,
    end,
):
    """Fill `picks` from `start` to `end`, beginning with the point in `cell`, counted through all leaves.

    Returns the next cell. `squared` (L, 64) are distances to the nearest of the picks that each leaf knows, the first
    `known` (L,); `worst` and `farthest` (L,) the largest of them and where that is, `highest` the largest of every 64
    leaves. How the picks are `described` (n, h + 1), their `values` (n, D) and `columns` (17, n), which are the short
    descriptions transposed, are filled as well.
    """
    room = np.empty(end, np.float32)
    for done in range(start, end):
        home, place = cell // LEAF, cell % LEAF
        picks[done] = members[home, place]
        for j in range(described.shape[1]):
            described[done, j] = rows[home, j, place]
        for j in range(len(columns) - 1):
            columns[j, done] = rows[home, j, place]
        columns[-1, done] = rests[home, place]
        point = kept[picks[done]]
        for j in range(bits.shape[1]):
            values[done, j] = widened(bits[point, j])
        top = _top(highest, worst, farthest, members)
        while known[top] <= done:
            new = slice(known[top], done + 1)
            bounds = room[new]
            bounds[:] = 0
            for j in range(len(columns)):
                _add_outside(columns[j, new], lows[j, top], highs[j, top], bounds)
            _lower(bits, kept, members, rows, top, bounds, described, values, known[top], rounding, squared)
            known[top], farthest[top] = done + 1, _farthest(squared[top], members[top])
            worst[top] = squared[top, farthest[top]]
            group = top // LEAF
            highest[group] = largest_of(worst[group * LEAF : (group + 1) * LEAF])
            top = _top(highest, worst, farthest, members)
        cell = top * LEAF + farthest[top]
    return cell
