"""The recipe of the built-in backbone: pictures that repeat, and a network of the promised shape."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from softpatch.features.builtin import FEATURES, BuiltinNetwork
from softpatch.features.folding import fold_batch_norm

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from pictures import draw_pictures


@pytest.mark.parametrize("size", [64, 96])
def test_pictures_repeat_by_seed_and_differ_otherwise(size: int) -> None:
    pictures = draw_pictures(6, size, seed=3)
    assert (pictures.shape, pictures.dtype) == ((6, 3, size, size), torch.float32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, draw_pictures(6, size, seed=3))
    assert not torch.equal(pictures, draw_pictures(6, size, seed=4))
    assert (pictures.flatten(1).std(dim=1) > 0.005).all()  # none is blank


def test_pictures_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    draw_pictures(2, 64, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_network_gives_two_maps_and_folds() -> None:
    network = BuiltinNetwork(nn.BatchNorm2d)
    network(torch.rand(4, 3, 64, 64))  # statistics for the batch norms
    network.eval()
    images = torch.rand(2, 3, 96, 96)
    folded = fold_batch_norm(network, images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    plain = BuiltinNetwork().eval()
    plain.load_state_dict(folded.state_dict())
    with torch.inference_mode():
        for ours, theirs, stride, channels in zip(plain(images), network(images), (8, 16), FEATURES, strict=True):
            assert ours.shape == (2, channels, 96 // stride, 96 // stride)
            assert torch.allclose(ours, theirs, atol=1e-4)
    assert sum(value.numel() for value in plain.state_dict().values()) * 2 <= 4_000_000  # bytes in half precision
