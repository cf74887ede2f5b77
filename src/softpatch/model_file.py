"""A fitted detector as one safetensors file: tensors, and a JSON header that says everything else.

The format is described in docs/file-formats.md. Nothing is pickled; the same detector gives the same bytes.
"""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import softpatch
from softpatch.atomic import replacing
from softpatch.config import Settings
from softpatch.detector import Detector, PatchDetector, Reading
from softpatch.errors import InputError, ModelFileError, WeightsError
from softpatch.features.backbone import load_backbone
from softpatch.memory.bank import MemoryBank

FORMAT_VERSION = 1
_HEADER = "softpatch"  # one metadata key only: the order of several is not fixed


def save_detector(detector: Detector, path: Path) -> None:
    """Write a model file, whole or not at all. Raises `InputError` where the folder cannot be written to."""
    patches = detector.patches
    tensors = _bank_tensors("classification", patches.classification)
    if patches.segmentation is not patches.classification:
        tensors |= _bank_tensors("segmentation", patches.segmentation)
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
        "map_threshold": detector.map_threshold,
        "training_images": detector.training_images,
    }
    header["digest"] = _digest(header, tensors)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def load_detector(path: Path, reading: Reading, *, weights: str | None = None) -> Detector:
    """Read a model file and find its backbone again.

    `weights` says where the backbone's weights are now, if not where they were at fit. Raises `ModelFileError` for a
    file that is missing, cut short, altered, of a newer format, or fitted with other weights than those found.
    """
    header, tensors = _read(path)
    try:
        settings = _settings(header["settings"])
        classification = _bank("classification", tensors)
        one_bank = "segmentation.patches" not in tensors
        segmentation = classification if one_bank else _bank("segmentation", tensors)
        rows, columns = header["grid"]
        rest = {key: header[key] for key in ("threshold", "map_threshold", "training_images")}
        digest, layers = header["backbone"]["digest"], tuple(header["backbone"]["layers"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is not a whole softpatch model: its header lacks {error}") from error
    device = reading.torch_device()
    try:
        backbone = load_backbone(
            settings.backbone,
            layers=layers,
            weights=weights or settings.weights,
            image_size=settings.crop,
            device=device,
            offline=reading.offline,
            seed=settings.seed,
        )
    except WeightsError as error:
        raise WeightsError(f"{path} was fitted with weights that are not at hand: {error}") from error
    if backbone.digest != digest:
        raise ModelFileError(
            f"{path} was fitted with other {settings.backbone} weights (digest {digest[:12]}) than those found "
            f"(digest {backbone.digest[:12]}); give the same ones with --weights FILE"
        )
    patches = PatchDetector(classification, segmentation).to(device)
    return Detector(settings, reading, backbone, patches, (rows, columns), **rest)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist; give a model file that `softpatch fit` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _HEADER not in metadata:
                raise ModelFileError(f"{path} is a safetensors file but not a softpatch model")
            header = json.loads(metadata[_HEADER])
            _refuse_newer(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
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
    known = {field.name for field in fields(Settings)}
    if values.keys() != known:
        raise KeyError(", ".join(sorted(known ^ values.keys())))
    try:
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return Settings(**plain)
    except InputError as error:
        raise ValueError(str(error)) from error


def _bank_tensors(name: str, bank: MemoryBank) -> dict[str, Tensor]:
    values = {"patches": bank.patches, "weights": bank.weights, "owners": bank.owners}
    return {f"{name}.{key}": value.cpu().contiguous() for key, value in values.items()}


def _bank(name: str, tensors: dict[str, Tensor]) -> MemoryBank:
    return MemoryBank(*(tensors[f"{name}.{key}"] for key in ("patches", "weights", "owners")))
