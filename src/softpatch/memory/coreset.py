"""Greedy k-centre coreset: few patches that leave no patch far from the nearest of them.

Section 3.1 of PatchCore: each pick is the point farthest from all picks so far (Sener & Savarese 2018). The result is
that of the plain loop; only distances that cannot matter are not computed.
"""

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.compiled import compiled, squared_distance
from softpatch.progress import Progress, silent

_HEAD = 16  # leading principal coordinates that decide most comparisons
_REPORT_EVERY = 1024
_SLACK = np.float32(1e-4)  # of a bound: far more than its rounding
_ROUNDING = 1e-8  # of the largest squared norm: far more than the rounding of a squared distance of coordinates


def greedy_coreset(points: Tensor, count: int, *, progress: Progress = silent) -> Tensor:
    """Choose `count` of the points (M, D), or all where there are fewer: int64 indices in the order of picking.

    The first pick is the point nearest to the mean, so that no outlier enters by chance; every other is the point
    farthest from the picks before it, the lowest index where distances tie. Points that coincide are picked once, so
    there may be fewer picks than `count`.

    Exact. The first √(M/8) picks are made by looking at every point. They then serve as centres of clusters, and a
    later pick passes over a whole cluster, or a point in it, where the triangle inequality says that it cannot come
    closer than a pick before it; the leading principal coordinates and the norm of the rest (Cauchy-Schwarz) bound
    the distances that are left, and few are computed in full.
    """
    points = points.detach().float().cpu().contiguous()
    count = min(count, len(points))
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    centred = points - points.mean(dim=0)
    squared_norms = centred.square().sum(dim=1)
    picks = np.empty(count, np.int64)
    squared = np.full(len(points), np.inf, np.float32)
    centre_of = np.zeros(len(points), np.int64)
    centres = min(count, max(16, round((len(points) / 8) ** 0.5)))
    pick = _pick_looking_at_all(points.numpy(), int(squared_norms.argmin()), picks[:centres], squared, centre_of)

    order = np.argsort(centre_of, kind="stable")  # points of a cluster side by side
    starts = np.searchsorted(centre_of[order], np.arange(centres + 1))
    principal = centred @ _principal_axes(centred)
    del centred
    head, rest = principal[:, :_HEAD], torch.linalg.vector_norm(principal[:, _HEAD:], dim=1)
    clusters = (
        points.numpy()[order],
        head.numpy()[order],
        rest.numpy()[order],
        order,
        starts,
        points.numpy()[picks[:centres]],
        np.sqrt(squared[order]),
        squared[order],
        np.float32(_ROUNDING * float(squared_norms.max())),
    )
    place = int(np.flatnonzero(order == pick)[0])
    for done in range(centres, count, _REPORT_EVERY):
        progress("coreset", done, count)
        place = _pick_in_clusters(*clusters, place, picks[done : done + _REPORT_EVERY])
    progress("coreset", count, count)
    _, first = np.unique(picks, return_index=True)  # the lowest index comes again once nothing is left to cover
    return torch.from_numpy(picks[np.sort(first)])


def _principal_axes(centred: Tensor) -> Tensor:
    """Orthonormal axes in the order of falling variance: (D, D)."""
    axes: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors
    return axes.flip(1)


@compiled
def _pick_looking_at_all(points, pick, picks, squared, centre_of):  # type: ignore[no-untyped-def]
    """Fill `picks`, beginning with `pick`; keep squared distances (M,) and nearest picks (M,); return the next pick."""
    for done in range(len(picks)):
        picks[done] = pick
        centre = points[pick].copy()
        farthest = 0
        for i in range(len(points)):
            distance = squared_distance(points[i], centre)
            if distance < squared[i]:
                squared[i] = distance
                centre_of[i] = done
            if squared[i] > squared[farthest]:
                farthest = i
        pick = farthest
    return pick


@compiled
def _pick_in_clusters(  # type: ignore[no-untyped-def]
    points, head, rest, order, starts, centres, to_centre, squared, rounding, place, picks
):
    """Fill `picks` with points' first numbers, beginning at `place`; lower `squared`; return the next place."""
    clusters = len(centres)
    # a pick farther than this from the centre changes nothing in the cluster
    reach = np.full(clusters, np.inf, np.float32)
    farthest = np.zeros(clusters, np.int64)
    for done in range(len(picks)):
        picks[done] = order[place]
        pick, pick_head, pick_rest = points[place].copy(), head[place].copy(), rest[place]
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
                            squared[i] = min(squared[i], squared_distance(points[i], pick))
                    reach[c] = max(reach[c], np.sqrt(squared[i]) + to_centre[i])
                    if squared[i] > squared[farthest[c]]:
                        farthest[c] = i
            f = farthest[c]
            if best < 0 or squared[f] > squared[best] or (squared[f] == squared[best] and order[f] < order[best]):
                best = f
        place = best
    return place
