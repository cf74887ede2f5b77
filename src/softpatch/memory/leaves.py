"""Points laid out in leaves of 64 that lie near each other, so that most of them need not be looked at.

The search asks which leaves may hold a nearer point than one found, the coreset which may hold a point that a new pick
comes nearer to. A box around the short descriptions of its points answers for a whole leaf.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import compiled, leading_coordinates

LEAF = 64
"""Points in a leaf: a few vectors, which are compared at once."""
SHORT = 16
"""Leading coordinates in a short description."""
AXES = 32
"""Axes of the short and long descriptions together; of many dimensions more pay."""
_DECIDING = 8  # of them by which points are told apart
_BLOCK = 1024  # leaves that are described at once
_FAR = np.float32(1e18)  # infinitely far, but finite when squared


@dataclass(frozen=True, eq=False)
class Leaves:
    """The layout of K points in L leaves of at most 64.

    `members` (L, 64) int64 are the places of the points among the K, -1 where a leaf has no more. `short` (L, 17, 64)
    float32 are their coordinates along the first 16 axes and the norm of the rest, as seen from the mean. `long`
    (L, 64, h - 15) are those along the other axes and the norm of what they leave, or (L, 64, 0) without other axes.
    `lows` and `highs` (17, L) are corners of the boxes around the short descriptions.
    """

    members: np.ndarray
    short: np.ndarray
    long: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


def lay_out(points: Tensor, numbers: Tensor, mean: Tensor, axes: Tensor) -> Leaves:
    """Lay out the points (M, D) float16 with the given `numbers` (K,): see `Leaves`.

    `mean` (D,) float32 is what they are seen from, `axes` (D, h) their principal axes, 16 or more unless D is less.
    """
    order = _split(points, numbers, mean, axes)
    count = -(-len(order) // LEAF)
    members = np.full((count, LEAF), -1, np.int64)
    members.ravel()[: len(order)] = order
    size = min(SHORT, axes.shape[1]) + 1
    short = np.empty((count, size, LEAF), np.float32)
    long = np.empty((count, LEAF, axes.shape[1] - SHORT + 1 if axes.shape[1] > SHORT else 0), np.float32)
    lows, highs = np.empty((size, count), np.float32), np.empty((size, count), np.float32)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        places = torch.from_numpy(members[part]).flatten()
        found, more = describe(points[numbers[places.clamp_min(0)]].float() - mean, axes)
        long[part] = more.reshape(-1, LEAF, more.shape[1])[:, :, : long.shape[2]]
        found = found.reshape(-1, LEAF, size)
        absent = members[part, :, None] < 0
        lows[:, part] = np.where(absent, _FAR, found).min(axis=1).T
        highs[:, part] = np.where(absent, -_FAR, found).max(axis=1).T
        short[part] = np.where(absent, _FAR, found).transpose(0, 2, 1)
    return Leaves(members, short, long, lows, highs)


def describe(centred: Tensor, axes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Short and long descriptions of points (n, D) seen from the mean: float32 (n, 17) and (n, h - 15).

    Short are the coordinates along the first 16 axes and the norm of the rest; long those along the other axes, and
    the norm of what they leave. Two points are at least as far apart as their short descriptions are, and as the first
    16 coordinates and the long descriptions together.
    """
    leading, rest = leading_coordinates(centred, axes)
    long = torch.cat([leading[:, SHORT:], rest[:, None]], dim=1)
    short = torch.cat([leading[:, :SHORT], torch.linalg.vector_norm(long, dim=1, keepdim=True)], dim=1)
    return short.numpy(), long.contiguous().numpy()


@compiled
def bound_leaves(lows, highs, description, bounds):  # type: ignore[no-untyped-def]
    """Write to `bounds` (L,) how near a point with the short `description` (17,) can be to a leaf's points, squared."""
    bounds[:] = 0
    for j in range(lows.shape[0]):
        for leaf in range(lows.shape[1]):
            away = max(lows[j, leaf] - description[j], description[j] - highs[j, leaf])
            bounds[leaf] += max(np.float32(0), away) ** 2


@compiled
def add_squares(rows, asked, start, stop, partial):  # type: ignore[no-untyped-def]
    """Add to `partial` (64,) the squared differences of coordinates `start` to `stop`: `rows` (l, 64), `asked` (l,)."""
    for j in range(start, stop - 3, 4):  # four at once, since storing the sum costs as much as adding to it
        a, b, c, d = asked[j], asked[j + 1], asked[j + 2], asked[j + 3]
        for p in range(LEAF):
            first = (rows[j, p] - a) ** 2 + (rows[j + 1, p] - b) ** 2
            partial[p] += first + (rows[j + 2, p] - c) ** 2 + (rows[j + 3, p] - d) ** 2
    for j in range(stop - (stop - start) % 4, stop):
        for p in range(LEAF):
            partial[p] += (rows[j, p] - asked[j]) ** 2


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
