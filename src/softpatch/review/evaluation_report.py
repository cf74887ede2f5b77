"""The report on a labelled dataset: one page with what a model makes of it, and what other thresholds would."""

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softpatch.atomic import temporary_prefix
from softpatch.config import Settings
from softpatch.data.images import SkippedImage, as_asked
from softpatch.data.layouts import Dataset, Sample
from softpatch.detector import Detector
from softpatch.errors import ImageError
from softpatch.progress import Progress, silent
from softpatch.results import Prediction
from softpatch.review.charts import ScoreAxis, curve, histogram, score_axis
from softpatch.review.evaluation import Evaluation, evaluate, notes
from softpatch.review.model_info import in_words, model_info
from softpatch.review.page import write_page
from softpatch.review.top_pictures import Picture, TopPictures, picture_of
from softpatch.scoring.labelled import Confusion, confusion, labelled_threshold

_MOST = {"missed": 100, "false_alarms": 100, "found": 6, "passed": 6}
"""Collections of pictures, and of how many images: the likeliest to be judged wrongly, and the clearest."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, why one might choose it, and what it makes of the test images."""

    reason: str
    threshold: float
    counts: Confusion

    @property
    def found(self) -> int:
        """How many defective images are called anomalous."""
        return self.counts.anomalous - self.counts.missed

    @property
    def precision(self) -> float | None:
        """The share of defective images among those called anomalous; None where none is."""
        called = self.found + self.counts.false_alarms
        return self.found / called if called else None

    @property
    def recall(self) -> float | None:
        """The share of defective images that are called anomalous; None where there are none."""
        return self.found / self.counts.anomalous if self.counts.anomalous else None

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 0 where no defective image is found."""
        return 2 * self.found / (self.found + self.counts.anomalous + self.counts.false_alarms) if self.found else 0.0


@dataclass(frozen=True)
class _Judged:
    """The test images: a row for each, pictures by collection with the rows of their images, and how long it took."""

    rows: list[dict[str, Any]]
    cases: dict[str, list[tuple[dict[str, Any], Picture]]]
    skipped: list[SkippedImage]
    seconds: float


def report_evaluation(
    detector: Detector,
    dataset: Dataset,
    path: Path,
    *,
    model: Path,
    on_skip: Callable[[SkippedImage], None] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a detector, read from the file `model`, on a dataset's test images, and write the page at `path`.

    Raises what `evaluate` raises. An image that cannot be read goes to `on_skip` and onto the page, or is an error.
    """
    result, judged = _judge(detector, dataset, on_skip, progress)
    figures, data = _figures(detector, result, judged.rows)
    write_page(
        path,
        "evaluation_report.html",
        styles=("report.css",),
        scripts=("evaluation_report.js",),
        data=data,
        title="Evaluation report",
        model=str(model),
        dataset=str(dataset.root),
        result=result,
        notes=[*dataset.notes, *notes(result)],
        **figures,
        cases=judged.cases,
        skipped=judged.skipped,
        facts=[*in_words(model_info(model)), *_of_this_run(judged.seconds, len(judged.rows))],
        settings=asdict(detector.settings),
    )
    return result


def _judge(
    detector: Detector, dataset: Dataset, on_skip: Callable[[SkippedImage], None] | None, progress: Progress
) -> tuple[Evaluation, _Judged]:
    skipped: list[SkippedImage] = []
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as folder:
        kept = {name: TopPictures(Path(folder, name), most) for name, most in _MOST.items()}

        def keep(sample: Sample, answer: Prediction) -> None:
            rows.append({**answer.as_dict(), "kind": sample.kind, "is_defective": sample.is_anomalous})
            rows[-1]["image_score"] = answer.image_score  # as it was compared, not rounded
            for name, rank in _ranks(sample.is_anomalous, answer.image_score).items():
                kept[name].offer(rank, answer.path, partial(_draw, sample, answer, detector.settings))

        def skip(image: SkippedImage) -> None:
            skipped.append(image)
            if on_skip is not None:
                on_skip(image)

        began = perf_counter()
        result = evaluate(detector, dataset.test, on_prediction=keep, on_skip=on_skip and skip, progress=progress)
        seconds = perf_counter() - began
        by_path = {row["path"]: row for row in rows}
        cases = {
            name: [(by_path[path], picture) for path, picture in pictures.pictures().items()]
            for name, pictures in kept.items()
        }
    return result, _Judged(rows, cases, skipped, seconds)


