"""Greedy k-centre coreset: few patches that leave no patch far from the nearest of them.

Section 3.1 of PatchCore: each pick is the point farthest from all picks so far (Sener & Savarese 2018). The result is
that of the plain loop; only distances that cannot matter are not computed.
"""

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    compiled,
    half_bits,
    leading_coordinates,
    principal_axes,
    sample_of,
    squared_distance,
    squared_distance_to_half,
    widened,
)
from softpatch.progress import Progress, silent

_HEAD = 16  # leading principal coordinates that decide most comparisons
_BLOCK = 65536  # points that are widened at once
_REPORT_EVERY = 1024
_SLACK = np.float32(1e-4)  # of a bound: far more than its rounding
_ROUNDING = 1e-8  # of the largest squared norm: far more than the rounding of a squared distance of coordinates


def greedy_coreset(points: Tensor, kept: Tensor, count: int, *, progress: Progress = silent) -> Tensor:
    """Choose `count` of the points (M, D) float16 that are kept, or all where there are fewer.

    `kept` (K,) int64 are indices into the points, and so is what is returned, in the order of picking. The first pick
    is the kept point nearest to the mean of all that are kept, so that no outlier enters by chance; every other is the
    point farthest from the picks before it, the first in `kept` where distances tie. Points that coincide are picked
    once, so there may be fewer picks than `count`.

    Exact. The first √(K/8) picks are made by looking at every point. They then serve as centres of clusters, and a
    later pick passes over a whole cluster, or a point in it, where the triangle inequality says that it cannot come
    closer than a pick before it; the leading principal coordinates and the norm of the rest (Cauchy-Schwarz) bound
    the distances that are left, and few are computed in full. Memory beyond the arguments: about 120 bytes for
    every kept point.
    """
    count = min(count, len(kept))
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    if points.device.type != "cpu":
        return _pick_with_all_distances(points[kept].float(), kept, count, progress)
    blocks = torch.split(kept, _BLOCK)
    mean = torch.stack([points[block].double().sum(dim=0) for block in blocks]).sum(dim=0) / len(kept)
    from_mean = torch.cat([(points[block].double() - mean).square().sum(dim=1).float() for block in blocks])
    picks = np.empty(count, np.int64)  # places in `kept`
    squared = np.full(len(kept), np.inf, np.float32)
    centre_of = np.zeros(len(kept), np.int32)
    centres = min(count, max(16, round((len(kept) / 8) ** 0.5)))
    bits = half_bits(points)
    pick = _pick_looking_at_all(bits, kept.numpy(), int(from_mean.argmin()), picks[:centres], squared, centre_of)

    order = np.argsort(centre_of, kind="stable")  # points of a cluster side by side
    starts = np.searchsorted(centre_of[order], np.arange(centres + 1))
    del centre_of
    places = kept[torch.from_numpy(order)]
    head, rest = torch.empty(len(kept), min(_HEAD, points.shape[1])), torch.empty(len(kept))
    axes = principal_axes(points[places[sample_of(len(places))]], mean, _HEAD)
    for start in range(0, len(kept), _BLOCK):
        part = slice(start, start + _BLOCK)
        head[part], rest[part] = leading_coordinates((points[places[part]].double() - mean).float(), axes)
    squared = squared[order]
    clusters = (
        bits,
        places.numpy(),
        head.numpy(),
        rest.numpy(),
        order,
        starts,
        points[kept[picks[:centres]]].float().numpy(),
        np.sqrt(squared),
        squared,
        np.float32(_ROUNDING * float(from_mean.max())),
    )
    place = int(np.flatnonzero(order == pick)[0])
    for done in range(centres, count, _REPORT_EVERY):
        progress("coreset", done, count)
        place = _pick_in_clusters(*clusters, place, picks[done : done + _REPORT_EVERY])
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
def _widened_row(bits):  # type: ignore[no-untyped-def]
    row = np.empty(len(bits), np.float32)
    for j in range(len(bits)):
        row[j] = widened(np.uint32(bits[j]))
    return row


@compiled
def _pick_looking_at_all(bits, kept, pick, picks, squared, centre_of):  # type: ignore[no-untyped-def]
    """Fill `picks`, beginning with `pick`; keep squared distances (K,) and nearest picks (K,); return the next pick."""
    for done in range(len(picks)):
        picks[done] = pick
        centre = _widened_row(bits[kept[pick]])
        farthest = 0
        for i in range(len(kept)):
            distance = squared_distance_to_half(bits[kept[i]], centre)
            if distance < squared[i]:
                squared[i] = distance
                centre_of[i] = done
            if squared[i] > squared[farthest]:
                farthest = i
        pick = farthest
    return pick


@compiled
def _pick_in_clusters(  # type: ignore[no-untyped-def]
    bits, places, head, rest, order, starts, centres, to_centre, squared, rounding, place, picks
):
    """Fill `picks` with points' first numbers, beginning at `place`; lower `squared`; return the next place."""
    clusters = len(centres)
    # a pick farther than this from the centre changes nothing in the cluster
    reach = np.full(clusters, np.inf, np.float32)
    farthest = np.zeros(clusters, np.int64)
    for done in range(len(picks)):
        picks[done] = order[place]
        pick, pick_head, pick_rest = _widened_row(bits[places[place]]), head[place].copy(), rest[place]
        best = -1
        for c in range(clusters):
            if starts[c] == starts[c + 1]:
                continue
            away = np.sqrt(squared_distance(centres[c], pick))
            if away * (1 - _SLACK) < reach[c]:
                reach[c] = 0
                farthest[c] = starts[c]
                for i in range(starts[c], starts[c + 1]):
                    triangle = max(np.float32(0), abs(away - to_centre[i]) - _SLACK * away)
                    if triangle * triangle < squared[i]:
                        bound = (rest[i] - pick_rest) ** 2 + squared_distance(head[i], pick_head)
                        if bound * (1 - _SLACK) - rounding < squared[i]:
                            squared[i] = min(squared[i], squared_distance_to_half(bits[places[i]], pick))
                    reach[c] = max(reach[c], np.sqrt(squared[i]) + to_centre[i])
                    if squared[i] > squared[farthest[c]]:
                        farthest[c] = i
            f = farthest[c]
            if best < 0 or squared[f] > squared[best] or (squared[f] == squared[best] and order[f] < order[best]):
                best = f
        place = best
    return place
