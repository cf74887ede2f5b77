"""Write a detector as a graph that other programs run, where it says what the detector says.

The graph is run on real images before anything is moved to where it was asked for. Beside it lies `model.json`, which
says what goes in and what comes out.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

import softpatch
from softpatch.atomic import check_can_write, move_together, temporary_prefix
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, as_asked, readable, some_of
from softpatch.data.paths import file_digest, holds_record
from softpatch.deploy.export.agreement import Agreement, as_input, compare, disagreement, training_images
from softpatch.deploy.export.graph import check_can_export
from softpatch.deploy.export.graph_file import FILES, IR_VERSIONS, OPSET, QUANTISED, load_graph, needed, write_graph
from softpatch.detector import Detector
from softpatch.errors import ExportError, InputError
from softpatch.progress import Progress, silent

DESCRIPTION = "model.json"
_SAMPLES = 32  # images from which the ranges of 8 bits are taken


def export_detector(
    detector: Detector,
    folder: Path,
    *,
    file_format: str = "onnx",
    precision: str = "fp32",
    images: Sequence[ImageRef] | None = None,
    labels: Sequence[bool] | None = None,
    model_digest: str | None = None,
    on_note: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> Agreement:
    """Write the graph and its description into a folder, and say how it agrees with the detector on images.

    Without `images` some are taken that the detector learned from. `labels` say which of the images are anomalous, if
    that is known; `model_digest` is that of the model file. What a user should know goes to `on_note`, in a sentence.
    Raises `InputError` where the detector cannot be exported, images are not at hand, an extra is missing or the folder
    holds a graph of another format, and `ExportError` where the graph cannot be made or does not agree within
    `TOLERANCE`; then nothing is written.
    """
    check_can_export(detector)
    needed(file_format)
    _check_folder(folder, file_format)
    images = training_images(detector) if images is None else images
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=temporary_prefix(), dir=folder) as work:
        place = Path(work)
        parts = QUANTISED if precision == "int8" else ((),)
        samples = _samples(detector, images) if precision == "int8" else []
        for quantised in parts:
            progress("graph", 0, 1)
            path = write_graph(detector, file_format, precision, place, samples, quantised)
            progress("graph", 1, 1)
            agreement = compare(detector, load_graph(path), images, labels, progress=progress)
            wrong = disagreement(agreement, precision)
            if wrong is None:
                break
            if quantised == parts[-1]:
                raise ExportError(f"the exported graph does not agree with the model: {wrong}; nothing was written")
            if on_note:
                on_note(f"the network does not bear 8 bits, {wrong}; it keeps 32, and the search alone gets 8")
        files = [Path(name) for name in FILES[file_format]]
        description = describe(detector, file_format, precision, quantised, agreement, model_digest)
        description["files"] = {name.name: file_digest(place / name) for name in files}
        (place / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        move_together(place, [*files, Path(DESCRIPTION)], folder)
    return agreement


def describe(
    detector: Detector,
    file_format: str,
    precision: str,
    quantised: Sequence[str],
    agreement: Agreement,
    model_digest: str | None,
) -> dict[str, Any]:
    """What `model.json` says: inputs, outputs, thresholds, framing, and how the graph was checked."""
    settings = detector.settings
    framing = Framing.of(settings)
    rows, columns = framing.map_shape
    optional = file_format == "onnx"
    image = {
        "name": "image",
        "shape": ["n", "height", "width", 3],
        "dtype": "uint8" if settings.value_range is None else "float32",
        "meaning": "RGB images of any size, all of a batch the same; of a grey image three times the same"
        + ("" if settings.value_range is None else ", in the values that the camera gives"),
    }
    thresholds = [
        {"name": name, "shape": [], "dtype": "float32", "default": value, "optional": True}
        for name, value in (("threshold", detector.threshold), ("map_threshold", detector.map_threshold))
    ]
    return {
        "softpatch": softpatch.__version__,
        "format": file_format,
        "precision": precision,
        "quantised": list(quantised),
        "ir_version": IR_VERSIONS[file_format],
        "opset": OPSET if optional else None,
        "model_digest": model_digest,
        "inputs": [image, *(thresholds if optional else [])],
        "outputs": [
            {
                "name": "pred_score",
                "shape": ["n"],
                "dtype": "float32",
                "meaning": "0 or more; higher is more anomalous",
            },
            {"name": "pred_label", "shape": ["n"], "dtype": "bool", "meaning": "whether pred_score exceeds threshold"},
            {"name": "anomaly_map", "shape": ["n", rows, columns], "dtype": "float32"},
            {
                "name": "pred_mask",
                "shape": ["n", rows, columns],
                "dtype": "bool",
                "meaning": "of anomalous images, where the map exceeds map_threshold, and the patch of the score",
            },
        ],
        "thresholds": {
            "threshold": detector.threshold,
            "check_threshold": detector.check_threshold,
            "map_threshold": detector.map_threshold,
        },
        "framing": {
            "meaning": "an image becomes size (width, height), of which the map covers crop, margin from left and top",
            "size": framing.size,
            "crop": framing.crop,
            "margin": framing.margin,
            "pixels_per_map_pixel": framing.step,
        },
        "value_range": settings.value_range,
        "channels": settings.channels,
        "region_of_interest": settings.roi is not None,
        "tiles": None if settings.tile is None else {"side": settings.network_side, "overlap": settings.tile_overlap},
        "inference_precision": "f32; OpenVINO takes bfloat16 unless it is told INFERENCE_PRECISION_HINT=f32",
        "check": asdict(agreement),
    }


def _check_folder(folder: Path, file_format: str) -> None:
    """Raise `InputError` where a graph cannot be written into a folder, or would replace what is none of its kind.

    What killed exports left there is removed.
    """
    check_can_write(folder / DESCRIPTION)
    description = folder / DESCRIPTION
    if description.exists() and not holds_record(description, {"softpatch", "format", "precision"}):
        raise InputError(f"{description} exists and describes no exported model; choose another folder")
    others = [name for other, names in FILES.items() if other != file_format for name in names]
    found = next((name for name in others if (folder / name).exists()), None)
    if found is not None:
        raise InputError(f"{folder} holds {found}, a graph of another format; choose another folder")


def _samples(detector: Detector, images: Sequence[ImageRef]) -> list[NDArray[Any]]:
    """Images that the ranges of 8 bits are taken from: training images, or the given ones if those are gone."""
    try:
        chosen = training_images(detector, _SAMPLES)
    except InputError:
        chosen = some_of(images, _SAMPLES)
    return [as_input(image, detector.settings) for image in readable(as_asked(chosen, detector.settings))]
