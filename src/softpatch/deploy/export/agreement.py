"""Whether an exported graph answers as its detector does, on images that both are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softpatch.config import Settings
from softpatch.data.images import ImageRef, as_asked, file_ref, some_of
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import is_manifest, open_dataset
from softpatch.deploy.export.graph_file import Run
from softpatch.detector import Detector
from softpatch.errors import InputError
from softpatch.progress import Progress, silent
from softpatch.scoring.metrics import evaluate_scores

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.2}
"""How far scores may be from the detector's, as a share of them, by the precision of a graph."""
_OF_MAPS = 5  # times as far: of patches that the bank holds itself, at distance 0, rounding leaves a little


@dataclass(frozen=True)
class Agreement:
    """How an exported graph and its detector answered the same images.

    `score_deviation` is the largest difference of two image scores as a share of the detector's, `map_deviation` that
    of two anomaly maps as a share of the map threshold, or of the map's highest value if that is more.
    `changed_verdicts` counts images that one calls anomalous and the other does not. The image AUROCs are None where no
    labels are known.
    """

    images: int
    score_deviation: float
    map_deviation: float
    changed_verdicts: int
    image_auroc: float | None
    exported_image_auroc: float | None


def compare(
    detector: Detector,
    run: Run,
    images: Sequence[ImageRef],
    labels: Sequence[bool] | None = None,
    *,
    progress: Progress = silent,
) -> Agreement:
    """Give images to a graph and to its detector. Raises `ImageError` for one that cannot be read."""
    scores, exported, of_map, changed = [], [], [0.0], 0
    pixels = (as_input(ref.read(), detector.settings) for ref in as_asked(images, detector.settings))
    for number, (answer, image) in enumerate(zip(detector.predict(images), pixels, strict=True), 1):
        found = run(image)
        scores.append(answer.image_score)
        exported.append(float(found["pred_score"][0]))
        changed += bool(found["pred_label"][0]) != answer.is_anomalous
        highest = max(float(answer.anomaly_map.max()), answer.map_threshold, 1e-12)
        of_map.append(float(np.abs(found["anomaly_map"][0] - answer.anomaly_map).max()) / highest)
        progress("check", number, len(images))
    python, graph = np.array(scores, np.float32), np.array(exported, np.float32)
    known = None if labels is None else np.array(labels, bool)
    return Agreement(
        len(scores),
        float((np.abs(graph - python) / np.maximum(python, 1e-12)).max(initial=0)),
        max(of_map),
        changed,
        None if known is None else evaluate_scores(known, python).image_auroc,
        None if known is None else evaluate_scores(known, graph).image_auroc,
    )


def training_images(detector: Detector, count: int = 16) -> list[ImageRef]:
    """Some of the images that the detector learned from, as far as they are still there.

    Raises `InputError` where none is.
    """
    paths = [] if detector.record is None else [Path(path) for path in detector.record.paths]
    found = [file_ref(path) for path in paths if path.is_absolute() and path.is_file()]
    if not found:
        raise InputError("the images that the model learned from are not at hand; name some to check with, as `check`")
    return some_of(found, count)


def images_to_check(path: Path, layout: str, category: str | None) -> tuple[list[ImageRef], list[bool] | None]:
    """The images at a path, and which of them are anomalous where it is a dataset that says so of its test images."""
    if path.is_dir() or is_manifest(path):
        test = open_dataset(path, layout=layout, category=category).test
        labels = [sample.is_anomalous for sample in test]
        if len(set(labels)) == 2:
            return [sample.ref for sample in test], labels
    return list(choose_images(path, "predict", layout=layout, category=category).refs), None


def as_input(image: Tensor, settings: Settings) -> NDArray[Any]:
    """An image (3, H, W) in [0, 1] as a graph takes it, (1, H, W, 3): uint8, or float32 in the camera's values."""
    pixels = image.permute(1, 2, 0)[None].contiguous()
    if settings.value_range is None:
        whole: NDArray[Any] = (pixels * 255).round().byte().numpy()
        return whole
    black, white = settings.value_range
    values: NDArray[Any] = (pixels * (white - black) + black).numpy()
    return values


def disagreement(agreement: Agreement, precision: str) -> str | None:
    """How a graph is farther from its detector than `TOLERANCE` allows, in words; None where it is not."""
    for what, times in (("score", 1), ("map", _OF_MAPS)):
        found, allowed = getattr(agreement, f"{what}_deviation"), times * TOLERANCE[precision]
        if not found <= allowed:
            return (
                f"of {agreement.images} images a {what} is off by {found:.2g} of itself, and {allowed:g} is allowed in "
                f"{precision}"
            )
    return None
