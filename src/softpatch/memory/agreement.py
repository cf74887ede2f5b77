"""How far a patch is from each image: the distances that tell how many images know a patch like it."""

import torch
from torch import Tensor

from softpatch.threads import single_threaded_workers

_BLOCK_BYTES = 2**22  # products that stay in a CPU's cache


def image_distances(queries: Tensor, references: Tensor) -> Tensor:
    """Find each patch's distance to each of M images, which is that to their nearest patch, wherever it lies.

    Of `queries` (N, P, D) and `references` (M, R, D), float16, gives float16 distances (N, P, M). All of them are
    computed, 2·N·P·M·R·D operations; the expanded square of embeddings seen from their mean errs by a few
    thousandths, as float16 does.
    """
    mean = references.flatten(0, 1).double().mean(dim=0).float()
    centred = references.float() - mean
    # ‖p-q‖² - ‖q‖² in one product: (-2p, ‖p‖²)·(q, 1)
    rows = torch.cat([-2 * centred, centred.square().sum(dim=2, keepdim=True)], dim=2)
    found = torch.empty(*queries.shape[:2], len(references), dtype=torch.float16, device=queries.device)

    def measure(image: int) -> None:
        seen = queries[image].float() - mean
        columns = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1).T.contiguous()  # (D + 1, P)
        step = max(1, _BLOCK_BYTES // (4 * rows.shape[1] * columns.shape[1]))
        nearest = torch.cat([(part @ columns).amin(dim=1) for part in torch.split(rows, step)])  # (M, P)
        found[image] = (nearest + seen.square().sum(dim=1)).clamp_min(0).sqrt().T

    each = single_threaded_workers().map if queries.device.type == "cpu" else map
    for _ in each(measure, range(len(queries))):
        pass  # but for what it may raise
    return found
