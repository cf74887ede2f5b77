"""Points laid out in leaves of 64 that lie near each other, so that most of them need not be looked at.

The search asks which leaves may hold a nearer point than one found, the coreset which may hold a point that a new pick
comes nearer to. A box around the short descriptions of its points answers for a whole leaf.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import leading_coordinates

LEAF = 64
"""Points in a leaf: a few vectors, which are compared at once."""
SHORT = 16
"""Leading coordinates in a short description."""
AXES = 32
"""Axes of a description; of many dimensions more pay."""
_DECIDING = 8  # of them by which points are told apart
_BLOCK = 1024  # leaves that are described at once
UNSEEN = np.float32(1e30)
"""Farther than any point, squared, and finite."""


@dataclass(frozen=True, eq=False)
class Leaves:
    """The layout of K points in L leaves of at most 64.

    `members` (L, 64) int64 are the places of the points among the K, -1 where a leaf has no more. The others describe
    the points as in `Descriptions`, float32: `rows` (L, h + 2, 64), of which the last are half the squared norms below
    zero, -1e30 for no point, and `rests` (L, 64), the last of the short ones. `lows` and `highs` (17, L) are corners of
    boxes around the short ones.
    """

    members: np.ndarray
    rows: np.ndarray
    rests: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


@dataclass(frozen=True, eq=False)
class Descriptions:
    """How n points lie along h principal axes, as seen from the mean, float32.

    `rows` (n, h + 1) are the coordinates along the axes and the norm of what they leave, `short` (n, 17) those along
    the first 16, or fewer where there are no more, and the norm of what these leave; `halves` (n,) are half the squared
    norms. Two points are at least as far apart as their `rows` are, and these as their `short` ones.
    """

    rows: np.ndarray
    short: np.ndarray
    halves: np.ndarray


def lay_out(points: Tensor, numbers: Tensor, mean: Tensor, axes: Tensor) -> Leaves:
    """Lay out the points (M, D) float16 with the given `numbers` (K,): see `Leaves`.

    `mean` (D,) float32 is what they are seen from, `axes` (D, h) their principal axes, 16 or more unless D is less.
    """
    order = _split(points, numbers, mean, axes)
    count = -(-len(order) // LEAF)
    members = np.full((count, LEAF), -1, np.int64)
    members.ravel()[: len(order)] = order
    size = min(SHORT, axes.shape[1]) + 1
    rows, rests = np.empty((count, axes.shape[1] + 2, LEAF), np.float32), np.empty((count, LEAF), np.float32)
    lows, highs = np.empty((size, count), np.float32), np.empty((size, count), np.float32)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        places = torch.from_numpy(members[part]).flatten()
        found = describe(points[numbers[places.clamp_min(0)]].float() - mean, axes)
        absent, short = members[part] < 0, found.short.reshape(-1, LEAF, size)
        lows[:, part] = np.where(absent[:, :, None], np.inf, short).min(axis=1).T
        highs[:, part] = np.where(absent[:, :, None], -np.inf, short).max(axis=1).T
        rows[part, :-1] = found.rows.reshape(-1, LEAF, rows.shape[1] - 1).transpose(0, 2, 1)
        rows[part, -1] = np.where(absent, -UNSEEN, -found.halves.reshape(-1, LEAF))
        rests[part] = short[:, :, -1]
    return Leaves(members, rows, rests, lows, highs)


def describe(centred: Tensor, axes: Tensor) -> Descriptions:
    """Describe points (n, D) seen from the mean along axes (D, h)."""
    leading, rest = leading_coordinates(centred, axes)
    rows = torch.cat([leading, rest[:, None]], dim=1)
    few = min(SHORT, axes.shape[1])
    short = torch.cat([rows[:, :few], torch.linalg.vector_norm(rows[:, few:], dim=1, keepdim=True)], dim=1)
    return Descriptions(rows.numpy(), short.numpy(), (centred.square().sum(dim=1) / 2).numpy())


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
