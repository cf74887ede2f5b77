"""Muon, an optimiser for weights that are matrices: every update is brought near to an orthogonal matrix.

All directions of a weight then move at the same pace, and the student learns in half the steps that AdamW takes. torch
has it for two-dimensional weights only; kernels of convolutions are taken here as matrices of one row per filter.
Source: K. Jordan and others, https://kellerjordan.github.io/posts/muon (2024).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal: `learning_rate` is the length of a step along every direction."""

    def __init__(
        self, weights: Iterable[nn.Parameter], learning_rate: float, *, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(weights, {"lr": learning_rate, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                state["mean"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(state["mean"], group["momentum"])  # Nesterov's
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.sub_(orthogonal(ahead.flatten(1)).view_as(weight), alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (rows, columns) near to one, all within about 0.7 and 1.2.

    Five Newton-Schulz steps, of the polynomial whose slope at zero is large; a tall matrix's are then longer by the
    square root of rows over columns, so that its outputs change as much as a wide one's.
    """
    tall = len(matrix) > matrix.shape[1]
    near = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = near @ near.T
        near = 3.4445 * near + (-4.7750 * gram + 2.0315 * gram @ gram) @ near
    return near.T * (len(matrix) / matrix.shape[1]) ** 0.5 if tall else near
