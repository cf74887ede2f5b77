"""The built-in backbone: a small residual network of our own, its weights inside the package.

It gives maps at strides 8 and 16 as larger networks do, in a fraction of their time. How the weights were made is in
`training/`, what they can and cannot do in docs/model-card.md.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

BUILTIN = "builtin-v1"
"""The name it goes by; other weights will have another."""
WEIGHTS_FILE = Path(__file__).with_name(f"{BUILTIN}.safetensors")
WEIGHTS_DIGEST = "b875479e1ed4fd33ae0b05a9d51463aed11845f30a169c430a073d623f52d610"
"""`weights_digest` of what `WEIGHTS_FILE` holds, as float32."""
LAYERS = {"stride8": 8, "stride16": 16}
"""The maps that it gives and their strides."""
MEAN, STD = 0.5, 0.25
"""What is taken from pixels in [0, 1], and what the rest is divided by."""

WIDTHS = (16, 32, 72, 144)
"""Channels of the stem and of the stages of stride 4, 8 and 16."""
BLOCKS = (1, 2, 4)
"""Residual blocks in each stage."""
FEATURES = (32, 96)
"""Channels of the two maps that it gives."""

Norm = Callable[[int], nn.Module]


class BuiltinNetwork(nn.Module):
    """Images (B, 3, S, S), S a multiple of 16, become maps (B, 32, S/8, S/8) and (B, 96, S/16, S/16).

    Where the grid halves, kernels are 4 x 4 with stride 2: each cell is centred on the pixels that it stands for, and
    aliasing is less. `norm` makes the layer after each convolution: batch norm in training, nothing once it is folded.
    """

    def __init__(self, norm: Norm = lambda _: nn.Identity()) -> None:
        super().__init__()
        stem, *widths = WIDTHS
        self.stem = _convolution(3, stem, 4, norm)
        stages = []
        for before, width, blocks in zip(WIDTHS, widths, BLOCKS, strict=False):
            residual = [_Block(width, norm) for _ in range(blocks)]
            stages.append(nn.Sequential(_convolution(before, width, 4, norm), *residual))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(
            nn.Sequential(_convolution(width, 2 * width, 1, norm), nn.Conv2d(2 * width, features, 1))
            for width, features in zip(widths[1:], FEATURES, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        to_stride_4, to_stride_8, to_stride_16 = self.stages
        stride_8 = to_stride_8(to_stride_4(self.stem(images)))
        return [head(maps) for head, maps in zip(self.heads, (stride_8, to_stride_16(stride_8)), strict=True)]


class _Block(nn.Module):
    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.first = _convolution(width, width, 3, norm)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), norm(width))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(maps + self.second(self.first(maps)))


def _convolution(before: int, after: int, kernel: int, norm: Norm) -> nn.Sequential:
    """A convolution, its norm and ReLU; a kernel of 4 halves the grid."""
    stride, padding = (2, 1) if kernel == 4 else (1, kernel // 2)
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, padding), norm(after), nn.ReLU())
