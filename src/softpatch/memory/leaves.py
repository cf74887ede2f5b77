"""Points laid out in leaves of 64 that lie near each other, so that most of them need not be looked at.

The search asks which leaves may hold a nearer point than one found, the coreset which may hold a point that a new pick
comes nearer to. A box around the short descriptions of its points answers for a whole leaf.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import compiled, inlined, leading_coordinates

LEAF = 64
"""Points in a leaf: a few vectors, which are compared at once."""
SHORT = 16
"""Leading coordinates in a short description."""
AXES = 32
"""Axes of the short and long descriptions together."""
STEP = 64
"""Axes by which a description is refined at a time."""
_DECIDING = 8  # of them by which points are told apart
_BLOCK = 1024  # leaves that are described at once
_FAR = np.float32(1e18)  # infinitely far, but finite when squared


@dataclass(frozen=True, eq=False)
class Leaves:
    """The layout of K points in L leaves of at most 64.

    `members` (L, 64) int64 are the places of the points among the K, -1 where a leaf has no more. The others describe
    the points as in `Descriptions`, `short` (L, 17, 64), `long` (L, 17, 64) and `rests` (L, S, 64) float32, `steps`
    (64 L S, 64) the bits of float16, for which a point is taken to be at most `blur` away from where it is. `lows`
    and `highs` (17, L) are corners of the boxes around the short descriptions.
    """

    members: np.ndarray
    short: np.ndarray
    long: np.ndarray
    steps: np.ndarray
    rests: np.ndarray
    blur: np.float32
    lows: np.ndarray
    highs: np.ndarray


@dataclass(frozen=True, eq=False)
class Descriptions:
    """How n points lie along principal axes, float32; two points are at least as far apart as what is said of them.

    `short` (n, 17) are the coordinates along the first 16 axes and the norm of the rest, `long` (n, 17) those along
    the next 16 and the norm of what they leave, `steps` (n S, 64) those along 64 S more and `rests` (n, S) the norms
    of what is left after each 64. Coordinates of all axes up to some, and the norm of what those leave, make a bound.
    """

    short: np.ndarray
    long: np.ndarray
    steps: np.ndarray
    rests: np.ndarray


def lay_out(points: Tensor, numbers: Tensor, mean: Tensor, axes: Tensor) -> Leaves:
    """Lay out the points (M, D) float16 with the given `numbers` (K,): see `Leaves`.

    `mean` (D,) float32 is what they are seen from, `axes` (D, h) their principal axes: 32 and any number of steps of
    64 more, or all D of them.
    """
    order = _split(points, numbers, mean, axes)
    count = -(-len(order) // LEAF)
    members = np.full((count, LEAF), -1, np.int64)
    members.ravel()[: len(order)] = order
    of_none = describe(torch.empty(0, len(mean)), axes)
    size, further, steps = of_none.short.shape[1], of_none.long.shape[1], of_none.rests.shape[1]
    short, long = np.empty((count, size, LEAF), np.float32), np.empty((count, further, LEAF), np.float32)
    fine, rests = np.empty((count, LEAF, steps, STEP), np.float16), np.empty((count, steps, LEAF), np.float32)
    lows, highs = np.empty((size, count), np.float32), np.empty((size, count), np.float32)
    blur = np.float32(0)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        leaves, places = len(members[part]), torch.from_numpy(members[part]).flatten()
        found = describe(points[numbers[places.clamp_min(0)]].float() - mean, axes)
        long[part] = found.long.reshape(leaves, LEAF, further).transpose(0, 2, 1)
        rests[part] = found.rests.reshape(leaves, LEAF, steps).transpose(0, 2, 1)
        with np.errstate(over="ignore"):  # infinite blur, then
            fine[part] = found.steps.reshape(leaves, LEAF, steps, STEP)
        errors = found.steps.reshape(leaves, LEAF, steps, STEP) - fine[part]
        blur = max(blur, np.sqrt(np.square(errors).sum(axis=(2, 3)).max()))
        described = found.short.reshape(leaves, LEAF, size)
        absent = members[part, :, None] < 0
        lows[:, part] = np.where(absent, _FAR, described).min(axis=1).T
        highs[:, part] = np.where(absent, -_FAR, described).max(axis=1).T
        short[part] = np.where(absent, _FAR, described).transpose(0, 2, 1)
    return Leaves(members, short, long, fine.view(np.uint16).reshape(-1, STEP), rests, blur, lows, highs)


def describe(centred: Tensor, axes: Tensor) -> Descriptions:
    """Describe points (n, D) seen from the mean along axes (D, h), as for `lay_out`."""
    leading, rest = leading_coordinates(centred, axes)
    steps = leading[:, AXES:].reshape(len(centred), max(0, axes.shape[1] - AXES) // STEP, STEP)
    squares = torch.cat([torch.linalg.vector_norm(steps, dim=2), rest[:, None]], dim=1).square()
    rests = squares.flip(1).cumsum(dim=1).flip(1).sqrt()
    long = torch.cat([leading[:, SHORT:AXES], rests[:, :1]], dim=1)
    short = torch.cat([leading[:, :SHORT], torch.linalg.vector_norm(long, dim=1, keepdim=True)], dim=1)
    further = steps.reshape(-1, STEP).contiguous(), rests[:, 1:].contiguous()
    return Descriptions(short.numpy(), long.numpy(), *(values.numpy() for values in further))


@compiled
def bound_leaves(lows, highs, short, i, boxes):  # type: ignore[no-untyped-def]
    """Write to `boxes` (n, L) how near point i, `short` (n, 17), can be to the points of each leaf, squared."""
    for leaf in range(lows.shape[1]):
        boxes[i, leaf] = 0
    for j in range(lows.shape[0]):
        for leaf in range(lows.shape[1]):
            away = max(lows[j, leaf] - short[i, j], short[i, j] - highs[j, leaf])
            boxes[i, leaf] += max(np.float32(0), away) ** 2


@compiled
def bound_points(rows, leaf, described, i, partial, bounds):  # type: ignore[no-untyped-def]
    """Write to `bounds` (64,) how near point i, `described` (n, l), can be to each of a leaf, squared.

    The least of them is returned. `rows` (L, l, 64) are short or long descriptions of the leaves' points, `partial`
    (64,) the squared distances along the axes before; those along the axes of `rows` are added to it, without what
    their last, of the rest, tells.
    """
    last, least = rows.shape[1] - 1, np.float32(np.inf)
    add_squares(rows, leaf, described, i, 0, last, partial)
    for p in range(LEAF):
        bounds[p] = partial[p] + (rows[leaf, last, p] - described[i, last]) ** 2
        least = min(least, bounds[p])
    return least


@inlined
def add_squares(rows, leaf, described, i, start, stop, partial):  # type: ignore[no-untyped-def]
    """Add to `partial` (64,) the squared differences of coordinates `start` to `stop`: see `bound_points`."""
    for j in range(start, stop - 3, 4):  # four at once, since storing the sum costs as much as adding to it
        a, b, c, d = described[i, j], described[i, j + 1], described[i, j + 2], described[i, j + 3]
        for p in range(LEAF):
            first = (rows[leaf, j, p] - a) ** 2 + (rows[leaf, j + 1, p] - b) ** 2
            partial[p] += first + (rows[leaf, j + 2, p] - c) ** 2 + (rows[leaf, j + 3, p] - d) ** 2
    for j in range(stop - (stop - start) % 4, stop):
        for p in range(LEAF):
            partial[p] += (rows[leaf, j, p] - described[i, j]) ** 2


def _split(points: Tensor, numbers: Tensor, mean: Tensor, axes: Tensor) -> np.ndarray:
    """An order (K,) of the points in which every 64 lie near each other.

    They are halved along the coordinate that varies most, again and again.
    """
    few = axes[:, :_DECIDING]
    blocks = torch.split(numbers, _BLOCK * LEAF)
    values = torch.cat([(points[block].float() - mean) @ few for block in blocks]).numpy()
    order = np.arange(len(values))
    waiting = [(0, len(order))]
    while waiting:
        low, high = waiting.pop()
        if high - low <= LEAF:
            continue
        group = order[low:high]
        here = values[group]
        half = -(-(high - low) // (2 * LEAF)) * LEAF
        group[:] = group[np.argpartition(here[:, here.var(axis=0).argmax()], half)]
        waiting += [(low, low + half), (low + half, high)]
    return order
