"""The whole flow, in the order in which it happens.

Fit:     images -> feature maps -> patch embeddings -> noise scores -> kept patches and soft weights -> coreset
         -> memory bank -> decision threshold
Predict: images -> feature maps -> patch embeddings -> neighbour distances -> patch scores -> anomaly map, image score

`PatchDetector` (patch_detector.py) begins at patch embeddings, `Detector` at images. Both are complete from the moment
they exist.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softpatch.atomic import remove_leftovers, temporary_prefix
from softpatch.config import Runtime, Settings, check_threshold
from softpatch.data.decisions import NO_DECISIONS, Decision, answers_of
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, SkippedImage, with_channels
from softpatch.data.tiled_size import find_image_size, in_whole_patches, with_tiles
from softpatch.data.value_range import find_value_range
from softpatch.errors import InputError
from softpatch.features.backbone import Backbone, load_backbone, torch_device
from softpatch.features.tiles import image_embeddings, size_unit
from softpatch.memory.discriminators import check_discriminators
from softpatch.memory.estimate import Contamination
from softpatch.memory.evidence import USUAL_GRID
from softpatch.memory.groups import image_groups
from softpatch.memory_budget import check_image_memory
from softpatch.passes import Seen, embeddings_of_images, first_pass, full_embeddings, product_alignment, read_framed
from softpatch.patch_detector import PatchDetector, calibration_images, choose_banks, need_images
from softpatch.progress import Progress, silent
from softpatch.results import Prediction, is_unlike_training, map_quartile
from softpatch.scoring.anomaly_map import anomaly_maps
from softpatch.scoring.drift import Drift
from softpatch.scoring.threshold import LeftOutScores, Thresholds, thresholds_at
from softpatch.threads import one_ahead
from softpatch.training_record import TrainingRecord, training_record

_FEWEST_PIXELS = 64  # 8 x 8: a patch
_LONG = 2.0  # times the shorter side


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
        decisions: Mapping[str, Decision] = NO_DECISIONS,
        on_skip: Callable[[SkippedImage], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        progress: Progress = silent,
    ) -> "Detector":
        """Learn from unlabelled images, of which some may be anomalous.

        A person's `decisions`, by the names of images, are used: of what is to be rejected is learned only that it is
        bad, and what is to be kept is trusted. An unreadable image goes to `on_skip`, or raises `ImageError` without
        it; a copy of another image is left out and goes to `on_skip` too. What a user should know of the images goes to
        `on_note`, in a sentence. Raises `InputError` where fewer images can be used than the discriminators need.
        """
        check_discriminators(settings.noise_names)
        need_images(len(refs), settings)
        refs = with_channels(refs, settings.channels)
        settings, backbone = _looking(refs, settings, runtime, on_note=on_note, progress=progress)
        remove_leftovers(Path(gettempdir()))
        with TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as folder:
            ordered = sorted(refs, key=lambda ref: decisions.get(ref.name) != "reject")  # rejected ones first
            seen = first_pass(ordered, backbone, settings, runtime, Path(folder), on_skip=on_skip, progress=progress)
            if on_note and (astray := seen.matching_nowhere):
                of_all = f"{len(astray)} of {len(seen.refs)} images match"
                on_note(f"{of_all} the others nowhere and are seen as they lie, {astray[0]} for one")
            if on_note and settings.tile is None and _are_long(seen.sizes):
                width, height = max(seen.sizes, key=prod)
                on_note(
                    f"images are long, such as {width} x {height} pixels, and squeezed to a square; --tile auto, "
                    "`tile` in Python, keeps their shape"
                )
            answers = answers_of(seen.refs, decisions)
            rejected, copies = sum(answers.values()), len(seen.symmetries)
            count = len(seen.refs) - rejected
            need_images(count, settings)
            groups = image_groups(seen.projected[rejected * copies :: copies])
            if on_note and len(groups) > 1:
                on_note(_note_on_groups([[seen.refs[rejected + n].name for n in group] for group in groups]))
            numbers = calibration_images(count)
            banks, contamination, some = _banks(seen, answers, numbers, backbone, settings, runtime, progress)
            left_out = left_out_scores(banks, some(), numbers, seen.grid, settings, progress=progress)
            if rejected:
                bad = embeddings_of_images(seen.refs[:rejected], backbone, settings, runtime)
                banks = banks.with_known_bad(bad, float(left_out.image_scores.median()))
                left_out = left_out_scores(banks, some(), numbers, seen.grid, settings, progress=progress)
        record = training_record(
            seen.refs[rejected:],
            seen.digests[rejected:],
            numbers.tolist(),
            seen.symmetries,
            kept=[number - rejected for number, is_anomalous in answers.items() if not is_anomalous],
            rejected=seen.refs[:rejected],
        )
        share = None if contamination is None else contamination.estimate
        rates = settings.false_alarm_rate, settings.check_share
        thresholds = thresholds_at(left_out, *rates, share, kept=record.kept_places)
        learned = (*astuple(thresholds), count, copies, contamination, left_out, record)
        return cls(settings, runtime, backbone, banks, seen.grid, *learned)

    def thresholds_at(self, false_alarm_rate: float) -> Thresholds:
        """The thresholds that a fit at another false-alarm rate would have found.

        Raises `InputError` for a rate outside its range, and where the scores they are taken from were not kept.
        """
        if self.left_out is None:
            raise InputError("this model was written before left-out scores were kept; fit anew, or set a threshold")
        settings = replace(self.settings, false_alarm_rate=false_alarm_rate)
        contamination = None if self.contamination is None else self.contamination.estimate
        kept = () if self.record is None else self.record.kept_places
        return thresholds_at(self.left_out, settings.false_alarm_rate, settings.check_share, contamination, kept=kept)

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

    def drift(self) -> Drift:
        """What is usual of new images, before the first of them, by the thresholds of this detector.

        Raises `InputError` for a model that was written before the map quartiles of training images were kept.
        """
        if self.left_out is None or self.left_out.map_quartiles is None:
            raise InputError("this model was written before models kept what tells whether images change; fit anew")
        is_good = self.left_out.image_scores <= self.check_threshold
        quartiles = self.left_out.map_quartiles
        return Drift.begun(quartiles[is_good].tolist(), quartiles[~is_good].tolist())

    def predict(
        self,
        refs: Sequence[ImageRef],
        *,
        threshold: float | None = None,
        numbers: Mapping[str, int] | None = None,
        on_skip: Callable[[SkippedImage], None] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Prediction]:
        """Judge images one after the other, in order; an unreadable one goes to `on_skip` or raises `ImageError`.

        `numbers`, by the images' names, are those of training images, or -1 for others: each is judged as if it had
        given no patch.
        """
        used = self if threshold is None else self.with_threshold(threshold)
        framing = Framing.of(self.settings)
        rows, columns = self.grid
        done = 0
        batches = read_framed(refs, self.settings, self.runtime, on_skip)
        embedded = ((batch, image_embeddings(batch.images, self.backbone, self.settings)) for batch in batches)
        for batch, embeddings in one_ahead(embedded):
            owners = None if numbers is None else torch.tensor([numbers[ref.name] for ref in batch.refs])
            owners = None if owners is None else owners.to(embeddings.device)
            image_scores, peaks, patch_scores = self.banks.score(embeddings, owners=owners)
            maps = _maps(patch_scores.view(-1, rows, columns), framing, self.settings)
            image_scores, peaks = image_scores.cpu(), peaks.cpu()
            unlike = [is_unlike_training(each, self.map_threshold, framing.inside) for each in maps]
            quartiles = [map_quartile(each, framing.inside) for each in maps]
            if batch.poses is not None:
                maps = framing.maps_as_they_lie(maps, batch.poses)
            for i, (ref, (width, height)) in enumerate(zip(batch.refs, batch.sizes, strict=True)):
                peak = framing.nearest_inside(int(peaks[i]), self.grid)
                pose = None if batch.poses is None else batch.poses[i]
                peak_x, peak_y = framing.patch_to_original(peak, self.grid, width, height, pose)
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
                    is_unlike_training=unlike[i],
                    map_quartile=quartiles[i],
                    framing=framing if pose is None else replace(framing, roi=None),
                )
            done += len(batch.refs)
            progress("predict", done, len(refs))


def _looking(
    refs: Sequence[ImageRef],
    settings: Settings,
    runtime: Runtime,
    *,
    on_note: Callable[[str], None] | None,
    progress: Progress,
) -> tuple[Settings, Backbone]:
    """How images are looked at: the settings, with all that was left to the images, and the network."""
    device = torch_device(runtime.device)
    if settings.tile is not None and settings.size is None:
        settings = with_tiles(settings, find_image_size(refs))
    check_image_memory(settings, runtime, device)
    if settings.value_range is None and (found := find_value_range(refs)) is not None:
        settings = replace(settings, value_range=found)
        if on_note:
            on_note(_note_on_range(*found))
    backbone = load_backbone(
        settings.backbone,
        layers=settings.layers,
        weights=settings.weights,
        image_size=settings.network_side,
        device=device,
        offline=runtime.offline,
        seed=settings.seed,
        progress=progress,
    )
    if settings.tile is not None:
        settings = in_whole_patches(settings, size_unit(backbone))
    _check_roi(settings)
    if settings.align == "find":
        settings = product_alignment(refs, backbone, settings, runtime, on_note=on_note)
    return settings, backbone


def _banks(
    seen: Seen,
    answers: Mapping[int, bool],
    numbers: Tensor,
    backbone: Backbone,
    settings: Settings,
    runtime: Runtime,
    progress: Progress,
) -> tuple[PatchDetector, Contamination | None, Callable[[], Iterable[Tensor]]]:
    """The banks, how contaminated the images look, and what gives embeddings of some by `numbers` (n,).

    `answers` are as `choose_banks` takes them, and numbers count images without those that were rejected.
    """
    copies, positions, rejected = len(seen.symmetries), seen.projected.shape[1], sum(answers.values())
    learned = choose_banks(seen.projected, settings, places=seen.places, answers=answers, progress=progress)
    chosen, device = torch.cat([learned.for_image.indices, learned.for_map.indices]), seen.projected.device
    some = (numbers[:, None] * copies * positions + torch.arange(positions)).to(device)
    needed = torch.unique(chosen if seen.is_whole else torch.cat([some.flatten(), chosen]))
    first = rejected * copies * positions
    patches = full_embeddings(seen, needed + first, backbone, settings, runtime, progress=progress)

    def embeddings_of(indices: Tensor) -> Tensor:
        return patches[torch.searchsorted(needed, indices)]

    def embeddings_of_some() -> Iterable[Tensor]:
        at_once = max(1, 8 * USUAL_GRID // positions)
        if seen.is_whole:  # they may lie on disk
            return (seen.projected[(rejected + part) * copies] for part in torch.split(numbers, at_once))
        return (embeddings_of(part.flatten()).view(len(part), positions, -1) for part in torch.split(some, at_once))

    return PatchDetector.of(learned, embeddings_of).to(backbone.device), learned.contamination, embeddings_of_some


def _maps(patch_scores: Tensor, framing: Framing, settings: Settings) -> NDArray[np.float32]:
    """The anomaly maps of patch scores (B, H, W), 0 outside the region of interest."""
    maps = anomaly_maps(patch_scores, framing.map_shape, settings.smoothing_sigma / framing.step)
    return framing.within(maps.cpu().numpy())


def _check_roi(settings: Settings) -> None:
    inside = Framing.of(settings).inside
    if inside is not None and inside.sum() < _FEWEST_PIXELS:
        raise InputError(
            f"the region of interest leaves {inside.sum()} of the {inside.size:,} pixels that are looked at, fewer "
            "than a patch has; mark more, or look at more of the image with `crop`"
        )


def _are_long(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether there are images, of which most are at least `_LONG` times as long as they are wide, or high."""
    return bool(sizes) and median(max(size) / min(size) for size in sizes) >= _LONG


