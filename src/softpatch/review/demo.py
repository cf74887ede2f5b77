"""The demo: why a contaminated training folder matters, on a product that softpatch draws itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from softpatch.atomic import replacing
from softpatch.config import DEFAULT_PRESET, preset_settings
from softpatch.data.demo import TRUTH_TABLE, write_demo_dataset
from softpatch.data.layouts import Sample, open_dataset
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch
from softpatch.progress import Progress, silent
from softpatch.results import Prediction
from softpatch.review.evaluation import Evaluation, evaluate
from softpatch.review.outputs import write_outputs
from softpatch.review.pictures import colour_scale, tint
from softpatch.review.run import Run, running

_METHODS = {"patchcore": "PatchCore", DEFAULT_PRESET: "softpatch"}
_PICTURE = "why-noise-matters.png"


def run_demo(folder: Path, *, seed: int = 0, progress: Progress = silent) -> list[str]:
    """Make a contaminated dataset in `folder`, fit and evaluate PatchCore and our default, and draw the difference.

    Leaves `images/`, a model per method, the predictions and overlays of the latter, and one picture that compares
    the two. Returns the lines to tell the user. Raises `InputError` for a `folder` that holds anything but an earlier
    demo.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "images" / TRUTH_TABLE).is_file():
        raise InputError(f"{folder} holds other files; name a new folder for the demo")
    preset_settings(DEFAULT_PRESET, {"seed": seed})  # a seed out of range is told of before the pictures are drawn
    dataset = open_dataset(write_demo_dataset(folder / "images", seed=seed), layout="mvtec")
    refs = [sample.ref for sample in dataset.test]
    evaluations: dict[str, Evaluation] = {}
    predictions: dict[str, list[Prediction]] = {}
    for preset in _METHODS:
        detector = SoftPatch(preset=preset, seed=seed)
        detector.fit([sample.ref for sample in dataset.train], progress=progress)
        detector.save(folder / f"{preset}.safetensors")
        evaluations[preset] = evaluate(detector.detector, dataset.test, progress=progress)
        predictions[preset] = detector.predict(refs, progress=progress)
    run = Run.of(refs, overlays="side-by-side")
    with running(folder, run, refs, "replace") as unfinished:
        write_outputs(predictions[DEFAULT_PRESET], refs, run, unfinished)
    draw_comparison(dataset.test, predictions, evaluations, folder / _PICTURE)
    return [
        f"{len(dataset.train)} training images, of which nobody knows which are defective.",
        *(
            f"  {name:10}  image AUROC {result.metrics.image_auroc:.3f}  pixel AUROC {result.metrics.pixel_auroc:.3f}  "
            f"missed {result.missed} of {result.anomalous_images} defective  "
            f"false alarms {result.false_alarms} of {result.nominal_images} good"
            for name, result in ((_METHODS[preset], evaluations[preset]) for preset in _METHODS)
        ),
        f"Look at {folder / _PICTURE}, {folder / 'predictions.csv'} and {folder / 'overlays'}.",
    ]


def draw_comparison(
    samples: Sequence[Sample],
    predictions: dict[str, list[Prediction]],
    evaluations: dict[str, Evaluation],
    path: Path,
) -> None:
    """Draw a row per kind of defect: the image, its true outline, and each method's heat map, as PNG.

    Colours mark the highest 3 % of each method's own scores over all test images.
    """
    from matplotlib.figure import Figure

    first_of_kind = {
        sample.kind: number for number, sample in reversed(list(enumerate(samples))) if sample.is_anomalous
    }
    rows = sorted(first_of_kind.values())
    scales = {
        preset: colour_scale([answer.anomaly_map for answer in answers]) for preset, answers in predictions.items()
    }
    figure = Figure(figsize=(2.3 * (2 + len(predictions)), 2.35 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), 2 + len(predictions), squeeze=False)
    for row, number in zip(axes, rows, strict=True):
        sample = samples[number]
        image = sample.ref.read()
        grey = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
        row[0].imshow(_pixels(image))
        row[0].set_ylabel(sample.kind.replace("_", " "), fontsize=11)
        row[1].imshow(_pixels(grey))
        row[1].contour(sample.read_mask().numpy(), levels=[0.5], colors=["#00b050"], linewidths=1.5)
        for axis, (preset, answers) in zip(row[2:], predictions.items(), strict=True):
            low, high = scales[preset]
            heat = np.nan_to_num(answers[number].map_at_original_size())
            axis.imshow(tint(grey, (heat - low) / (high - low)))
    titles = ["test image", "where the defect is"]
    for preset in predictions:
        found = evaluations[preset].metrics
        titles.append(f"{_METHODS[preset]}\nimage AUROC {found.image_auroc:.3f}\npixel AUROC {found.pixel_auroc:.3f}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(
        "Both learned from the same unsorted folder, partly defective; coloured: each one's highest 3 % of scores",
        fontsize=12,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()
