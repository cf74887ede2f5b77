"""The teacher: MobileNetV2 up to the layers whose features the built-in backbone learns to give.

Read from a safetensors file of plain tensors (Apache-2.0 weights, batch norm folded), whose keys are those of the
original TensorFlow release: `Conv`, `expanded_conv[_i].{expand,depthwise,project}`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor

_HALVING = (1, 3, 6, 13)
_SHIFT = 4
"""TensorFlow pads only after the last pixel, so cell i of stride 8 is centred on pixel 8 i + 7, not in the middle of
the pixels it stands for, 8 i + 3.5. The teacher therefore sees pictures moved down and right by this much."""
TAPS = (5, 12)
"""The taps are what these blocks give: 32 channels at stride 8, 96 at stride 16, without a last ReLU."""


def load_teacher(path: Path) -> dict[str, Tensor]:
    """Read the teacher's tensors from a safetensors file."""
    return load_file(path)


@torch.inference_mode()
def teacher_features(weights: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Run images (B, 3, S, S) in [0, 1], S a multiple of 16, and give (B, 32, S/8, S/8) and (B, 96, S/16, S/16)."""
    moved = F.pad(images, (_SHIFT, 0, _SHIFT, 0), mode="replicate")[..., : images.shape[2], : images.shape[3]]
    maps = (moved * 2 - 1).to(memory_format=torch.channels_last)
    maps = _conv(weights, "Conv", F.pad(maps, (0, 1, 0, 1)), stride=2)
    taps = []
    for block in range(TAPS[-1] + 1):
        name = f"expanded_conv_{block}" if block else "expanded_conv"
        before = maps
        if block:
            maps = _conv(weights, f"{name}.expand", maps)
        halves = block in _HALVING
        maps = F.pad(maps, (0, 1, 0, 1)) if halves else maps
        maps = _conv(weights, f"{name}.depthwise", maps, stride=2 if halves else 1, padding=0 if halves else 1)
        maps = _conv(weights, f"{name}.project", maps, activate=False)
        if maps.shape == before.shape:
            maps = maps + before
        if block in TAPS:
            taps.append(maps)
    return taps


def _conv(
    weights: dict[str, Tensor], name: str, maps: Tensor, *, stride: int = 1, padding: int = 0, activate: bool = True
) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    groups = maps.shape[1] if weight.shape[1] == 1 and maps.shape[1] > 1 else 1
    maps = F.conv2d(maps, weight, bias, stride=stride, padding=padding, groups=groups)
    return maps.clamp_(0, 6) if activate else maps