def _note_on_range(black: float, white: float) -> str:
    return (
        f"images of more than 8 bits are read with black at {black:g} and white at {white:g}, by the values that they "
        "hold; set others with --range, `value_range` in Python"
    )


def _note_on_groups(groups: Sequence[Sequence[str]]) -> str:
    examples = ", ".join(f"{len(names)} images such as {names[0]}" for names in groups)
    return (
        f"the images fall into {len(groups)} groups that have little in common: {examples}; "
        "give each product, camera and light a folder of its own"
    )


def left_out_scores(
    banks: PatchDetector,
    embeddings: Iterable[Tensor],
    numbers: Tensor,
    grid: tuple[int, int],
    settings: Settings,
    *,
    progress: Progress = silent,
) -> LeftOutScores:
    """Image scores, map maxima and quartiles of training images, each scored without the patches it gave itself.

    `embeddings` are theirs, in parts (m, P, D), and `numbers` (n,) say which training images they are.
    """
    image_scores, map_peaks, map_quartiles, done = [], [], [], 0
    framing = Framing.of(settings)
    device = banks.classification.patches.device
    for part in embeddings:
        owners = numbers[done : done + len(part)].to(device)
        scores, _, patch_scores = banks.score(part.to(device), owners=owners)
        maps = _maps(patch_scores.view(-1, *grid), framing, settings)
        image_scores.append(scores.cpu())
        map_peaks.append(torch.from_numpy(maps.max(axis=(1, 2))))
        map_quartiles.append(torch.tensor([map_quartile(each, framing.inside) for each in maps]))
        done += len(part)
        progress("calibration", done, len(numbers))
    return LeftOutScores(torch.cat(image_scores), torch.cat(map_peaks), torch.cat(map_quartiles))
