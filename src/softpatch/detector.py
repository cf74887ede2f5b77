"""The whole flow, in the order in which it happens.

Fit:     images -> feature maps -> patch embeddings -> noise scores -> kept patches and soft weights -> coreset
         -> memory bank -> decision threshold
Predict: images -> feature maps -> patch embeddings -> neighbour distances -> patch scores -> anomaly map, image score

`PatchDetector` begins at patch embeddings, `Detector` at images. Both are complete from the moment they exist.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import torch
from torch import Tensor

from softpatch.atomic import remove_leftovers, temporary_prefix
from softpatch.config import Runtime, Settings, check_threshold
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, SkippedImage, read_in_batches
from softpatch.errors import InputError
from softpatch.features.backbone import Backbone, load_backbone, torch_device
from softpatch.features.embedding import patch_embeddings
from softpatch.memory.agreement import audit_images
from softpatch.memory.bank import ChosenPatches, MemoryBank, choose_patches, choose_supported_patches
from softpatch.memory.discriminators import check_discriminators
from softpatch.memory.estimate import Contamination
from softpatch.memory.groups import image_groups
from softpatch.memory.projection import project
from softpatch.memory.selection import discard_share, judge_patches, kept_patches, noisiest
from softpatch.memory_budget import check_image_memory
from softpatch.passes import first_pass, full_embeddings
from softpatch.progress import Progress, silent
from softpatch.results import Prediction, is_unlike_training
from softpatch.scoring.anomaly_map import anomaly_maps
from softpatch.scoring.threshold import LeftOutScores, Thresholds, thresholds_at
from softpatch.symmetry import NONE, Symmetry, turned_positions
from softpatch.threads import one_ahead
from softpatch.training_record import TrainingRecord, training_record

_CALIBRATION_IMAGES = 100  # more would cost more than the rest of the fit and sharpen the threshold little


@dataclass(frozen=True, eq=False)
class Learned:
    """What a bank for the image score and one for the map will hold, and how contaminated the training images look.

    The last is None where images were not compared with each other.
    """

    for_image: ChosenPatches
    for_map: ChosenPatches
    contamination: Contamination | None


@dataclass(frozen=True, eq=False)
class PatchDetector:
    """One memory bank for the image score, one for the anomaly map: the same object in SoftPatch and PatchCore.

    Patch embeddings are float16 here as in the banks, so that a patch is at distance 0 from itself.
    """

    classification: MemoryBank
    segmentation: MemoryBank

    @classmethod
    def fit(
        cls,
        embeddings: Tensor,
        settings: Settings,
        *,
        symmetries: Sequence[Symmetry] = NONE,
        progress: Progress = silent,
    ) -> "PatchDetector":
        """Learn from the patch embeddings (N·G, P, D) float16 of the copies that G `symmetries` make of N images.

        Some of the images may be anomalous.

        Raises `InputError` for another shape or dtype, values that are not finite numbers, and fewer images than the
        discriminators need.
        """
        if embeddings.ndim != 3 or embeddings.dtype != torch.float16 or not embeddings.isfinite().all():
            shape, dtype = tuple(embeddings.shape), embeddings.dtype
            raise InputError(f"patch embeddings are finite float16 (N, P, D), not {shape} {dtype}")
        _need_images(len(embeddings) // len(symmetries), settings)
        projected = project(embeddings, settings.projected_dim, settings.seed)
        patches = embeddings.flatten(0, 1)
        learned = choose_banks(projected, settings, symmetries=symmetries, progress=progress)
        return cls.of(learned, lambda chosen: patches[chosen])

    @classmethod
    def of(cls, learned: Learned, embeddings_of: Callable[[Tensor], Tensor]) -> "PatchDetector":
        """Make the banks of chosen patches; `embeddings_of` gives their embeddings (M, D) float16 by indices (M,)."""
        for_image, for_map = learned.for_image, learned.for_map
        classification = for_image.bank(embeddings_of(for_image.indices))
        if for_map is for_image:
            return cls(classification, classification)
        if for_map.indices is for_image.indices:
            return cls(classification, classification.with_radii(for_map.radii))
        return cls(classification, for_map.bank(embeddings_of(for_map.indices)))

    def score(self, embeddings: Tensor, *, owners: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Score patch embeddings (N, P, D).

        Gives image scores (N,) float32, the positions (N,) int64 of the patches that have them, and patch scores (N, P)
        float32 for the anomaly map.
        `owners` (N,) are given for training images, by their numbers: each is scored as if it had given no patch.
        """
        patch_scores = self.segmentation.score(embeddings, owners=owners)
        if self.segmentation is self.classification:
            return *patch_scores.max(dim=1), patch_scores
        return *self.classification.highest(embeddings, patch_scores, owners=owners), patch_scores

    def with_banks(self, change: Callable[[MemoryBank], MemoryBank]) -> "PatchDetector":
        """The same detector with both banks changed alike; patches that they share stay shared."""
        classification = change(self.classification)
        if self.segmentation is self.classification:
            return PatchDetector(classification, classification)
        segmentation = change(self.segmentation)
        if self.segmentation.patches is self.classification.patches:
            segmentation = classification.with_radii(segmentation.radii)
        return PatchDetector(classification, segmentation)

    def to(self, device: torch.device) -> "PatchDetector":
        """The same detector on another device."""
        return self.with_banks(lambda bank: bank.to(device))


