"""Exact nearest-neighbour search in a memory bank.

On a CPU few distances are computed in full. The bank is laid out in leaves of patches that lie near each other, and
every patch is described by its leading principal coordinates and the norm of what they leave (Cauchy-Schwarz). Queries
look into the leaves whose bounding box comes nearer than the nearest patch that they have found so far, there at the
patches whose description does. Descriptions are compared in matrix products, of a leaf with all queries that look into
it. To be ready for that takes a second, or several where its code is not compiled yet, so the first few images that a
process judges are compared with the whole bank.
"""

import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.bounds import (
    half_bits,
    principal_axes,
    sample_of,
)
from softpatch.memory.leaves import AXES, UNSEEN, Leaves, describe, lay_out
from softpatch.threads import single_threaded_workers

_TURN = 784  # queries that a thread settles at a time at most, which look into a leaf one after the other
_WORTH_PREPARING = 2**34  # multiplications, which take about as long as loading compiled code
_done_without = 0  # of them by this process


@dataclass(frozen=True, eq=False)
class Layout:
    """A bank in `leaves` along `axes` (D, h)."""

    axes: Tensor
    leaves: Leaves


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """A bank of `points` (M, D) float16 and what it is searched by, which is made when it is first needed."""

    points: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """The mean (D,) float32 of the points."""
        return self.points.double().mean(dim=0).float()

    @cached_property
    def layout(self) -> Layout:
        """The points in leaves."""
        axes = principal_axes(self.points[sample_of(len(self.points))], self.mean, max(AXES, self.points.shape[1] // 6))
        return Layout(axes, lay_out(self.points, torch.arange(len(self.points)), self.mean, axes))


def search_index(points: Tensor) -> SearchIndex:
    """Prepare a bank (M, D) float16 for many searches."""
    index = SearchIndex(points)
    if points.device.type == "cpu":
        _ = index.layout
    return index


def _use_leaves(queries: int, index: SearchIndex) -> bool:
    """Whether so many queries are answered by leaves, or all distances computed.

    On a GPU one matrix product is faster than to choose. On a CPU leaves are, but not before as much was done without
    as it takes to get ready.
    """
    global _done_without
    if index.points.device.type != "cpu":
        return False
    if "layout" not in vars(index) and "softpatch.memory.kernels.compiling" not in sys.modules:
        _done_without += queries * index.points.numel()
        return _done_without > _WORTH_PREPARING
    return True


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
    the first is found, or where all distances are computed one of them. The distance is computed by difference, so it
    does not suffer from the cancellation of the expanded square. With `radii` (M,) float32, a query nearer to a patch
    than its radius counts as being so far.

    Where a query has a patch nearer than is `enough` for it (Q,), on a CPU any such patch may be found, which takes a
    fraction of the time.
    """
    if query_owners is None or bank_owners is None:
        query_owners = torch.full((len(queries),), -1, device=queries.device)
        bank_owners = torch.full((len(index.points),), -2, device=queries.device)
    radii = torch.zeros(len(index.points), device=queries.device) if radii is None else radii
    if not _use_leaves(len(queries), index):
        block_bytes = 2**23 if queries.device.type == "cpu" else 2**28
        return _search_all(queries.float(), index, query_owners, bank_owners, radii, block_bytes)
    from softpatch.memory.kernels.search import settle  # numba takes half a second to import

    limits = torch.zeros(len(queries)) if enough is None else enough.float().square().clamp_max(float(UNSEEN))
    leaves, axes = index.layout.leaves, index.layout.axes
    owners = bank_owners.long().numpy()[leaves.members]
    floors = radii.square().numpy()
    bank = (half_bits(index.points), floors, leaves.members, owners, leaves.rows, leaves.lows, leaves.highs)
    distances, indices = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)

    def find(part: slice) -> None:
        asked = queries[part].float().contiguous()
        seen = describe(asked - index.mean, axes)
        told = query_owners[part].contiguous().long().numpy(), limits[part].contiguous().numpy()
        found = np.empty(len(asked), np.float32), np.empty(len(asked), np.int64)
        settle(*bank, asked.numpy(), seen.rows, np.ascontiguousarray(seen.short.T), seen.halves, *told, *found)
        distances[part], indices[part] = found

    threads = torch.get_num_threads()
    starts, reach = range(0, len(queries), threads * _TURN), threads * _TURN
    # every thread takes some from every region of an image, so that all take equally long
    parts = [slice(start + i, start + reach, threads) for start in starts for i in range(threads)]
    for _ in single_threaded_workers().map(find, parts):
        pass  # but for what it may raise
    return torch.from_numpy(distances), torch.from_numpy(indices)


def _search_all(
    queries: Tensor,
    index: SearchIndex,
    query_owners: Tensor,
    bank_owners: Tensor,
    radii: Tensor,
    block_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Compute all distances, as suits a GPU and a CPU that is asked little; those of a block take `block_bytes`."""
    points = index.points.float() - index.mean
    half_norms, half_floors = points.square().sum(dim=1) / 2, radii.square() / 2
    found = []
    block = max(1, block_bytes // (4 * len(points)))
    for asked, owners in zip(torch.split(queries, block), torch.split(query_owners, block), strict=True):
        centred = asked - index.mean
        halves = torch.addmm(half_norms, centred, points.T, alpha=-1)  # ‖q-m‖²/2 less ‖q‖²/2
        halves.add_(centred.square().sum(dim=1, keepdim=True) / 2)
        torch.maximum(halves, half_floors, out=halves)
        best, nearest = halves.masked_fill_(owners[:, None] == bank_owners, torch.inf).min(dim=1)
        distances = torch.maximum((asked - index.points[nearest].float()).square().sum(dim=1).sqrt(), radii[nearest])
        found.append((distances.masked_fill(best == torch.inf, torch.inf), nearest))
    distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, indices
