"""How much speaks against each training image: what no other image shows, and what is unusual at its place.

A defect is far from what other images show, wherever; a part in a rare pose, or one that is missing, is unusual at its
place. Both are taken in spreads, so that products can be compared.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from softpatch.memory.shorth import SMALLEST

USUAL_GRID = 784
"""Patches of an image as the paper looks at it, 28 x 28. Where there are more, as many of them count, the oddest."""
_UNUSUAL = 0.05  # of an image's patches: the most unusual at their position
_SMALLEST_DEVIATION = 0.01  # of logarithms at a position, where images may all show the same
_BESIDE = 0.5  # of a spread of audit scores, for each spread of what is unusual by position


def image_evidence(rounds: Sequence[Tensor], lof: Tensor) -> Tensor:
    """The evidence that images are anomalous, (N,) float64 on the CPU: 0 in the middle, in spreads below it.

    `rounds` are the audit scores (N,) of rounds of dropping (see `softpatch.memory.agreement.concentrate`), of whose
    logarithms the mean counts; half as much counts how unusual images are by `lof`, the LOF scores (N, P) of their
    patches at each position; where they are all 0, it does not.
    """
    alone = torch.stack([_in_spreads(scores.clamp_min(SMALLEST).log()) for scores in rounds]).mean(dim=0)
    return alone + _BESIDE * _in_spreads(_unusual_by_position(lof))


def _unusual_by_position(lof: Tensor) -> Tensor:
    """How unusual images are at their patches' positions, (N,), by LOF scores (N, P).

    Their logarithms are taken as robust deviations from the median at the position, and of these the mean of an image's
    highest 5 %, as of an image of the usual size at most.
    """
    logs = lof.clamp_min(SMALLEST).log()
    apart = logs - logs.median(dim=0).values
    deviations = apart / (1.4826 * apart.abs().median(dim=0).values).clamp_min(_SMALLEST_DEVIATION)
    return deviations.topk(max(1, round(_UNUSUAL * min(lof.shape[1], USUAL_GRID))), dim=1).values.mean(dim=1)


def _in_spreads(values: Tensor) -> Tensor:
    """Values (N,) as distances from their median in spreads below it, root mean squares, which few high ones move."""
    apart = values.double().cpu()
    apart = apart - apart.median()
    spread = apart[apart <= 0].square().mean().sqrt()
    return apart / spread if spread > SMALLEST else torch.zeros_like(apart)
