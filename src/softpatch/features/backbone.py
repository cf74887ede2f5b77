"""A pretrained network as a function from images to feature maps: the built-in one, or any timm model, CNN or ViT."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softpatch.config import PRETRAINED, RANDOM
from softpatch.errors import InputError, WeightsError
from softpatch.features.builtin import BUILTIN, LAYER, MEAN, STD, STRIDE, WEIGHTS_DIGEST, WEIGHTS_FILE, BuiltinNetwork
from softpatch.features.folding import fold_batch_norm
from softpatch.features.weights import hub_file, read_weights, weights_digest
from softpatch.progress import Progress, silent
from softpatch.threads import begin_computing, single_threaded_workers

_AT_A_TIME = 4  # images per thread; with 8 the system gives and takes back memory for some 5 % of the time
_torchvision_operators: list[torch.library.Library] = []  # kept alive: a library takes its operators with it


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network ready for inference: what it is called, which layers it gives, and whose weights it has.

    Its finest grid has a cell for every `stride` x `stride` pixels. `digest` identifies the weights of the layers in
    use (`weights_digest`), before any folding. The network computes in `dtype`: half precision on a GPU, else single.
    """

    name: str
    layers: tuple[str, ...]
    stride: int
    digest: str
    device: torch.device
    dtype: torch.dtype
    network: nn.Module
    mean: Tensor
    std: Tensor

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Run RGB images (B, 3, H, W) in [0, 1] through the network: per layer a (B, C, H', W') map on `device`.

        On a CPU each thread takes its share of the images, so that none waits for another in every layer, and a few
        of them at a time, so that less memory is asked for.
        """
        if not begin_computing():
            raise InputError(
                "this process was forked from one that had used softpatch, and its threads are gone; "
                "begin workers with the method 'spawn', or use softpatch in them alone"
            )
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or not 1 < threads <= len(images):
            return self._run(images)
        turns = math.ceil(len(images) / (threads * _AT_A_TIME))
        maps = single_threaded_workers().map(self._run, images.tensor_split(threads * turns))
        return [torch.cat(layer) for layer in zip(*maps, strict=True)]

    @torch.inference_mode()
    def _run(self, images: Tensor) -> list[Tensor]:
        images = images.to(self.device, memory_format=torch.channels_last)
        maps: list[Tensor] = self.network((images - self.mean).div_(self.std).to(self.dtype))
        return maps


class _Stages(nn.Module):
    """A timm model cut off after the last layer asked for; calling it gives those layers' maps."""

    def __init__(self, model: Any, indices: Sequence[int]) -> None:
        super().__init__()
        self.model, self.indices = model, list(indices)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=self.indices, intermediates_only=True, stop_early=True
        )
        return maps


