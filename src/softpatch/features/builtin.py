"""The built-in backbone: a small residual network of our own, its weights inside the package.

It gives one map at stride 8, in a fraction of the time of larger networks. How the weights were made is in
`training/`, what they can and cannot do in docs/reference/model-card.md.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

BUILTIN = "builtin-v1"
"""The name it goes by; other weights will have another."""
WEIGHTS_FILE = Path(__file__).with_name(f"{BUILTIN}.safetensors")
WEIGHTS_DIGEST = "21103dced023bbebd514d05f9ddf5a4003a62bec85fd1b1a987d93d90fef5fc5"
"""`weights_digest` of what `WEIGHTS_FILE` holds, as float32."""
LAYER, STRIDE = "stride8", 8
"""The name of its one map, which has a cell for every 8 x 8 pixels."""
MEAN, STD = 0.5, 0.25
"""What is taken from pixels in [0, 1], and what the rest is divided by."""

WIDTHS = (16, 32, 128)
"""Channels of the stem and of the stages of stride 4 and 8."""
BLOCKS = ("f", "fwfwfwf")
"""The residual blocks of each stage: fine ones, of full 3 x 3 convolutions, and wide ones, of 5 x 5 by channel."""
INNER = (32, 96)
"""Channels within the fine blocks of each stage."""
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
        for before, width, blocks, inner in zip(WIDTHS, WIDTHS[1:], BLOCKS, INNER, strict=False):
            residual = [_fine(width, inner, norm) if block == "f" else _wide(width, norm) for block in blocks]
            stages.append(nn.Sequential(_convolution(before, width, 4, norm), *map(_Residual, residual)))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(WIDTHS[-1], FEATURES, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.head(self.stages(self.stem(images)))]


class _Residual(nn.Module):
    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def forward(self, maps: Tensor) -> Tensor:
        change: Tensor = self.change(maps)
        return change.add_(maps)  # in place, as ReLU: less memory to fetch


def _fine(width: int, inner: int, norm: Norm) -> nn.Module:
    return nn.Sequential(_convolution(width, inner, 3, norm), nn.Conv2d(inner, width, 1), norm(width))


def _wide(width: int, norm: Norm) -> nn.Module:
    by_channel = nn.Conv2d(width, width, 5, padding=2, groups=width)
    mixing = (_convolution(width, 2 * width, 1, norm), nn.Conv2d(2 * width, width, 1), norm(width))
    return nn.Sequential(by_channel, norm(width), *mixing)


def _convolution(before: int, after: int, kernel: int, norm: Norm) -> nn.Sequential:
    """A convolution, its norm and ReLU; a kernel of 4 halves the grid."""
    stride, padding = (2, 1) if kernel == 4 else (1, kernel // 2)
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, padding), norm(after), nn.ReLU(inplace=True))
