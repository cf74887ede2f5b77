"""What a model file holds, read and checked: all but the backbone, whose weights are not in it.

The format is described in docs/reference/formats.md. Nothing is unpickled, and nothing slow is imported.
"""

import hashlib
import json
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from softpatch.atomic import check_can_write
from softpatch.config import LARGEST, Settings
from softpatch.data.paths import check_model_exists
from softpatch.errors import InputError, ModelFileError
from softpatch.memory.estimate import Contamination
from softpatch.training_record import TrainingRecord, checked_record

FORMAT_VERSION = 2
"""The newest that is read. Written is 2 where patches are known to be bad, which older versions would not know of, and
else 1."""
HEADER = "softpatch"  # one metadata key only: the order of several is not fixed


@dataclass(frozen=True, eq=False)
class StoredBank:
    """A memory bank: `patches` (M, D) float16, and for each its soft weight, training image and support radius (M,)."""

    patches: NDArray[np.float16]
    weights: NDArray[np.float32]
    owners: NDArray[np.int64]
    radii: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StoredScores:
    """Left-out image scores, map peaks and map quartiles of training images, (n,) float32 each."""

    image_scores: NDArray[np.float32]
    map_peaks: NDArray[np.float32]
    map_quartiles: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model file's contents; what each means is said of `Detector`.

    `segmentation` is `classification` itself where one bank does for both. `known_bad` are embeddings (B, D).
    `package_version` is the softpatch that wrote the file.
    """

    format_version: int
    package_version: str
    settings: Settings
    backbone: str
    layers: tuple[str, ...]
    weights_digest: str
    grid: tuple[int, int]
    threshold: float
    check_threshold: float
    map_threshold: float
    training_images: int
    copies: int
    contamination: Contamination | None
    classification: StoredBank
    segmentation: StoredBank
    known_bad: NDArray[np.float16] | None
    left_out: StoredScores | None
    record: TrainingRecord | None


def check_can_save(path: Path) -> None:
    """Raise `InputError` where no model can be written, or where a file lies that is not a softpatch model."""
    check_can_write(path)
    if not path.exists():
        return
    try:
        with safe_open(path, framework="np") as file:
            is_model = HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        is_model = False
    if not is_model:
        raise InputError(f"{path} exists and is not a softpatch model; name another file, or remove it first")


def read_model(path: Path) -> StoredModel:
    """Read and check a model file.

    Raises `ModelFileError` for one that is missing, cut short, altered, of a newer format or senseless.
    """
    header, tensors = _read(path)
    try:
        settings = _settings(header["settings"])
        name, layers, weights_digest = _backbone(header["backbone"])
        if name != settings.backbone:
            raise ValueError(f"its backbone is {name!r} in one place and {settings.backbone!r} in another")
        classification = _bank("classification", tensors)
        segmentation = classification
        if "segmentation.patches" in tensors:
            segmentation = _bank("segmentation", tensors)
        elif "segmentation.radii" in tensors:
            segmentation = replace(classification, radii=_radii("segmentation", tensors, classification.weights))
        if classification.patches.shape[1] != segmentation.patches.shape[1]:
            raise ValueError("its two banks hold embeddings of different sizes")
        rows, columns = (_whole(side, "grid") for side in header["grid"])
        images, copies = (_whole(header[name], name) for name in ("training_images", "copies"))
        if max(classification.owners.max(), segmentation.owners.max()) >= images:
            raise ValueError("its banks hold patches of images that it did not learn from")
        left_out = _left_out_scores(tensors)
        threshold = _number(header["threshold"], "threshold")
        return StoredModel(
            format_version=header["format_version"],
            package_version=str(header.get("package_version", "unknown")),
            settings=settings,
            backbone=name,
            layers=layers,
            weights_digest=weights_digest,
            grid=(rows, columns),
            threshold=threshold,
            check_threshold=_number(header.get("check_threshold", threshold), "check_threshold"),
            map_threshold=_number(header["map_threshold"], "map_threshold"),
            training_images=images,
            copies=copies,
            contamination=_contamination(header.get("contamination")),
            classification=classification,
            segmentation=segmentation,
            known_bad=_known_bad(tensors, classification.patches.shape[1]),
            left_out=left_out,
            record=_record(header, tensors, images=images, copies=copies, left_out=left_out),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{path} is not a sensible softpatch model: {error}; fit anew") from error


def contents_digest(header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """SHA-256, as hex, of a header without its `digest`, and of all tensors."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} torch.{value.dtype} {value.shape}".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    check_model_exists(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if HEADER not in metadata:
                raise ModelFileError(f"{path} is a safetensors file but not a softpatch model")
            header = json.loads(metadata[HEADER])
            _refuse_newer(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        same = header.pop("digest", None) == contents_digest(header, tensors)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{path} is cut short or not a model file ({error}); copy it again or fit anew") from error
    if not same:
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


def _bank(name: str, tensors: dict[str, NDArray[Any]]) -> StoredBank:
    patches, weights, owners = (tensors[f"{name}.{key}"] for key in ("patches", "weights", "owners"))
    size = (len(patches),)
    if patches.ndim != 2 or weights.shape != size or owners.shape != size or not patches.size:
        raise ValueError(f"the tensors of its {name} bank do not belong together")
    if [each.dtype.name for each in (patches, weights, owners)] != ["float16", "float32", "int64"]:
        raise ValueError(f"the tensors of its {name} bank are not float16, float32 and int64")
    if not (max(patches.max(), -patches.min()) < LARGEST and weights.max() < LARGEST):
        raise ValueError(f"its {name} bank holds values that are not finite numbers, or absurdly large")
    if weights.min() < 0 or owners.min() < 0:
        raise ValueError(f"its {name} bank holds negative weights or image numbers")
    return StoredBank(patches, weights, owners, _radii(name, tensors, weights))


def _radii(name: str, tensors: dict[str, NDArray[Any]], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The support radii of a bank, 0 where its file has none."""
    radii = tensors.get(f"{name}.radii", np.zeros_like(weights))
    if radii.dtype != np.float32 or radii.shape != weights.shape or not (radii.min() >= 0 and radii.max() < LARGEST):
        raise ValueError(f"the support radii of its {name} bank are not numbers from 0 on, one for each patch")
    return radii


def _known_bad(tensors: dict[str, NDArray[Any]], dim: int) -> NDArray[np.float16] | None:
    """None where nobody rejected an image."""
    patches = tensors.get("known_bad.patches")
    if patches is None:
        return None
    if patches.dtype != np.float16 or patches.ndim != 2 or patches.shape[1] != dim or not len(patches):
        raise ValueError("its patches that are known to be bad are not embeddings like those of its banks")
    if not max(patches.max(), -patches.min()) < LARGEST:
        raise ValueError("its patches that are known to be bad are not finite numbers, or absurdly large")
    return patches


def _contamination(values: dict[str, Any] | None) -> Contamination | None:
    if values is None:
        return None
    estimate, low, high = (float(values[name]) for name in ("estimate", "low", "high"))
    if not 0 <= low <= estimate <= high <= 1:
        raise ValueError(f"contamination is {values!r}")
    return Contamination(estimate, low, high)


def _left_out_scores(tensors: dict[str, NDArray[Any]]) -> StoredScores | None:
    """None in a file that has none: it is older. Older ones that have some have no map quartiles."""
    if not any(name.startswith("left_out.") for name in tensors):
        return None
    quartiles = tensors.get("left_out.map_quartiles")
    scores = StoredScores(tensors["left_out.image_scores"], tensors["left_out.map_peaks"], quartiles)
    for each in (scores.image_scores, scores.map_peaks, *(() if quartiles is None else (quartiles,))):
        if each.dtype != np.float32 or each.ndim != 1 or not len(each) or not bool((each >= 0).all()):
            raise ValueError("its left-out scores are not float32 numbers from 0 on")
        if len(each) != len(scores.image_scores):
            raise ValueError("its left-out scores of images and of maps are not as many")
    return scores


def _record(
    header: dict[str, Any], tensors: dict[str, NDArray[Any]], *, images: int, copies: int, left_out: StoredScores | None
) -> TrainingRecord | None:
    """None in a file that has none: it is older."""
    values = header.get("record")
    if values is None:
        return None
    scores = 0 if left_out is None else len(left_out.image_scores)
    return checked_record(values, tensors["record.digests"], images=images, copies=copies, scores=scores)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
        raise ValueError(f"{name} is {value!r}")
    return float(value)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"{name} is {value!r}")
    return value
