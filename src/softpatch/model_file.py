"""A fitted detector as one safetensors file: tensors, and a JSON header that says everything else.

The format is described in docs/reference/formats.md. Nothing is pickled; the same detector gives the same bytes.
"""

import hashlib
import json
from dataclasses import asdict, fields, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import softpatch
from softpatch.atomic import check_can_write, replacing
from softpatch.config import Runtime, Settings
from softpatch.detector import Detector, PatchDetector
from softpatch.errors import InputError, ModelFileError, WeightsError
from softpatch.features.backbone import load_backbone, torch_device
from softpatch.features.embedding import LARGEST
from softpatch.memory.agreement import Contamination
from softpatch.memory.bank import MemoryBank
from softpatch.memory_budget import check_image_memory
from softpatch.passes import embedding_shape
from softpatch.progress import Progress, silent
from softpatch.scoring.threshold import LeftOutScores

FORMAT_VERSION = 1
_HEADER = "softpatch"  # one metadata key only: the order of several is not fixed


def check_can_save(path: Path) -> None:
    """Raise `InputError` where no model can be written, or where a file lies that is not a softpatch model."""
    check_can_write(path)
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            is_model = _HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        is_model = False
    if not is_model:
        raise InputError(f"{path} exists and is not a softpatch model; name another file, or remove it first")


def save_detector(detector: Detector, path: Path) -> None:
    """Write a model file, whole or not at all. Raises `InputError` as `check_can_save` does."""
    check_can_save(path)
    banks = detector.banks
    tensors = _bank_tensors("classification", banks.classification)
    if banks.segmentation.patches is not banks.classification.patches:
        tensors |= _bank_tensors("segmentation", banks.segmentation)
    elif banks.segmentation is not banks.classification:
        tensors["segmentation.radii"] = banks.segmentation.radii.cpu()
    if detector.left_out is not None:
        tensors["left_out.image_scores"] = detector.left_out.image_scores.contiguous()
        tensors["left_out.map_peaks"] = detector.left_out.map_peaks.contiguous()
    header = {
        "format_version": FORMAT_VERSION,
        "package_version": softpatch.__version__,
        "settings": asdict(detector.settings),
        "backbone": {
            "name": detector.backbone.name,
            "layers": detector.backbone.layers,
            "digest": detector.backbone.digest,
        },
        "grid": detector.grid,
        "threshold": detector.threshold,
        "check_threshold": detector.check_threshold,
        "map_threshold": detector.map_threshold,
        "training_images": detector.training_images,
        "copies": detector.copies,
        "contamination": None if detector.contamination is None else asdict(detector.contamination),
    }
    header["digest"] = _digest(header, tensors)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={_HEADER: json.dumps(header, sort_keys=True)}))


def load_detector(path: Path, runtime: Runtime, *, weights: str | None = None, progress: Progress = silent) -> Detector:
    """Read a model file and find its backbone again.

    `weights` says where the backbone's weights are now, if not where they were at fit. Raises `ModelFileError` for a
    file that is missing, cut short, altered, of a newer format, or fitted with other weights than those found.
    """
    header, tensors = _read(path)
    try:
        settings = _settings(header["settings"])
        name, layers, digest = _backbone(header["backbone"])
        if name != settings.backbone:
            raise ValueError(f"its backbone is {name!r} in one place and {settings.backbone!r} in another")
        classification = _bank("classification", tensors)
        segmentation = classification
        if "segmentation.patches" in tensors:
            segmentation = _bank("segmentation", tensors)
        elif "segmentation.radii" in tensors:
            radii = _radii("segmentation", tensors, classification.weights)
            segmentation = classification.with_radii(radii)
        if classification.patches.shape[1] != segmentation.patches.shape[1]:
            raise ValueError("its two banks hold embeddings of different sizes")
        rows, columns = (_whole(side, "grid") for side in header["grid"])
        threshold = _number(header["threshold"], "threshold")
        check_threshold = _number(header.get("check_threshold", threshold), "check_threshold")
        map_threshold = _number(header["map_threshold"], "map_threshold")
        training_images, copies = (_whole(header[name], name) for name in ("training_images", "copies"))
        contamination = _contamination(header.get("contamination"))
        left_out = _left_out_scores(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{path} is not a sensible softpatch model: {error}; fit anew") from error
    device = torch_device(runtime.device)
    check_image_memory(settings, runtime, device, beside=2 * path.stat().st_size)
    try:
        backbone = load_backbone(
            name,
            layers=layers,
            weights=weights or settings.weights,
            image_size=settings.crop,
            device=device,
            offline=runtime.offline,
            seed=settings.seed,
            progress=progress,
        )
    except WeightsError as error:
        raise WeightsError(f"{path} was fitted with weights that are not at hand: {error}") from error
    if backbone.digest != digest:
        raise ModelFileError(
            f"{path} was fitted with other {settings.backbone} weights (digest {digest[:12]}) than those found "
            f"(digest {backbone.digest[:12]}); give the same ones with --weights FILE"
        )
    banks = PatchDetector(classification, segmentation).to(device)
    if embedding_shape(backbone, settings) != ((rows, columns), classification.patches.shape[1]):
        raise ModelFileError(f"{path} holds a bank or a grid that does not belong to its backbone {name!r}; fit anew")
    answers = (threshold, check_threshold, map_threshold, training_images, copies, contamination, left_out)
    return Detector(settings, runtime, backbone, banks, (rows, columns), *answers)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        if path.is_dir():
            raise ModelFileError(
                f"{path} is a folder; first comes the model file that `softpatch fit` wrote, then images"
            )
        if not path.is_file():
            raise ModelFileError(f"{path} does not exist; give a model file that `softpatch fit` wrote")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _HEADER not in metadata:
                raise ModelFileError(f"{path} is a safetensors file but not a softpatch model")
            header = json.loads(metadata[_HEADER])
            _refuse_newer(path, header)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path} is cut short or not a model file ({error}); copy it again or fit anew") from error
    if header.pop("digest", None) != _digest(header, tensors):
        raise ModelFileError(f"{path} was altered after it was written; copy it again or fit anew")
    return header, tensors


