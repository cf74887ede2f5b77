"""Compare a detector's answers with the truth of a dataset."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softpatch.data.framing import Framing
from softpatch.data.images import SkippedImage
from softpatch.data.layouts import Sample
from softpatch.data.paths import holds_record
from softpatch.detector import Detector
from softpatch.errors import InputError
from softpatch.progress import Progress, silent
from softpatch.results import Prediction
from softpatch.scoring.metrics import Metrics, PixelScores, best_f1, metrics_of


@dataclass(frozen=True)
class Kind:
    """The test images of one kind: how many, how many of them were called anomalous, and their mean score.

    `image_auroc` tells them from the good ones, None for the good ones themselves and where there are none.
    """

    kind: str
    images: int
    called_anomalous: int
    mean_score: float
    image_auroc: float | None


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one test set, and what the decision threshold made of it.

    `false_alarms` counts nominal images called anomalous, `missed` anomalous images that were not, of which
    `missed_to_check` have the verdict "check". Of the masks of anomalous images `empty_masks` mark nothing of what is
    looked at, and `full_masks` all of it. Above `best_f1_threshold` F1 would be largest; None where images of one label
    alone are there. `kinds` are those of the test set, "good" first.
    """

    metrics: Metrics
    nominal_images: int
    anomalous_images: int
    images_with_mask: int
    empty_masks: int
    full_masks: int
    skipped_images: int
    threshold: float
    false_alarms: int
    missed: int
    missed_to_check: int
    best_f1_threshold: float | None
    kinds: tuple[Kind, ...]

    def as_dict(self) -> dict[str, Any]:
        """One record, ready for JSON: the metrics by name, then the counts, then a list of `kinds`."""
        values = asdict(self)
        return {**values.pop("metrics"), **values, "kinds": [asdict(kind) for kind in self.kinds]}


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    on_prediction: Callable[[Sample, Prediction], None] | None = None,
    on_skip: Callable[[SkippedImage], None] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Predict the test samples and compute the metrics, maps and masks in the crop's pixels as in the paper.

    An anomalous image without a mask counts for the image metrics only. Each answer goes to `on_prediction` too. Raises
    `InputError` without samples.
    """
    if not samples:
        raise InputError("there are no test images to evaluate on; give a dataset with a test split")
    by_name = {sample.ref.name: sample for sample in samples}
    framing = Framing.of(detector.settings)
    labels, scores, kinds = [], [], []
    pixels = PixelScores()
    masks: Counter[str] = Counter()
    predictions = detector.predict([sample.ref for sample in samples], on_skip=on_skip, progress=progress)
    for prediction in predictions:
        sample = by_name[prediction.path]
        labels.append(sample.is_anomalous)
        scores.append(prediction.image_score)
        kinds.append(sample.kind)
        if on_prediction:
            on_prediction(sample, prediction)
        mask = _mask(sample, framing)
        if mask is not None:
            pixels.add(mask, prediction.anomaly_map)
            masks["known"] += 1
            masks["empty"] += sample.is_anomalous and not mask.any()
            masks["full"] += sample.is_anomalous and bool(mask.all())
    if not labels:
        raise InputError("none of the test images could be read; nothing was measured")
    truth, image_scores = np.array(labels, dtype=bool), np.array(scores, dtype=np.float32)
    called = image_scores > detector.threshold
    return Evaluation(
        metrics=metrics_of(truth, image_scores, pixels),
        nominal_images=int((~truth).sum()),
        anomalous_images=int(truth.sum()),
        images_with_mask=masks["known"],
        empty_masks=masks["empty"],
        full_masks=masks["full"],
        skipped_images=len(samples) - len(labels),
        threshold=detector.threshold,
        false_alarms=int((called & ~truth).sum()),
        missed=int((~called & truth).sum()),
        missed_to_check=int(((image_scores > detector.check_threshold) & ~called & truth).sum()),
        best_f1_threshold=best_f1(truth, image_scores)[1] if truth.any() and not truth.all() else None,
        kinds=_kinds(np.array(kinds), truth, image_scores, called),
    )


def image_scores(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    on_skip: Callable[[SkippedImage], None] | None = None,
    progress: Progress = silent,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """The truth and the image scores of labelled images, (n,) each, without those that cannot be read.

    Raises `InputError` without samples.
    """
    if not samples:
        raise InputError("there are no labelled images; give a folder with good/ and a folder per kind of defect")
    by_name = {sample.ref.name: sample.is_anomalous for sample in samples}
    refs = [sample.ref for sample in samples]
    found = [
        (by_name[answer.path], answer.image_score)
        for answer in detector.predict(refs, on_skip=on_skip, progress=progress)
    ]
    return np.array([label for label, _ in found], dtype=bool), np.array([score for _, score in found], np.float32)


def _kinds(
    names: NDArray[np.str_], truth: NDArray[np.bool_], scores: NDArray[np.float32], called: NDArray[np.bool_]
) -> tuple[Kind, ...]:
    rows = []
    for name in sorted(set(names.tolist()), key=lambda name: (bool(truth[names == name].any()), name)):
        here = names == name
        beside = here | ~truth
        separable = truth[here].all() and not truth[beside].all()
        auroc = metrics_of(truth[beside], scores[beside], PixelScores()).image_auroc if separable else None
        rows.append(Kind(str(name), int(here.sum()), int(called[here].sum()), float(scores[here].mean()), auroc))
    return tuple(rows)


def check_can_replace(path: Path) -> None:
    """Raise `InputError` where a file lies that does not hold the figures of an evaluation."""
    if path.exists() and not holds_record(path, {"image_auroc", "false_alarms"}):
        raise InputError(f"{path} exists and holds no figures of an evaluation; name another file")


def notes(result: Evaluation) -> list[str]:
    """Sentences on what makes figures doubtful: masks that mark nothing, or everything."""
    found = []
    if result.empty_masks:
        found.append(f"{result.empty_masks} masks of defective images mark nothing of what is looked at.")
    if result.full_masks:
        found.append(f"{result.full_masks} masks of defective images mark all of what is looked at.")
    return found


def _mask(sample: Sample, framing: Framing) -> NDArray[np.bool_] | None:
    """The true mask in the crop's pixels: all nominal for a good image, None where it is not known."""
    if not sample.is_anomalous:
        return np.zeros(framing.map_shape, dtype=bool)
    return framing.apply_to_mask(sample.read_mask()).numpy() if sample.mask_paths else None