def _draw(sample: Sample, answer: Prediction, settings: Settings) -> Picture:
    try:
        return picture_of(as_asked([sample.ref], settings)[0].read(), answer)
    except ImageError as error:  # it could be read a moment ago
        raise ImageError(f"{sample.path}: {error}") from error


def _ranks(is_defective: bool, score: float) -> dict[str, float]:
    """The collections of pictures that an image belongs into, and how high it ranks in each."""
    return {"missed": -score, "found": score} if is_defective else {"false_alarms": score, "passed": -score}


def _figures(
    detector: Detector, result: Evaluation, rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page draws and tabulates, and the data by which its script counts anew at another threshold."""
    truth = np.array([row["is_defective"] for row in rows], dtype=bool)
    scores = np.array([row["image_score"] for row in rows], dtype=np.float32)
    axis = score_axis(scores, detector.threshold, detector.check_threshold)
    kinds = {kind.kind: number for number, kind in enumerate(result.kinds)}
    verdicts = Counter((bool(row["is_defective"]), row["verdict"]) for row in rows)
    figures = {
        "check_threshold": detector.check_threshold,
        "verdicts": verdicts,
        "points": list(operating_points(truth, scores, detector.threshold)),
        "histogram": histogram(axis, {"good": scores[~truth]}, {"defective": scores[truth]}),
        "curves": _curves(truth, scores),
    }
    data = {
        **_slider(axis),
        "check_threshold": detector.check_threshold,
        "scores": scores.tolist(),
        "defective": truth.tolist(),
        "kinds": [kinds[row["kind"]] for row in rows],
    }
    return figures, data


def _slider(axis: ScoreAxis) -> dict[str, float]:
    """The steps of the slider: the threshold is number `below` of `below` + `above`, and they are `step` apart."""
    return {"threshold": axis.threshold, "step": axis.step, "below": axis.below, "above": axis.above}


def operating_points(
    truth: NDArray[np.bool_], scores: NDArray[np.float32], threshold: float
) -> Iterator[OperatingPoint]:
    """The model's threshold and others that one might choose, the highest first after the model's.

    `truth` (N,) tells the defective images, `scores` (N,) are their image scores. Where images of one label alone are
    there, nothing but the model's threshold is known.
    """
    yield OperatingPoint("the model's", threshold, confusion(truth, scores, threshold))
    if not truth.any() or truth.all():
        return
    wishes: dict[str, dict[str, float]] = {
        "no false alarm": {"max_false_alarms": 0},
        "at most 1 % false alarms": {"max_false_alarms": 0.01},
        "at most 5 % false alarms": {"max_false_alarms": 0.05},
        "F1 is largest": {},
        "at most 5 % missed": {"max_missed": 0.05},
        "at most 1 % missed": {"max_missed": 0.01},
        "none missed": {"max_missed": 0},
    }
    found = {reason: labelled_threshold(truth, scores, **limits) for reason, limits in wishes.items()}
    for value in sorted(set(found.values()), reverse=True):
        reasons = ", ".join(reason for reason, other in found.items() if other == value)
        yield OperatingPoint(reasons, value, confusion(truth, scores, value))


def _curves(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> dict[str, str] | None:
    """The points of the ROC and of the precision-recall curve; None where images of one label alone are there."""
    if not truth.any() or truth.all():
        return None
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_alarms, found, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores)
    return {"roc": curve(false_alarms, found), "precision_recall": curve(recall[::-1], precision[::-1])}


def _of_this_run(seconds: float, images: int) -> list[tuple[str, str]]:
    import torch

    versions = f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}"
    return [
        ("time", f"{seconds:.1f} s for {images:,} images, {1000 * seconds / images:.0f} ms each, pictures included"),
        ("run with", f"{versions}, {platform.platform()}"),
    ]
