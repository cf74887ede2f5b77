"""Greedy k-centre coreset: few patches that leave no patch far from the nearest of them.

Section 3.1 of PatchCore: each pick is the point farthest from all picks so far (Sener & Savarese 2018). The result is
that of the plain loop; only distances that cannot matter are not computed.
"""

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    half_bits,
    principal_axes,
    sample_of,
)
from softpatch.memory.leaves import AXES, LEAF, UNSEEN, lay_out
from softpatch.progress import Progress, silent

_BLOCK = 65536  # points that are widened at once
_ROUNDING = 1e-8  # of the largest squared norm, beside SLACK
_REPORT_EVERY = 1024


def greedy_coreset(
    points: Tensor, kept: Tensor, count: int, *, covered: Tensor | None = None, progress: Progress = silent
) -> Tensor:
    """Choose `count` of the points (M, D) float16 that are kept, or all where there are fewer.

    `kept` (K,) int64 are indices into the points, and so is what is returned, in the order of picking. The first pick
    is the kept point nearest to the mean of all that are kept, so that no outlier enters by chance; every other is the
    point farthest from the picks before it, the first in `kept` where distances tie. Points that coincide are picked
    once, so there may be fewer picks than `count`.

    Where an older coreset is added to, `covered` (K,) float32 are the distances of the kept points to it: it counts as
    picked before, so that the first pick is the point farthest from it.

    Exact. Only the leaf that holds the farthest point has to know all picks: distances in the others are what they
    were when it last held it, and can only shrink. A leaf that catches up passes over picks, and points over others,
    where a bound says that they cannot be nearer than a pick before; few distances are computed in full. Memory beyond
    the arguments: about 190 bytes for every kept point, and 4·(D + 51) for every pick.
    """
    if covered is not None:
        kept, covered = kept[covered > 0], covered[covered > 0]
    count = min(count, len(kept))
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=points.device)
    if points.device.type != "cpu":
        return _pick_with_all_distances(points[kept].float(), kept, count, covered, progress)
    from softpatch.memory.kernels.picking import pick

    blocks = torch.split(kept, _BLOCK)
    mean = torch.stack([points[block].double().sum(dim=0) for block in blocks]).sum(dim=0) / len(kept)
    from_mean = torch.cat([(points[block].double() - mean).square().sum(dim=1).float() for block in blocks])
    axes = principal_axes(points[kept[sample_of(len(kept))]], mean, AXES)
    leaves = lay_out(points, kept, mean.float(), axes)
    described = (leaves.members, leaves.rows, leaves.rests, leaves.lows, leaves.highs)
    layout = (half_bits(points), kept.numpy(), *described)
    before = UNSEEN if covered is None else covered.square().numpy()[leaves.members]
    squared = np.where(leaves.members < 0, np.float32(-1), before)  # to the nearest pick known; -1 where no point is
    worst, known = squared.max(axis=1), np.zeros(len(squared), np.int64)  # of each leaf
    farthest = _first_where(squared == worst[:, None], leaves.members)
    highest = np.maximum.reduceat(worst, range(0, len(worst), LEAF))
    chosen = tuple(np.empty((count, width), np.float32) for width in (axes.shape[1] + 1, points.shape[1]))
    columns = np.empty((len(leaves.lows), count), np.float32)
    rounding = np.float32(_ROUNDING * float(from_mean.max()))
    picks = np.empty(count, np.int64)  # places in `kept`
    cell = int(np.flatnonzero(leaves.members.ravel() == int(from_mean.argmin()))[0])
    if covered is not None:
        cell = int(_first_where(squared.ravel() == worst.max(), leaves.members.ravel()))
    for start in range(0, count, _REPORT_EVERY):
        progress("coreset", start, count)
        end = min(count, start + _REPORT_EVERY)
        state = (squared, highest, worst, farthest, known, *chosen, columns)
        cell = pick(*layout, *state, rounding, cell, picks, start, end)
    progress("coreset", count, count)
    _, first = np.unique(picks, return_index=True)  # the lowest index comes again once nothing is left to cover
    return kept[picks[np.sort(first)]]


def _first_where(chosen: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Along the last axis, where the lowest of the `members` is that are `chosen`, bool of the same shape."""
    place: np.ndarray = np.where(chosen, members, np.iinfo(np.int64).max).argmin(axis=-1)
    return place


def _pick_with_all_distances(
    values: Tensor, kept: Tensor, count: int, covered: Tensor | None, progress: Progress
) -> Tensor:
    """The same picks of values (K, D), as suits a GPU: all distances at every pick, and no wait for any of them."""
    nearest = torch.full((len(kept),), torch.inf, device=values.device) if covered is None else covered
    picks = torch.empty(count, dtype=torch.int64, device=values.device)
    pick = (values - values.double().mean(dim=0)).square().sum(dim=1).argmin().view(1)
    if covered is not None:
        pick = covered.argmax().view(1)
    for done in range(count):
        picks[done : done + 1] = pick
        distances = torch.cdist(values[pick], values, compute_mode="donot_use_mm_for_euclid_dist")[0]
        nearest = torch.minimum(nearest, distances)
        pick = nearest.argmax().view(1)
        if done % _REPORT_EVERY == 0:
            progress("coreset", done, count)
    progress("coreset", count, count)
    places, first = np.unique(picks.cpu().numpy(), return_index=True)
    return kept[torch.from_numpy(places[np.argsort(first)]).to(kept.device)]
