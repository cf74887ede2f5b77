"""The built-in backbone: a small residual network of our own, its weights inside the package.

It gives one map at stride 8, in a fraction of the time of larger networks. How the weights were made is in
`training/`, what they can and cannot do in docs/model-card.md.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

BUILTIN = "builtin-v1"
"""The name it goes by; other weights will have another."""
WEIGHTS_FILE = Path(__file__).with_name(f"{BUILTIN}.safetensors")
WEIGHTS_DIGEST = "a7f2321c6ef2bbcf830f86750717415144e9d6a8a969f87739ddabc2647be1de"
"""`weights_digest` of what `WEIGHTS_FILE` holds, as float32."""
LAYER = "stride8"
"""The name of its one map, which has a cell for every 8 x 8 pixels."""
MEAN, STD = 0.5, 0.25
"""What is taken from pixels in [0, 1], and what the rest is divided by."""

WIDTHS = (16, 32, 128)
"""Channels of the stem and of the stages of stride 4 and 8."""
BLOCKS = (1, 4)
"""Residual blocks in each stage."""
FEATURES = 128
"""Channels of the map that it gives."""

Norm = Callable[[int], nn.Module]


class BuiltinNetwork(nn.Module):
    """Images (B, 3, S, S), S a multiple of 8, become one map (B, 128, S/8, S/8), in a list as of any backbone.

    Where the grid halves, kernels are 4 x 4 with stride 2: each cell is centred on the pixels that it stands for, and
    aliasing is less. `norm` makes the layer after each convolution: batch norm in training, nothing once it is folded.
    """

    def __init__(self, norm: Norm = lambda _: nn.Identity()) -> None:
        super().__init__()
        self.stem = _convolution(3, WIDTHS[0], 4, norm)
        stages = []
        for before, width, blocks in zip(WIDTHS, WIDTHS[1:], BLOCKS, strict=False):
            residual = [_Block(width, norm) for _ in range(blocks)]
            stages.append(nn.Sequential(_convolution(before, width, 4, norm), *residual))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(WIDTHS[-1], FEATURES, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.head(self.stages(self.stem(images)))]


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
