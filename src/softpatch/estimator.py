"""The estimator that most Python users need: explicit settings, `fit`, `predict`, `save`, `load`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softpatch.changes import add_images, numbers_of, record_of, refit, remove_images
from softpatch.config import DEFAULT_PRESET, Runtime, Settings, preset_settings, resolve_weights
from softpatch.data.decisions import NO_DECISIONS, Decision, decisions_for, read_decisions
from softpatch.data.folder import PassedOver
from softpatch.data.images import SkippedImage, with_channels
from softpatch.data.inputs import Images, choose_images, is_one_image
from softpatch.data.roi import check_roi_size, resolve_roi
from softpatch.detector import Detector
from softpatch.errors import InputError, SoftPatchError
from softpatch.model_file import load_detector, save_detector
from softpatch.progress import Progress, silent
from softpatch.results import Prediction
from softpatch.scoring.drift import Drift

_LOWEST_THRESHOLD = 1e-6  # that stays a number above 0 in a model file, in proportion for maps too


class SoftPatch:
    """Anomaly detector that learns from an unlabelled folder of which some images are defective.

    Every setting that is not given keeps the value of the `preset`: "agreement" (the default), "softpatch+",
    "softpatch" or "patchcore". `softpatch.config.Settings` says what each means. `device` is "auto", "cpu" or "cuda";
    `batch_size` and `workers` (reading threads) change speed and memory only, as does `memory_budget`, within which
    `fit` stays; with `offline` no network is tried.

    Raises `InputError` for a value out of its range.

    >>> detector = SoftPatch(false_alarm_rate=0.02)
    >>> detector.settings.discard_rule
    'agreement'
    """

    _detector: Detector | None = None
    _roi_size: tuple[int, int] | None = None

    def __init__(
        self,
        *,
        preset: str = DEFAULT_PRESET,
        resize: int | None = None,
        crop: int | None = None,
        tile: int | str | None = None,
        tile_overlap: int | None = None,
        smallest_defect: float | None = None,
        size: tuple[int, int] | None = None,
        roi: str | Path | None = None,
        channels: Sequence[int] | None = None,
        value_range: tuple[float, float] | None = None,
        align: str | None = None,
        symmetries: str | None = None,
        backbone: str | None = None,
        layers: Sequence[str] | None = None,
        weights: str | Path | None = None,
        embedding_dim: int | None = None,
        discriminators: Sequence[str] | None = None,
        lof_neighbors: int | None = None,
        gaussian_epsilon: float | None = None,
        projected_dim: int | None = None,
        rank_scope: str | None = None,
        discard_rule: str | None = None,
        discard_fraction: float | None = None,
        segmentation_discard_fraction: float | None = None,
        weight_rule: str | None = None,
        weight_discriminator: str | None = None,
        weight_clip_quantile: float | None = None,
        coreset_ratio: float | None = None,
        max_bank_size: int | None = None,
        smoothing_sigma: float | None = None,
        false_alarm_rate: float | None = None,
        check_share: float | None = None,
        seed: int | None = None,
        device: str = Runtime.device,
        batch_size: int = Runtime.batch_size,
        workers: int = Runtime.workers,
        offline: bool = Runtime.offline,
        memory_budget: str = Runtime.memory_budget,
    ) -> None:
        self._parameters = {name: value for name, value in locals().items() if name != "self"}
        self._apply()

    def _apply(self) -> None:
        """Make settings of the parameters."""
        given = dict(self._parameters)
        runtime = {field.name: given.pop(field.name) for field in fields(Runtime)}
        self._roi_size = None
        if given["roi"] is not None:
            given["roi"], self._roi_size = resolve_roi(given["roi"])
        if given["weights"] is not None:
            given["weights"] = resolve_weights(given["weights"])
        self._settings = preset_settings(given.pop("preset"), given)
        self._runtime = Runtime(**runtime)

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  scikit-learn asks so
        """The parameters by name, as they were given: None where the preset's value holds. `deep` changes nothing."""
        return dict(self._parameters)

    def set_params(self, **parameters: Any) -> "SoftPatch":
        """Change parameters for the next `fit`; what is learned already stays.

        Raises `InputError` for an unknown name or a value out of its range, and then changes nothing.
        """
        before = self._parameters
        for name in parameters:
            if name not in before:
                raise InputError(f"parameter {name!r} is unknown; choose from {', '.join(before)}")
        self._parameters = {**before, **parameters}
        try:
            self._apply()
        except SoftPatchError:
            self._parameters = before
            raise
        return self

    def __repr__(self) -> str:
        defaults = {name: each.default for name, each in signature(type(self)).parameters.items()}
        changed = {name: value for name, value in self._parameters.items() if value != defaults[name]}
        return f"SoftPatch({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    @property
    def settings(self) -> Settings:
        """Every setting: what was given, and else what the preset says."""
        return self._settings

    @property
    def detector(self) -> Detector:
        """What `fit` or `load` made. Raises `InputError` before either."""
        if self._detector is None:
            raise InputError("this SoftPatch is not fitted; call fit(images) or SoftPatch.load(path) first")
        return self._detector

    @property
    def threshold(self) -> float:
        """The image score above which an image is called anomalous, calibrated on the training images.

        It can be set; the thresholds of maps and of images to check move in proportion. Raises `InputError` for
        anything but a number above 0.
        """
        return self.detector.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        changed = self.detector.with_threshold(value)
        if changed.threshold < _LOWEST_THRESHOLD:
            raise InputError(f"`threshold` is {value}; every image would be anomalous, so it must be above 0.000001")
        self._detector = changed

    def calibrate(self, false_alarm_rate: float) -> "SoftPatch":
        """Take the thresholds anew, at another false-alarm rate, from the scores that `fit` kept; nothing is learned.

        Raises `InputError` for a rate outside its range, and for a model that was written before scores were kept.
        """
        self._detector = self.detector.calibrated(false_alarm_rate)
        self._parameters["false_alarm_rate"] = false_alarm_rate
        self._settings = replace(self._settings, false_alarm_rate=false_alarm_rate)
        return self

    def fit(
        self,
        images: Images,
        y: object = None,  # noqa: ARG002  scikit-learn gives labels where there are none
        *,
        layout: str = "auto",
        category: str | None = None,
        decisions: str | Path | Mapping[str, Decision] = NO_DECISIONS,
        on_skip: Callable[[SkippedImage], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        progress: Progress = silent,
    ) -> "SoftPatch":
        """Learn what nominal images look like from `images`, some of which may be anomalous.

        `images` is a folder, a list of paths or of images in memory, or a batch of these (see
        `softpatch.data.frames.Frame`); of a folder laid out as a dataset (MVTec AD, VisA, BTAD, ...) its training
        images are taken. `y` is ignored. An unreadable image goes to `on_skip`, or raises `ImageError` where none is
        given; so do masks, thumbnails and copies, which are left out silently where none is given. Raises `InputError`
        for too few images and `WeightsError` where the backbone's weights cannot be had. What else a user should know,
        such as that the images fall into groups, goes to `on_note`.

        `decisions` are what a person said of some images, by their paths, or the file that says so (see
        `softpatch.data.decisions`): images to "reject" are left out and known to be bad from then on, those to "keep"
        are trusted. Raises `InputError` where they are of other images.
        """
        chosen = choose_images(images, "train", layout=layout, category=category)
        if self._roi_size is not None:
            check_roi_size(self._roi_size, with_channels(chosen.refs, self.settings.channels))
        _tell(chosen.passed_over, on_skip)
        for note in chosen.notes if on_note else ():
            on_note(note)  # type: ignore[misc]
        given = read_decisions(Path(decisions)) if isinstance(decisions, (str, Path)) else decisions
        self._detector = Detector.fit(
            chosen.refs,
            self.settings,
            self._runtime,
            decisions=decisions_for(given, chosen.refs),
            on_skip=on_skip,
            on_note=on_note,
            progress=progress,
        )
        return self

    def add(
        self,
        images: Images,
        *,
        known_good: bool = False,
        on_skip: Callable[[SkippedImage], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        progress: Progress = silent,
    ) -> "SoftPatch":
        """Learn from further images, some of which may be anomalous, without those of before.

        They are judged against what is there, so that their defects are not learned, unless they are `known_good`.
        Thresholds are taken anew where images that they come from are at hand (see `softpatch.changes`). Images are
        taken, skipped and told of as by `fit`. Raises `InputError` for a model that was written before models kept what
        they learned from.
        """
        chosen = choose_images(images, "train")
        _tell(chosen.passed_over, on_skip)
        self._detector = add_images(
            self.detector, chosen.refs, known_good=known_good, on_skip=on_skip, on_note=on_note, progress=progress
        )
        return self

    def remove(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        on_note: Callable[[str], None] | None = None,
        progress: Progress = silent,
    ) -> "SoftPatch":
        """Forget training images, by their paths or patterns of them.

        Thresholds are taken anew as by `add`, and what a user should know goes to `on_note`, in a sentence. Raises
        `InputError` where one is not among them, and where too few would be left.
        """
        record, _ = record_of(self.detector)
        named = [paths] if isinstance(paths, (str, Path)) else paths
        numbers = numbers_of(record, [str(path) for path in named])
        self._detector = remove_images(self.detector, numbers, on_note=on_note, progress=progress)
        return self

    def refit(
        self,
        root: str | Path | None = None,
        *,
        skip_missing: bool = False,
        on_skip: Callable[[SkippedImage], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        progress: Progress = silent,
    ) -> "SoftPatch":
        """Learn anew from the recorded files, with the recorded settings and decisions.

        `root` is where the folder that they share is now. Raises `InputError` where files are missing, unless they are
        to be skipped, and where images were in memory.
        """
        settings = replace(self.detector.settings, weights=self.settings.weights)  # which may lie elsewhere now
        self._detector = refit(
            replace(self.detector, settings=settings),
            None if root is None else Path(root),
            skip_missing=skip_missing,
            on_skip=on_skip,
            on_note=on_note,
            progress=progress,
        )
        return self

    def predict(
        self,
        images: Images,
        *,
        threshold: float | None = None,
        on_skip: Callable[[SkippedImage], None] | None = None,
        progress: Progress = silent,
    ) -> Any:
        """Judge one image, which gives a `Prediction`, or several, which give a list of them in order.

        One image is an image file, or one in memory (see `softpatch.data.frames.Frame`); several are a folder, a batch
        or a list, whatever its length. Of a folder laid out as a dataset the test images are judged. `threshold`
        replaces the calibrated one, and scales the others alike. An unreadable image goes to `on_skip`, or raises
        `ImageError` where none is given; in place of one image's prediction there is None then. For a long list, use
        `predict_each`.
        """
        answers = list(self.predict_each(images, threshold=threshold, on_skip=on_skip, progress=progress))
        if is_one_image(images):
            return answers[0] if answers else None
        return answers

    def drift(self) -> Drift:
        """What is usual of new images: `Drift.after` each prediction tells whether they have changed since.

        Raises `InputError` for a model that was written before the map quartiles of training images were kept.
        """
        return self.detector.drift()

    def score_samples(self, images: Images) -> NDArray[np.float64]:
        """Score images by scikit-learn's convention for outlier detectors: (N,), the lower the more anomalous.

        These are the image scores below zero; an unreadable image raises `ImageError`.
        """
        return -np.array([answer.image_score for answer in self.predict_each(images)], dtype=np.float64)

    def predict_each(
        self,
        images: Images,
        *,
        threshold: float | None = None,
        on_skip: Callable[[SkippedImage], None] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Prediction]:
        """Judge images one at a time, so that no more than a batch of maps is held in memory."""
        chosen = choose_images(images, "predict")
        _tell(chosen.passed_over, on_skip)
        return self.detector.predict(chosen.refs, threshold=threshold, on_skip=on_skip, progress=progress)

    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one safetensors file, whole or not at all."""
        save_detector(self.detector, _path(path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        weights: str | Path | None = None,
        device: str = Runtime.device,
        batch_size: int = Runtime.batch_size,
        workers: int = Runtime.workers,
        offline: bool = Runtime.offline,
        memory_budget: str = Runtime.memory_budget,
        progress: Progress = silent,
    ) -> "SoftPatch":
        """Read a model file. `weights` tells where the backbone's weights are, if not where they were at fit.

        Raises `ModelFileError` for a file that is cut short, altered, of a newer format, or of other weights.
        """
        estimator = cls(
            device=device, batch_size=batch_size, workers=workers, offline=offline, memory_budget=memory_budget
        )
        found = None if weights is None else resolve_weights(weights)
        estimator._detector = load_detector(_path(path), estimator._runtime, weights=found, progress=progress)
        settings = estimator._detector.settings
        estimator._settings = settings if found is None else replace(settings, weights=found)
        estimator._parameters |= vars(estimator._settings)
        return estimator


def _path(path: str | Path) -> Path:
    if not isinstance(path, (str, Path)) or not str(path):
        raise InputError(f"the path of a model is {path!r}; it must be text or a Path")
    return Path(path)


def _tell(passed_over: Sequence[PassedOver], on_skip: Callable[[SkippedImage], None] | None) -> None:
    for each in passed_over if on_skip else ():
        on_skip(SkippedImage(str(each.path), f"passed over: {each.kind}"))  # type: ignore[misc]
