"""A fitted detector as one safetensors file: tensors, and a JSON header that says everything else.

The format is described in docs/reference/formats.md. Nothing is pickled; `stored_model.py` reads and checks it. The
same detector gives the same bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

import softpatch
from softpatch.atomic import replacing
from softpatch.config import Runtime
from softpatch.detector import Detector
from softpatch.errors import ModelFileError, WeightsError
from softpatch.features.backbone import load_backbone, torch_device
from softpatch.features.tiles import embedding_shape
from softpatch.memory.bank import MemoryBank
from softpatch.memory_budget import check_image_memory
from softpatch.patch_detector import PatchDetector
from softpatch.progress import Progress, silent
from softpatch.scoring.threshold import LeftOutScores
from softpatch.stored_model import (
    FORMAT_VERSION,
    HEADER,
    StoredBank,
    StoredModel,
    StoredScores,
    check_can_save,
    contents_digest,
    read_model,
)
from softpatch.training_record import stored_record


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
        if detector.left_out.map_quartiles is not None:
            tensors["left_out.map_quartiles"] = detector.left_out.map_quartiles.contiguous()
    if banks.known_bad is not None:
        tensors["known_bad.patches"] = banks.known_bad.cpu().contiguous()
    record = None
    if detector.record is not None:
        record, digests = stored_record(detector.record)
        tensors["record.digests"] = torch.from_numpy(digests.copy())
    header = {
        "format_version": 1 if banks.known_bad is None else FORMAT_VERSION,
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
        "record": record,
    }
    header["digest"] = contents_digest(header, {name: tensor.numpy() for name, tensor in tensors.items()})
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={HEADER: json.dumps(header, sort_keys=True)}))


def load_detector(path: Path, runtime: Runtime, *, weights: str | None = None, progress: Progress = silent) -> Detector:
    """Read a model file and find its backbone again.

    `weights` says where the backbone's weights are now, if not where they were at fit. Raises `ModelFileError` for a
    file that is missing, cut short, altered, of a newer format, or fitted with other weights than those found.
    """
    stored = read_model(path)
    settings = stored.settings
    device = torch_device(runtime.device)
    check_image_memory(settings, runtime, device, beside=2 * path.stat().st_size)
    try:
        backbone = load_backbone(
            stored.backbone,
            layers=stored.layers,
            weights=weights or settings.weights,
            image_size=settings.network_side,
            device=device,
            offline=runtime.offline,
            seed=settings.seed,
            progress=progress,
        )
    except WeightsError as error:
        raise WeightsError(f"{path} was fitted with weights that are not at hand: {error}") from error
    if backbone.digest != stored.weights_digest:
        raise ModelFileError(
            f"{path} was fitted with other {settings.backbone} weights (digest {stored.weights_digest[:12]}) than "
            f"those found (digest {backbone.digest[:12]}); give the same ones as `weights`"
        )
    banks = _banks(stored).to(device)
    if embedding_shape(backbone, settings) != (stored.grid, stored.classification.patches.shape[1]):
        raise ModelFileError(
            f"{path} holds a bank or a grid that does not belong to its backbone {stored.backbone!r}; fit anew"
        )
    return Detector(
        settings,
        runtime,
        backbone,
        banks,
        stored.grid,
        threshold=stored.threshold,
        check_threshold=stored.check_threshold,
        map_threshold=stored.map_threshold,
        training_images=stored.training_images,
        copies=stored.copies,
        contamination=stored.contamination,
        left_out=_left_out(stored.left_out),
        record=stored.record,
    )


def _banks(stored: StoredModel) -> PatchDetector:
    classification = MemoryBank(*_tensors(stored.classification))
    segmentation = classification
    if stored.segmentation.patches is not stored.classification.patches:
        segmentation = MemoryBank(*_tensors(stored.segmentation))
    elif stored.segmentation is not stored.classification:
        segmentation = classification.with_radii(torch.from_numpy(stored.segmentation.radii))
    known_bad = None if stored.known_bad is None else torch.from_numpy(stored.known_bad)
    return PatchDetector(classification, segmentation, known_bad)


def _left_out(scores: StoredScores | None) -> LeftOutScores | None:
    if scores is None:
        return None
    quartiles = None if scores.map_quartiles is None else torch.from_numpy(scores.map_quartiles)
    return LeftOutScores(torch.from_numpy(scores.image_scores), torch.from_numpy(scores.map_peaks), quartiles)


def _tensors(record: StoredBank) -> Iterator[Tensor]:
    return (torch.from_numpy(getattr(record, field.name)) for field in fields(record))


def _bank_tensors(name: str, bank: MemoryBank) -> dict[str, Tensor]:
    values = {"patches": bank.patches, "weights": bank.weights, "owners": bank.owners}
    if bank.radii.any():
        values["radii"] = bank.radii
    return {f"{name}.{key}": value.cpu().contiguous() for key, value in values.items()}