def torch_device(name: str) -> torch.device:
    """The device meant by "auto", "cpu" or "cuda": for "auto" a CUDA GPU where there is one.

    Raises `InputError` for "cuda" where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("`device` 'cuda' is not available here; use cpu or auto")
    return torch.device(name)


def load_backbone(
    name: str,
    *,
    layers: Sequence[str] | None = None,
    weights: str = PRETRAINED,
    image_size: int = 224,
    device: torch.device | str = "cpu",
    offline: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Backbone:
    """Build the built-in network, or a timm model up to the last of `layers`, with its weights, ready for inference.

    `layers` are names such as "layer2" (or timm's stage numbers); by default the stages of stride 8 and 16, or for a
    ViT the blocks at one half and three quarters of its depth. `weights` is "pretrained" (those in the package for
    the built-in network; else from the hub, or its local cache when `offline`), a file, or "random" (drawn from
    `seed`). Raises `InputError` for a name, layer or image size the model does not have and `WeightsError` where
    weights are missing or do not fit.
    """
    if name == BUILTIN:
        return _load_builtin(layers, weights, torch.device(device), seed)
    model = _create(name, image_size, seed)
    names = [str(info["module"]) for info in model.feature_info]
    reductions = [int(info["reduction"]) for info in model.feature_info]
    chosen = _choose_layers(name, names, reductions, layers)
    finest = min(reductions[index] for index, _ in chosen)
    indices = [index for index, _ in chosen]
    model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    config = model.pretrained_cfg
    stride = min(reductions)
    if config.get("fixed_input_size") and image_size % stride:  # a ViT may drop the last pixels unasked
        raise InputError(
            f"`backbone` {name!r} takes images of a multiple of {stride} px, not {image_size}; "
            "change `resize`, `crop` or `tile`"
        )
    if weights != RANDOM:
        path = Path(weights)
        if weights == PRETRAINED:
            path = hub_file(name, config.get("hf_hub_id"), offline=offline, progress=progress)
        _load(model, read_weights(path), path)
    stages = _Stages(model, indices).eval().requires_grad_(False)
    digest = weights_digest(_used_state(model))
    example = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        folded = fold_batch_norm(stages, example)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"`backbone` {name!r} cannot take {image_size} px images ({error}); change `resize`, `crop` or `tile`"
        ) from error
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    return _placed(name, tuple(layer for _, layer in chosen), finest, digest, torch.device(device), folded, mean, std)


def _placed(
    name: str,
    layers: tuple[str, ...],
    stride: int,
    digest: str,
    device: torch.device,
    network: nn.Module,
    mean: Tensor,
    std: Tensor,
) -> Backbone:
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    network = network.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Backbone(name, layers, stride, digest, device, dtype, network, mean.to(device), std.to(device))


def _load_builtin(layers: Sequence[str] | None, weights: str, device: torch.device, seed: int) -> Backbone:
    _choose_layers(BUILTIN, [LAYER], [STRIDE], layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BuiltinNetwork().eval().requires_grad_(False)
        if weights == RANDOM:
            for convolution in network.modules():
                if isinstance(convolution, nn.Conv2d):
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if weights != RANDOM:
        path = WEIGHTS_FILE if weights == PRETRAINED else Path(weights)
        _load(network, read_weights(path), path)
    digest = weights_digest(network.state_dict())
    if weights == PRETRAINED and digest != WEIGHTS_DIGEST:
        raise WeightsError(
            f"the weights of backbone {BUILTIN!r} in {WEIGHTS_FILE} were altered; install softpatch anew"
        )
    return _placed(BUILTIN, (LAYER,), STRIDE, digest, device, network, torch.tensor(MEAN), torch.tensor(STD))


def _create(name: str, image_size: int, seed: int) -> Any:
    timm = _import_timm()
    try:
        fixed_size = timm.get_pretrained_cfg(name, allow_unregistered=False).fixed_input_size
        size = {"img_size": image_size} if fixed_size else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = timm.create_model(name, pretrained=False, num_classes=0, **size)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        near = get_close_matches(name, [BUILTIN, *timm.list_models()], n=5)
        hint = f", such as {', '.join(near)}" if near else ""
        raise InputError(
            f"`backbone` {name!r} is neither {BUILTIN} nor a timm model that can be built ({error}){hint}"
        ) from error
    if not hasattr(model, "prune_intermediate_layers"):
        raise InputError(f"`backbone` {name!r} gives no intermediate layers; choose a CNN or ViT that does")
    return model


def _choose_layers(
    name: str, names: list[str], strides: list[int], layers: Sequence[str] | None
) -> list[tuple[int, str]]:
    """Find the layers asked for among all of the network: [(index, name), ...] in its order."""
    if layers is None:
        if len(set(strides)) == 1:
            depth = len(names)
            return [(index, names[index]) for index in sorted({depth // 2 - 1, 3 * depth // 4 - 1})]
        last_of_stride = {stride: index for index, stride in enumerate(strides)}
        wanted = [last_of_stride[stride] for stride in (8, 16) if stride in last_of_stride]
        return [(index, names[index]) for index in wanted or [len(names) - 1]]
    chosen = set()
    for layer in layers:
        if layer in names:
            chosen.add(names.index(layer))
        elif layer.isdecimal() and len(layer) < 4 and int(layer) < len(names):
            chosen.add(int(layer))
        else:
            raise InputError(f"`backbone` {name!r} has no layer {layer!r}; it has {', '.join(names)}")
    if not chosen:
        raise InputError(f"`backbone` {name!r} needs at least one layer; it has {', '.join(names)}")
    return [(index, names[index]) for index in sorted(chosen)]


def _used_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}


def _load(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load strictly what the cut-off model needs; layers beyond it may be in the file or absent from it."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    needed = _used_state(model)
    fits = all(key in state and state[key].shape == value.shape for key, value in needed.items())
    if convert is not None and not fits:
        try:  # timm's own renaming and resampling of foreign or differently sized checkpoints
            state = convert(state, model)
        except Exception as error:
            raise WeightsError(f"weights file {path} does not fit the backbone: {error}") from error
    missing = sorted(needed.keys() - state.keys())
    if missing:
        raise WeightsError(
            f"weights file {path} lacks {len(missing)} of the backbone's {len(needed)} tensors, such as "
            f"{missing[0]!r}; give the weights of this very model"
        )
    for key in needed:
        if state[key].shape != needed[key].shape:
            raise WeightsError(
                f"weights file {path} has {key!r} of shape {tuple(state[key].shape)}, but the backbone needs "
                f"{tuple(needed[key].shape)}; give the weights of this very model"
            )
        if key.endswith("weight") and state[key].ndim > 1 and not state[key].any():
            raise WeightsError(f"weights file {path} has {key!r} of zeros alone, which see nothing; fetch it again")
        if not state[key].isfinite().all():
            raise WeightsError(
                f"weights file {path} has {key!r} with values that are not finite numbers; fetch it again"
            )
    model.load_state_dict({key: state[key] for key in needed}, strict=False)


def _import_timm() -> Any:
    """Import timm, also where torchvision's compiled operators do not load beside a CPU-only torch."""
    try:
        import timm
    except (RuntimeError, ImportError) as error:
        if "torchvision" not in str(error):
            raise
        for module in [module for module in sys.modules if module.split(".")[0] in ("timm", "torchvision")]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _torchvision_operators.append(library)
        import timm
    return timm
