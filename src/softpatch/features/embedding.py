"""From a backbone's feature maps to one embedding per grid position (PatchCore, Roth et al. 2022, section 3.1)."""

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from softpatch.config import LARGEST
from softpatch.errors import InputError


def patch_embeddings(feature_maps: Sequence[Tensor], embedding_dim: int) -> Tensor:
    """Describe each grid position by the features around it, from every layer: float16 (B, P, D).

    They are those of `joined_layers`, rounded. Raises `InputError` as that does, and where features are not finite or
    not below `LARGEST`.
    """
    embeddings = joined_layers(feature_maps, embedding_dim)
    if not embeddings.abs().max() < LARGEST:  # NaN is not
        raise InputError(
            "the backbone gives features that are not finite numbers, or absurdly large; its weights are damaged, or "
            "half precision, used on a GPU, is not enough for it: then choose cpu as `device`"
        )
    return embeddings.half()


def joined_layers(feature_maps: Sequence[Tensor], embedding_dim: int) -> Tensor:
    """What each grid position and those around it show in every layer, as one vector: float32 (B, P, D).

    `feature_maps` are (B, C, H, W) tensors of one or more layers. Each is averaged over 3 x 3 neighbourhoods and
    resized to the finest grid among them (H W, so P = H·W), then given an equal share of `embedding_dim`: a wider
    layer is pooled down to its share; a narrower one keeps its C channels, scaled by √(share / C), which leaves
    all distances as PatchCore's repetition of channels would have them, in fewer numbers. D <= embedding_dim.
    Raises `InputError` where `embedding_dim` leaves a layer no channel.
    """
    share = embedding_dim // len(feature_maps)
    if share < 1:
        raise InputError(f"`embedding_dim` {embedding_dim} is less than the number of layers, {len(feature_maps)}")
    finest = max((tuple(maps.shape[2:]) for maps in feature_maps), key=lambda grid: grid[0] * grid[1])
    layers = []
    for maps in feature_maps:
        smooth = F.avg_pool2d(maps.float(), 3, stride=1, padding=1, count_include_pad=False)
        if tuple(smooth.shape[2:]) != finest:
            smooth = F.interpolate(smooth, size=finest, mode="bilinear", align_corners=False)
        patches = smooth.flatten(2).transpose(1, 2)  # (B, P, C)
        channels = patches.shape[2]
        wider = channels > share
        layers.append(F.adaptive_avg_pool1d(patches, share) if wider else patches * sqrt(share / channels))
    return torch.cat(layers, dim=2)
