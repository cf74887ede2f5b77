"""Backbones: their layers, whose weights they have, and the same features folded, in batches and from files."""

import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from softpatch.errors import InputError, WeightsError
from softpatch.features.backbone import Backbone, _import_timm, load_backbone
from softpatch.features.weights import weights_digest

SIZE = 64
RESNET_LAYERS = "act1, layer1, layer2, layer3, layer4"


def random_resnet(**settings: Any) -> Backbone:
    return load_backbone("test_resnet", weights="random", image_size=SIZE, **settings)


def drawn_images(count: int, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained_model(name: str, **settings: Any) -> nn.Module:
    """A timm model every weight and statistic of which has a value of its own, as after training."""
    model: nn.Module = _import_timm().create_model(name, **settings).eval()
    generator = torch.Generator().manual_seed(7)
    for key, value in model.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.05, generator=generator)
        assert "running" not in key or value.min() > 0.4
    return model


def features_of(model: Any, images: Tensor, indices: list[int]) -> list[Tensor]:
    """What timm itself gives for images in [0, 1]."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        maps: list[Tensor] = model.forward_intermediates(
            (images - mean) / std, indices=indices, intermediates_only=True
        )
    return maps


def used_state(model: nn.Module, *prefixes: str) -> dict[str, Tensor]:
    state = {key: value.contiguous() for key, value in model.state_dict().items() if "num_batches" not in key}
    return {key: value for key, value in state.items() if key.startswith(prefixes)}


def saved(path: Path, state: dict[str, Tensor]) -> str:
    save_file(state, path)
    return str(path)


STEM_TO_LAYER3 = ("conv1", "bn1", "layer1", "layer2", "layer3")


def test_default_layers_are_those_of_stride_8_and_16() -> None:
    backbone = load_backbone("resnet18", weights="random", image_size=SIZE)
    assert (backbone.name, backbone.layers) == ("resnet18", ("layer2", "layer3"))
    maps = backbone.feature_maps(drawn_images(2))
    assert [tuple(layer.shape) for layer in maps] == [(2, 128, 8, 8), (2, 256, 4, 4)]


@pytest.mark.parametrize(
    ("asked", "layers", "channels"),
    [
        (["layer1"], ("layer1",), [32]),
        (["layer3", "layer1"], ("layer1", "layer3"), [32, 192]),
        (["1", "layer4", "layer1"], ("layer1", "layer4"), [32, 96]),
    ],
    ids=["name", "in the network's order", "numbers, each once"],
)
def test_layers_asked_for(asked: list[str], layers: tuple[str, ...], channels: list[int]) -> None:
    backbone = random_resnet(layers=asked)
    assert backbone.layers == layers
    assert [layer.shape[1] for layer in backbone.feature_maps(drawn_images(1))] == channels


@pytest.mark.parametrize("layer", ["layer9", "5", "-1", ""])
def test_an_unknown_layer_is_refused_with_those_there_are(layer: str) -> None:
    with pytest.raises(InputError, match=f"'test_resnet' has no layer {layer!r}; it has {RESNET_LAYERS}"):
        random_resnet(layers=[layer])
    with pytest.raises(InputError, match=f"at least one layer; it has {RESNET_LAYERS}"):
        random_resnet(layers=[])


def test_an_unknown_backbone_is_refused_with_near_ones() -> None:
    with pytest.raises(
        InputError,
        match=r"`backbone` 'resnet18x' is neither builtin-v1 nor a timm model .*, such as .*resnet18\b",
    ):
        load_backbone("resnet18x", weights="random")
    with pytest.raises(InputError, match="`backbone` 'nothing like it' is neither builtin-v1 nor a timm model"):
        load_backbone("nothing like it", weights="random")


def test_the_seed_alone_decides_random_weights() -> None:
    first = random_resnet(seed=3)
    torch.rand(5)
    again, other = random_resnet(seed=3), random_resnet(seed=4)
    images = drawn_images(1)
    assert again.digest == first.digest != other.digest
    for ours, theirs in zip(again.feature_maps(images), first.feature_maps(images), strict=True):
        assert torch.equal(ours, theirs)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    random_resnet(seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_from_a_file_are_folded_without_changing_features(tmp_path: Path) -> None:
    model = trained_model("resnet18")
    path = saved(tmp_path / "weights.safetensors", model.state_dict())
    backbone = load_backbone("resnet18", weights=path, image_size=SIZE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.network.modules())
    images = drawn_images(3)
    for ours, theirs in zip(backbone.feature_maps(images), features_of(model, images, [2, 3]), strict=True):
        assert_close(ours.contiguous(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert backbone.digest == weights_digest(used_state(model, *STEM_TO_LAYER3))


def test_a_file_may_lack_the_layers_beyond_those_in_use(tmp_path: Path) -> None:
    model = trained_model("test_resnet")
    whole = load_backbone(
        "test_resnet", weights=saved(tmp_path / "whole.safetensors", model.state_dict()), image_size=SIZE
    )
    part = load_backbone(
        "test_resnet",
        weights=saved(tmp_path / "part.safetensors", used_state(model, *STEM_TO_LAYER3)),
        image_size=SIZE,
    )
    assert part.digest == whole.digest
    assert torch.equal(part.feature_maps(drawn_images(1))[1], whole.feature_maps(drawn_images(1))[1])


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    state = used_state(trained_model("test_resnet"), "conv1", "bn1", "layer1", "layer2")
    path = saved(tmp_path / "weights.safetensors", state)
    with pytest.raises(WeightsError, match=r"lacks \d+ of the backbone's \d+ tensors, such as 'layer3\.0\.bn1\.bias'"):
        load_backbone("test_resnet", weights=path, image_size=SIZE)
    assert load_backbone("test_resnet", weights=path, image_size=SIZE, layers=["layer2"]).layers == ("layer2",)


def test_a_file_with_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = used_state(trained_model("test_resnet"), *STEM_TO_LAYER3)
    state["layer2.0.conv1.weight"] = torch.zeros(48, 32, 1, 1)
    path = saved(tmp_path / "weights.safetensors", state)
    expected = r"'layer2\.0\.conv1\.weight' of shape \(48, 32, 1, 1\), but the backbone needs \(48, 32, 3, 3\)"
    with pytest.raises(WeightsError, match=expected):
        load_backbone("test_resnet", weights=path, image_size=SIZE)


def test_pretrained_weights_that_are_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="pretrained weights of backbone 'test_resnet' are not in the local cache"):
        load_backbone("test_resnet", image_size=SIZE, offline=True)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_features_of_an_image_do_not_depend_on_its_batch(name: str) -> None:
    backbone = load_backbone(name, weights="random", image_size=SIZE)
    images = drawn_images(10)
    together = backbone.feature_maps(images)
    for number in range(10):
        alone = backbone.feature_maps(images[number : number + 1])
        for ours, theirs in zip(alone, together, strict=True):
            assert_close(ours[0], theirs[number], rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["builtin-v1", "resnet18"])
def test_half_precision_gives_nearly_the_same_features(name: str) -> None:
    single = load_backbone(name, weights="random")
    half = replace(single, dtype=torch.float16, network=deepcopy(single.network).half())  # as on a GPU
    for one, other in zip(single.feature_maps(drawn_images(2)), half.feature_maps(drawn_images(2)), strict=True):
        assert other.dtype == torch.float16
        assert_close(other.float(), one, rtol=0, atol=0.01 * float(one.abs().max()))


def test_vision_transformer() -> None:
    backbone = load_backbone("test_vit", weights="random", image_size=96)
    assert backbone.layers == ("blocks.2", "blocks.3")  # one half and three quarters of its 6 blocks
    assert [tuple(layer.shape) for layer in backbone.feature_maps(drawn_images(2, 96))] == [(2, 64, 6, 6)] * 2


def test_layers_come_in_the_order_of_the_network() -> None:
    backbone = load_backbone("test_vit3", weights="random", image_size=SIZE, layers=["blocks.8", "blocks.1"])
    assert backbone.layers == ("blocks.1", "blocks.8")


def test_a_vision_transformer_takes_weights_made_for_another_image_size(tmp_path: Path) -> None:
    model = trained_model("test_vit", num_classes=0)  # of 160 pixels, 10 x 10 positions
    model.get_parameter("pos_embed").data[:] = 0.25
    path = saved(tmp_path / "weights.safetensors", model.state_dict())
    backbone = load_backbone("test_vit", weights=path, image_size=96)
    same = trained_model("test_vit", num_classes=0, img_size=96)
    same.load_state_dict({**model.state_dict(), "pos_embed": same.get_parameter("pos_embed").data.fill_(0.25)})
    images = drawn_images(2, 96)
    for ours, theirs in zip(backbone.feature_maps(images), features_of(same, images, [2, 3]), strict=True):
        assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_an_image_size_that_the_backbone_cannot_take() -> None:
    with pytest.raises(InputError, match=r"`backbone` 'test_resnet' cannot take 0 px images .*; change `resize`"):
        load_backbone("test_resnet", weights="random", image_size=0)


def test_an_image_size_of_which_a_vision_transformer_would_drop_the_last_pixels() -> None:
    with pytest.raises(InputError, match="'test_vit' takes images of a multiple of 16 px, not 100; change `resize`"):
        load_backbone("test_vit", weights="random", image_size=100)


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvision_without_its_compiled_operators_is_no_obstacle() -> None:
    script = """
import torch

def refuse(path):
    raise OSError("undefined symbol")

torch.ops.load_library = refuse
try:
    import torchvision
except RuntimeError as error:
    print(error)
from softpatch.features.backbone import load_backbone
print(load_backbone("test_resnet", weights="random", image_size=64).layers)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["operator torchvision::nms does not exist", "('layer2', 'layer3')"]


def test_weights_of_zeros_alone_are_refused(tmp_path: Path) -> None:
    model = _import_timm().create_model("test_resnet")
    save_file(
        {key: torch.zeros_like(value) for key, value in model.state_dict().items()}, tmp_path / "zeros.safetensors"
    )
    with pytest.raises(WeightsError, match="of zeros alone, which see nothing"):
        load_backbone("test_resnet", weights=str(tmp_path / "zeros.safetensors"), image_size=SIZE)