def _refuse_newer(path: Path, header: Any) -> None:
    version = header.get("format_version") if isinstance(header, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ModelFileError(f"{path} has format version {version!r}; this softpatch reads 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version}, newer than the {FORMAT_VERSION} that this softpatch reads; "
            "upgrade softpatch"
        )


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _settings(values: dict[str, Any]) -> Settings:
    """The settings of a header. One that is absent is younger than the file and has its default value.

    A setting whose default does not do what was done before it existed needs a new `FORMAT_VERSION`.
    """
    unknown = values.keys() - {field.name for field in fields(Settings)}
    if unknown:
        raise KeyError(", ".join(sorted(unknown)))
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Settings(**plain)


def _backbone(values: dict[str, Any]) -> tuple[str, tuple[str, ...], str]:
    name, layers, digest = values["name"], tuple(values["layers"]), values["digest"]
    if not all(isinstance(value, str) for value in (name, *layers, digest)):
        raise ValueError(f"backbone is {values!r}")
    return name, layers, digest


def _bank_tensors(name: str, bank: MemoryBank) -> dict[str, Tensor]:
    values = {"patches": bank.patches, "weights": bank.weights, "owners": bank.owners}
    if bank.radii.any():
        values["radii"] = bank.radii
    return {f"{name}.{key}": value.cpu().contiguous() for key, value in values.items()}


def _bank(name: str, tensors: dict[str, Tensor]) -> MemoryBank:
    patches, weights, owners = (tensors[f"{name}.{key}"] for key in ("patches", "weights", "owners"))
    bank = MemoryBank(patches, weights, owners, torch.zeros_like(weights))
    size = (len(bank.patches),)
    if bank.patches.ndim != 2 or bank.weights.shape != size or bank.owners.shape != size or not bank.patches.numel():
        raise ValueError(f"the tensors of its {name} bank do not belong together")
    if (bank.patches.dtype, bank.weights.dtype, bank.owners.dtype) != (torch.float16, torch.float32, torch.int64):
        raise ValueError(f"the tensors of its {name} bank are not float16, float32 and int64")
    if not (bank.patches.abs().max() < LARGEST and bank.weights.max() < LARGEST):
        raise ValueError(f"its {name} bank holds values that are not finite numbers, or absurdly large")
    if bank.weights.min() < 0 or bank.owners.min() < 0:
        raise ValueError(f"its {name} bank holds negative weights or image numbers")
    return replace(bank, radii=_radii(name, tensors, weights))


def _contamination(values: dict[str, Any] | None) -> Contamination | None:
    if values is None:
        return None
    contamination = Contamination(*(float(values[name]) for name in ("estimate", "low", "high")))
    if not 0 <= contamination.low <= contamination.estimate <= contamination.high <= 1:
        raise ValueError(f"contamination is {values!r}")
    return contamination


def _left_out_scores(tensors: dict[str, Tensor]) -> LeftOutScores | None:
    """None in a file that has none: it is older."""
    if not any(name.startswith("left_out.") for name in tensors):
        return None
    scores = LeftOutScores(tensors["left_out.image_scores"], tensors["left_out.map_peaks"])
    for each in (scores.image_scores, scores.map_peaks):
        if each.dtype != torch.float32 or each.ndim != 1 or not len(each) or not bool((each >= 0).all()):
            raise ValueError("its left-out scores are not float32 numbers from 0 on")
    return scores


def _radii(name: str, tensors: dict[str, Tensor], weights: Tensor) -> Tensor:
    """The support radii of a bank, 0 where its file has none."""
    radii = tensors.get(f"{name}.radii", torch.zeros_like(weights))
    if radii.dtype != torch.float32 or radii.shape != weights.shape or not (radii.min() >= 0 and radii.max() < LARGEST):
        raise ValueError(f"the support radii of its {name} bank are not numbers from 0 on, one for each patch")
    return radii


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
        raise ValueError(f"{name} is {value!r}")
    return float(value)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"{name} is {value!r}")
    return value