def choose_banks(
    projected: Tensor,
    settings: Settings,
    *,
    symmetries: Sequence[Symmetry] = NONE,
    progress: Progress = silent,
) -> Learned:
    """Choose the patches for the image score's bank and for the map's, from projected embeddings (N·G, P, d) float16.

    They are of the copies that G `symmetries` make of each of N images, the image itself first. Noise is judged among
    the images themselves, since a defect must not find its own copies; a copy's patch is trusted as what it shows.
    """
    copies = len(symmetries)
    noise = judge_patches(projected[::copies], settings, progress=progress)
    if settings.discard_rule == "agreement":
        audit = audit_images(projected[::copies], noise.apart, progress=progress)
        for_image, for_map = settings.discard_fraction, settings.segmentation_discard_fraction
        supported = choose_supported_patches(
            projected,
            noise.weights,
            audit,
            noisiest(noise.fused, for_image),
            noisiest(noise.fused, for_image if for_map is None else for_map),
            turned_positions(symmetries, projected.shape[1]).to(projected.device),
            coreset_ratio=settings.coreset_ratio,
            max_bank_size=settings.max_bank_size,
            progress=progress,
        )
        return Learned(*supported, audit.contamination)
    fused, weights = noise.fused, noise.weights
    if copies > 1:
        places = turned_positions(symmetries, projected.shape[1]).to(projected.device)
        fused, weights = fused[:, places].flatten(0, 1), weights[:, places].flatten(0, 1)  # (N·G, P)

    def choose(discard_fraction: float) -> ChosenPatches:
        return choose_patches(
            projected,
            kept_patches(fused, discard_fraction),
            weights,
            copies=copies,
            coreset_ratio=settings.coreset_ratio,
            max_bank_size=settings.max_bank_size,
            progress=progress,
        )

    for_image, for_map = discard_share(noise, settings), settings.segmentation_discard_fraction
    chosen = choose(for_image)
    return Learned(chosen, chosen if for_map is None or for_map == for_image else choose(for_map), None)


