"""The teacher: MobileNetV2 up to the layers whose features the built-in backbone learns to give.

Read from a safetensors file of plain tensors (Apache-2.0 weights, batch norm folded), whose keys are those of the
original TensorFlow release: `Conv`, `expanded_conv[_i].{expand,depthwise,project}`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor

_HALVING = (1, 3, 6)
_SHIFT = 2
"""TensorFlow pads only after the last pixel, and cells look at what is right and below of the pixels that they stand
for. The teacher therefore sees pictures moved by this much, at which mirrored pictures give mirrored maps best."""


def load_teacher(path: Path) -> dict[str, Tensor]:
    """Read the teacher's tensors from a safetensors file."""
    return load_file(path)


@torch.inference_mode()
def teacher_features(weights: dict[str, Tensor], images: Tensor, block: int) -> Tensor:
    """Run images (B, 3, S, S) in [0, 1], S a multiple of 16, and give what a block gives: (B, C, S/stride, S/stride).

    It is linear, without a last ReLU. `block` is from 3 on (stride 8) and from 6 on (stride 16), 12 at most.
    """
    moved = F.pad(images, (_SHIFT, 0, _SHIFT, 0), mode="replicate")[..., : images.shape[2], : images.shape[3]]
    maps = (moved * 2 - 1).to(memory_format=torch.channels_last)
    maps = _conv(weights, "Conv", F.pad(maps, (0, 1, 0, 1)), stride=2)
    for number in range(block + 1):
        name = f"expanded_conv_{number}" if number else "expanded_conv"
        before = maps
        if number:
            maps = _conv(weights, f"{name}.expand", maps)
        halves = number in _HALVING
        maps = F.pad(maps, (0, 1, 0, 1)) if halves else maps
        maps = _conv(weights, f"{name}.depthwise", maps, stride=2 if halves else 1, padding=0 if halves else 1)
        maps = _conv(weights, f"{name}.project", maps, activate=False)
        if maps.shape == before.shape:
            maps = maps + before
    return maps


def _conv(
    weights: dict[str, Tensor], name: str, maps: Tensor, *, stride: int = 1, padding: int = 0, activate: bool = True
) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    groups = maps.shape[1] if weight.shape[1] == 1 and maps.shape[1] > 1 else 1
    maps = F.conv2d(maps, weight, bias, stride=stride, padding=padding, groups=groups)
    return maps.clamp_(0, 6) if activate else maps
