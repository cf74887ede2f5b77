"""Greedy k-centre coreset: few patches that leave no patch far from the nearest of them.

Section 3.1 of PatchCore: each pick is the point farthest from all picks so far (Sener & Savarese 2018). The result is
that of the plain loop; only distances that cannot matter are not computed.
"""

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    ROUNDING,
    SLACK,
    compiled,
    half_bits,
    principal_axes,
    sample_of,
    squared_distance_to_half,
    widened,
)
from softpatch.memory.leaves import LEAF, SHORT, bound_leaves, lay_out
from softpatch.progress import Progress, silent

_BLOCK = 65536  # points that are widened at once
_REPORT_EVERY = 1024
_UNSEEN = np.float32(1e30)  # farther than any point, squared, and finite


def greedy_coreset(points: Tensor, kept: Tensor, count: int, *, progress: Progress = silent) -> Tensor:
    """Choose `count` of the points (M, D) float16 that are kept, or all where there are fewer.

    `kept` (K,) int64 are indices into the points, and so is what is returned, in the order of picking. The first pick
    is the kept point nearest to the mean of all that are kept, so that no outlier enters by chance; every other is the
    point farthest from the picks before it, the first in `kept` where distances tie. Points that coincide are picked
    once, so there may be fewer picks than `count`.

    Exact. A pick passes over whole leaves of points, and over points in the others, where a bound says that it cannot
    come closer than a pick before it; few distances are computed in full. Memory beyond the arguments: about 120 bytes
    for every kept point.
    """
    count = min(count, len(kept))
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    if points.device.type != "cpu":
        return _pick_with_all_distances(points[kept].float(), kept, count, progress)
    blocks = torch.split(kept, _BLOCK)
    mean = torch.stack([points[block].double().sum(dim=0) for block in blocks]).sum(dim=0) / len(kept)
    from_mean = torch.cat([(points[block].double() - mean).square().sum(dim=1).float() for block in blocks])
    axes = principal_axes(points[kept[sample_of(len(kept))]], mean, SHORT)
    leaves = lay_out(points, kept, mean.float(), axes)
    layout = (half_bits(points), kept.numpy(), leaves.members, leaves.short, leaves.lows, leaves.highs)
    squared = np.where(leaves.members < 0, np.float32(-1), _UNSEEN)  # to the nearest pick; -1 where none is
    worst, farthest = squared.max(axis=1), np.zeros(len(squared), np.int64)  # of each leaf
    rounding = np.float32(ROUNDING * float(from_mean.max()))
    picks = np.empty(count, np.int64)  # places in `kept`
    cell = int(np.flatnonzero(leaves.members.ravel() == int(from_mean.argmin()))[0])
    for done in range(0, count, _REPORT_EVERY):
        progress("coreset", done, count)
        cell = _pick(*layout, squared, worst, farthest, rounding, cell, picks[done : done + _REPORT_EVERY])
    progress("coreset", count, count)
    _, first = np.unique(picks, return_index=True)  # the lowest index comes again once nothing is left to cover
    return kept[picks[np.sort(first)]]


def _pick_with_all_distances(values: Tensor, kept: Tensor, count: int, progress: Progress) -> Tensor:
    """The same picks of values (K, D), as suits a GPU: all distances at every pick, and no wait for any of them."""
    nearest = torch.full((len(kept),), torch.inf, device=values.device)
    picks = torch.empty(count, dtype=torch.int64, device=values.device)
    pick = (values - values.double().mean(dim=0)).square().sum(dim=1).argmin().view(1)
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


@compiled
def _lower(bits, kept, members, short, description, pick, rounding, full, squared):  # type: ignore[no-untyped-def]
    """Lower the `squared` distances (64,) of a leaf's points that the pick is nearer to; `full` (64,) is scratch."""
    full[:] = 0
    for j in range(len(description)):
        for p in range(LEAF):
            full[p] += (short[j, p] - description[j]) ** 2
    lowest = np.float32(np.inf)
    for p in range(LEAF):
        lowest = min(lowest, full[p] * (1 - SLACK) - squared[p])
    if lowest >= rounding:
        return
    for p in range(LEAF):
        if full[p] * (1 - SLACK) - squared[p] < rounding:
            squared[p] = min(squared[p], squared_distance_to_half(bits[kept[members[p]]], pick))


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
def _pick(  # type: ignore[no-untyped-def]
    bits, kept, members, short, lows, highs, squared, worst, farthest, rounding, cell, picks
):
    """Fill `picks`, beginning with the point in `cell`, counted through all leaves; return the next cell.

    Lowers `squared` (L, 64), and tells in `worst` and `farthest` (L,) its largest value in each leaf and where that is.
    """
    bounds, full = np.empty(len(members), np.float32), np.empty(LEAF, np.float32)
    pick = np.empty(bits.shape[1], np.float32)
    for done in range(len(picks)):
        picks[done] = members[cell // LEAF, cell % LEAF]
        row, description = bits[kept[picks[done]]], short[cell // LEAF, :, cell % LEAF].copy()
        for j in range(len(pick)):
            pick[j] = widened(np.uint32(row[j]))
        bound_leaves(lows, highs, description, bounds)
        best = 0
        for leaf in range(len(members)):
            if bounds[leaf] * (1 - SLACK) - rounding < worst[leaf]:
                _lower(bits, kept, members[leaf], short[leaf], description, pick, rounding, full, squared[leaf])
                if squared[leaf, farthest[leaf]] < worst[leaf]:
                    farthest[leaf] = _farthest(squared[leaf], members[leaf])
                    worst[leaf] = squared[leaf, farthest[leaf]]
            more = worst[leaf] - worst[best]
            if more > 0 or (more == 0 and members[leaf, farthest[leaf]] < members[best, farthest[best]]):
                best = leaf
        cell = best * LEAF + farthest[best]
    return cell