@dataclass(frozen=True, eq=False)
class Detector:
    """A fitted detector: images in, predictions out.

    `grid` is the patch grid (H, W). `threshold` applies to image scores, as does the lower `check_threshold`, and
    `map_threshold` to anomaly maps. Of each of the `training_images` so many `copies` were learned from, turned and
    mirrored; 1 is the image alone. How many of them look anomalous says `contamination`, None where the settings do not
    have images compared with each other. `left_out` are the scores that the thresholds were taken from, and `record`
    says which images were learned from; None in a model written before they were kept.
    """

    settings: Settings
    runtime: Runtime
    backbone: Backbone
    banks: PatchDetector
    grid: tuple[int, int]
    threshold: float
    check_threshold: float
    map_threshold: float
    training_images: int
    copies: int
    contamination: Contamination | None
    left_out: LeftOutScores | None
    record: TrainingRecord | None

    @classmethod
    def fit(
        cls,
        refs: Sequence[ImageRef],
        settings: Settings,
        runtime: Runtime,
        *,
        on_skip: Callable[[SkippedImage], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        progress: Progress = silent,
    ) -> "Detector":
        """Learn from unlabelled images, of which some may be anomalous.

        An unreadable image goes to `on_skip`, or raises `ImageError` without it; a copy of another image is left out
        and goes to `on_skip` too. What a user should know of the images goes to `on_note`, in a sentence. Raises
        `InputError` where fewer images can be used than the discriminators need.
        """
        check_discriminators(settings.noise_names)
        _need_images(len(refs), settings)
        device = torch_device(runtime.device)
        check_image_memory(settings, runtime, device)
        backbone = load_backbone(
            settings.backbone,
            layers=settings.layers,
            weights=settings.weights,
            image_size=settings.crop,
            device=device,
            offline=runtime.offline,
            seed=settings.seed,
            progress=progress,
        )
        remove_leftovers(Path(gettempdir()))
        with TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as folder:
            seen = first_pass(refs, backbone, settings, runtime, Path(folder), on_skip=on_skip, progress=progress)
            _need_images(len(seen.refs), settings)
            copies, positions = len(seen.symmetries), seen.projected.shape[1]
            groups = image_groups(seen.projected[::copies])
            if on_note and len(groups) > 1:
                on_note(_note_on_groups([[seen.refs[number].name for number in group] for group in groups]))
            learned = choose_banks(seen.projected, settings, symmetries=seen.symmetries, progress=progress)
            numbers = calibration_images(len(seen.refs))
            calibration = (numbers[:, None] * copies * positions + torch.arange(positions)).flatten()
            calibration = calibration.to(seen.projected.device)
            needed = torch.unique(torch.cat([calibration, learned.for_image.indices, learned.for_map.indices]))
            patches = full_embeddings(seen, needed, backbone, settings, runtime, progress=progress)

        def embeddings_of(indices: Tensor) -> Tensor:
            return patches[torch.searchsorted(needed, indices)]

        banks = PatchDetector.of(learned, embeddings_of).to(device)
        embeddings = embeddings_of(calibration).view(len(numbers), positions, -1)
        left_out = left_out_scores(banks, embeddings, numbers, seen.grid, settings, progress=progress)
        contamination = None if learned.contamination is None else learned.contamination.estimate
        thresholds = thresholds_at(left_out, settings.false_alarm_rate, settings.check_share, contamination)
        record = training_record(seen.refs, seen.digests, numbers.tolist(), seen.symmetries)
        found = (*astuple(thresholds), len(seen.refs), copies, learned.contamination, left_out, record)
        return cls(settings, runtime, backbone, banks, seen.grid, *found)

    def thresholds_at(self, false_alarm_rate: float) -> Thresholds:
        """The thresholds that a fit at another false-alarm rate would have found.

        Raises `InputError` for a rate outside its range, and where the scores they are taken from were not kept.
        """
        if self.left_out is None:
            raise InputError("this model was written before left-out scores were kept; fit anew, or set a threshold")
        settings = replace(self.settings, false_alarm_rate=false_alarm_rate)
        contamination = None if self.contamination is None else self.contamination.estimate
        return thresholds_at(self.left_out, settings.false_alarm_rate, settings.check_share, contamination)

    def calibrated(self, false_alarm_rate: float) -> "Detector":
        """The same detector with the thresholds of another false-alarm rate; see `thresholds_at`."""
        found = self.thresholds_at(false_alarm_rate)
        settings = replace(self.settings, false_alarm_rate=false_alarm_rate)
        return replace(self, settings=settings, **asdict(found))

    def with_threshold(self, threshold: float) -> "Detector":
        """The same detector with another threshold; those of maps and of images to check move in proportion.

        Raises `InputError` for anything but a number of 0 or more.
        """
        check_threshold(threshold)
        share = threshold / self.threshold if self.threshold else 1.0
        return replace(
            self,
            threshold=float(threshold),
            check_threshold=self.check_threshold * share,
            map_threshold=self.map_threshold * share,
        )

    def predict(
        self,
        refs: Sequence[ImageRef],
        *,
        threshold: float | None = None,
        on_skip: Callable[[SkippedImage], None] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Prediction]:
        """Judge images one after the other, in order; an unreadable one goes to `on_skip` or raises `ImageError`."""
        used = self if threshold is None else self.with_threshold(threshold)
        framing = Framing(self.settings.resize, self.settings.crop)
        size, sigma = self.settings.crop, self.settings.smoothing_sigma
        rows, columns = self.grid
        done = 0
        batches = read_in_batches(
            refs,
            framing.apply,
            batch_size=self.runtime.batch_size,
            workers=self.runtime.workers,
            on_skip=on_skip,
        )
        embedded = (
            (batch, sizes, patch_embeddings(self.backbone.feature_maps(images), self.settings.embedding_dim))
            for batch, sizes, images in batches
        )
        for batch, sizes, embeddings in one_ahead(embedded):
            image_scores, peaks, patch_scores = self.banks.score(embeddings)
            maps = anomaly_maps(patch_scores.view(-1, rows, columns), size, sigma).cpu().numpy()
            image_scores, peaks = image_scores.cpu(), peaks.cpu()
            for i, (ref, (width, height)) in enumerate(zip(batch, sizes, strict=True)):
                row, column = divmod(int(peaks[i]), columns)
                x, y = (column + 0.5) * size / columns - 0.5, (row + 0.5) * size / rows - 0.5
                peak_x, peak_y = framing.to_original(x, y, width, height)
                yield Prediction(
                    path=ref.name,
                    image_score=float(image_scores[i]),
                    threshold=used.threshold,
                    check_threshold=used.check_threshold,
                    peak_x=peak_x,
                    peak_y=peak_y,
                    width=width,
                    height=height,
                    anomaly_map=maps[i],
                    map_threshold=used.map_threshold,
                    is_unlike_training=is_unlike_training(maps[i], self.map_threshold),
                    framing=framing,
                )
            done += len(batch)
            progress("predict", done, len(refs))


def _note_on_groups(groups: Sequence[Sequence[str]]) -> str:
    examples = ", ".join(f"{len(names)} images such as {names[0]}" for names in groups)
    return (
        f"the images fall into {len(groups)} groups that have little in common: {examples}; "
        "give each product, camera and light a folder of its own"
    )


def _need_images(count: int, settings: Settings) -> None:
    if count < settings.fewest_images:
        raise InputError(
            f"{count} usable training images are too few; these settings need at least {settings.fewest_images}, "
            "better 50 or more"
        )


def calibration_images(count: int) -> Tensor:
    """Numbers of the training images, evenly spaced, that the decision threshold is taken from."""
    return torch.linspace(0, count - 1, min(count, _CALIBRATION_IMAGES)).long()


def left_out_scores(
    banks: PatchDetector,
    embeddings: Tensor,
    numbers: Tensor,
    grid: tuple[int, int],
    settings: Settings,
    *,
    progress: Progress = silent,
) -> LeftOutScores:
    """Image scores and map maxima of training images, each scored without the patches it gave itself.

    `embeddings` are theirs, (n, P, D), and `numbers` (n,) say which training images they are.
    """
    image_scores, map_peaks = [], []
    device = banks.classification.patches.device
    for start in range(0, len(numbers), 8):
        part = slice(start, start + 8)
        scores, _, patch_scores = banks.score(embeddings[part].to(device), owners=numbers[part].to(device))
        maps = anomaly_maps(patch_scores.view(-1, *grid), settings.crop, settings.smoothing_sigma)
        image_scores.append(scores.cpu())
        map_peaks.append(maps.amax(dim=(1, 2)).cpu())
        progress("calibration", min(start + 8, len(numbers)), len(numbers))
    return LeftOutScores(torch.cat(image_scores), torch.cat(map_peaks))
