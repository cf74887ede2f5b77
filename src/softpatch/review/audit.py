"""An audit of a training folder: which images look anomalous, why, what they should look like, what belongs together.

Each image is judged as if it had not been learned from. Its evidence is what speaks against it beside all others
(`softpatch.memory.evidence`); what that says of the chance that it is anomalous, and what answers of a person change in
it, is the belief (`softpatch.memory.belief`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, gettempdir

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softpatch.atomic import remove_leftovers, temporary_prefix
from softpatch.config import PRESETS, Settings
from softpatch.data.decisions import NO_DECISIONS, Decision, answers_of
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.detector import Detector
from softpatch.errors import InputError
from softpatch.memory.agreement import Audit, audit_images, image_distances
from softpatch.memory.belief import Belief, Hypotheses, believe, first_hypotheses
from softpatch.memory.selection import judge_patches
from softpatch.passes import Seen, first_pass
from softpatch.progress import Progress, silent
from softpatch.results import Prediction
from softpatch.review.groups import Comparison, ImageGroup, Looks, find_groups, image_looks
from softpatch.scoring.regions import Box, Region

_MOST_REGIONS = 5  # of an image, the highest
_COMPARED = 1000  # images, the most suspicious, whose regions are looked for in all others
_FEWEST = 3


@dataclass(frozen=True)
class Counterpart:
    """What a region should look like: the nearest patch of a trusted image, and where it is."""

    path: str
    box: Box


@dataclass(frozen=True)
class AuditedRegion(Region):
    """A region that speaks against an image, and what other images say of it.

    `agreeing` of them hold something as similar as good patches are to each other; its `counterpart` is what it should
    look like, None where it was not looked for in others.
    """

    agreeing: int
    counterpart: Counterpart | None


@dataclass(frozen=True, eq=False)
class AuditedImage:
    """A training image, judged as if it had not been learned from.

    `suspicion` in [0, 1] is the probability that it is anomalous (see `softpatch.memory.belief`), `evidence` what that
    is computed from. `regions` come highest first; `prediction` holds the score, the threshold and the map.
    """

    path: str
    suspicion: float
    evidence: float
    prediction: Prediction
    regions: tuple[AuditedRegion, ...]


@dataclass(frozen=True, eq=False)
class FolderAudit:
    """Images, the most suspicious first, groups of them, and what the questions are chosen by.

    `decisions` are those that were given, by the images' paths.
    """

    images: tuple[AuditedImage, ...]
    groups: tuple[ImageGroup, ...]
    belief: Belief
    hypotheses: Hypotheses
    decisions: Mapping[str, Decision] = field(default_factory=dict)


def audit_folder(
    detector: Detector,
    refs: Sequence[ImageRef],
    *,
    decisions: Mapping[str, Decision] = NO_DECISIONS,
    on_skip: Callable[[SkippedImage], None] | None = None,
    progress: Progress = silent,
) -> FolderAudit:
    """Audit images by a detector that learned from them; those that it did not learn from are judged as new ones.

    An unreadable image goes to `on_skip`, or raises `ImageError` without it. A person's `decisions`, by the names of
    images, count in the belief. Raises `InputError` for fewer than three usable images.
    """
    settings = audit_settings(detector.settings)
    skipped: list[SkippedImage] = []
    pictures: list[Looks] = []

    def skip(image: SkippedImage) -> None:
        skipped.append(image)
        if on_skip and not image.copy_of:
            on_skip(image)

    remove_leftovers(Path(gettempdir()))
    with TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as folder:
        seen = first_pass(
            refs,
            detector.backbone,
            settings,
            detector.runtime,
            Path(folder),
            on_skip=skip if on_skip else None,
            on_images=lambda images: pictures.append(image_looks(images)),
            progress=progress,
        )
        if len(seen.refs) < _FEWEST:
            raise InputError(f"{len(seen.refs)} usable images are too few to audit; give at least {_FEWEST}")
        audit = audit_of(seen.projected, settings, progress=progress)
        predictions = _left_out(detector, seen, progress)
        evidence = audit.evidence.numpy()
        order = np.argsort(-evidence, kind="stable")
        hypotheses = first_hypotheses(evidence, audit.contamination)
        belief = believe(evidence, hypotheses, answers_of(seen.refs, decisions))
        regions, compared = compare_regions(detector, seen, audit, predictions, order, progress=progress)
        looks = Looks(*(torch.cat(each) for each in zip(*pictures, strict=True)))
        copies = [(image.name, image.copy_of) for image in skipped if image.copy_of]
        images = tuple(
            AuditedImage(
                seen.refs[number].name,
                float(belief.suspicion[number]),
                float(evidence[number]),
                predictions[number],
                regions[place],
            )
            for place, number in enumerate(order.tolist())
        )
        rank = {number: place for place, number in enumerate(order.tolist())}
        groups = find_groups(seen, belief, predictions, looks, compared, rank, copies)
    ordered = Belief(belief.suspicion[order], belief.contamination, belief.low, belief.high)
    return FolderAudit(images, groups, ordered, hypotheses, dict(decisions))


def audit_settings(settings: Settings) -> Settings:
    """What images are compared by: as the default does it, seen as the detector with `settings` sees them."""
    noise = {**PRESETS["agreement"], "discriminators": ("lof",), "symmetries": "none"}
    return replace(settings, **noise)


def audit_of(projected: Tensor, settings: Settings, *, progress: Progress = silent) -> Audit:
    """What images make of each other by `audit_settings`, from their projected patch embeddings (N, P, d) float16."""
    noise = judge_patches(projected, settings, progress=progress)
    return audit_images(projected, noise.nearest, noise.lof, progress=progress)


def _left_out(detector: Detector, seen: Seen, progress: Progress) -> list[Prediction]:
    """What the detector says of each image without what it learned from it; the maps are kept on disk."""
    known = {} if detector.record is None else {digest: n for n, digest in enumerate(detector.record.digests)}
    numbers = {ref.name: known.get(digest, -1) for ref, digest in zip(seen.refs, seen.digests, strict=True)}
    shape = Framing.of(detector.settings).map_shape
    with TemporaryFile() as file:
        maps = np.memmap(file, np.float32, "w+", shape=(len(seen.refs), *shape))
    found = []
    for number, prediction in enumerate(detector.predict(seen.refs, numbers=numbers, progress=progress)):
        maps[number] = prediction.anomaly_map
        found.append(replace(prediction, anomaly_map=maps[number]))
    return found


def compare_regions(
    detector: Detector,
    seen: Seen,
    audit: Audit,
    predictions: Sequence[Prediction],
    order: NDArray[np.int64],
    *,
    progress: Progress = silent,
) -> tuple[list[tuple[AuditedRegion, ...]], Comparison]:
    """Find what speaks against each image, in `order`, how many others show the same, and what it should look like.

    Of the images that are low in the order the regions are told, but not looked for in others. Beside the regions of
    each image gives the comparison of the highest ones.
    """
    outlined = [regions_against(predictions[number]) for number in order.tolist()]
    asked = [(place, k) for place in range(min(_COMPARED, len(order))) for k in range(len(outlined[place]))]
    owners = torch.tensor([int(order[place]) for place, _ in asked])
    poses: Sequence[Tensor | None] = [None] * len(predictions) if seen.poses is None else list(seen.poses)
    positions = torch.tensor(
        [_position(predictions[order[p]], outlined[p][k], detector.grid, poses[order[p]]) for p, k in asked]
    )
    patches = seen.projected[owners, positions]
    distances = image_distances(patches, seen.projected, progress=progress).float().cpu()
    distances[torch.arange(len(owners)), owners] = torch.inf
    trusted = distances.masked_fill(~audit.trusted.cpu(), torch.inf)
    agreeing, knowing = ((each <= audit.reach).sum(dim=1).tolist() for each in (distances, trusted))
    nearest = trusted.min(dim=1)
    found = [[AuditedRegion(**vars(region), agreeing=0, counterpart=None) for region in each] for each in outlined]
    for i, (place, k) in enumerate(asked):
        counterpart = None
        if torch.isfinite(nearest.values[i]):
            other = int(nearest.indices[i])
            there = int((seen.projected[other].float() - patches[i].float()).norm(dim=1).argmin())
            box = _box_about(predictions[other], there, detector.grid, outlined[place][k], poses[other])
            counterpart = Counterpart(seen.refs[other].name, box)
        found[place][k] = replace(found[place][k], agreeing=agreeing[i], counterpart=counterpart)
    highest = [i for i, (_, k) in enumerate(asked) if k == 0]
    numbers = owners[highest].tolist()
    first = [outlined[asked[i][0]][0].box for i in highest]
    boxes = [_in_shares(box, predictions[number]) for box, number in zip(first, numbers, strict=True)]
    compared = Comparison(numbers, distances[highest], audit.reach, [knowing[i] for i in highest], boxes)
    return [tuple(regions) for regions in found], compared


def _in_shares(box: Box, prediction: Prediction) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    width, height = prediction.width, prediction.height
    return left / width, top / height, right / width, bottom / height


def _position(prediction: Prediction, region: Region, grid: tuple[int, int], pose: Tensor | None) -> int:
    """The position of the patch where a region is highest."""
    return prediction.framing.patch_from_original(
        region.peak_x, region.peak_y, grid, prediction.width, prediction.height, pose
    )


def regions_against(prediction: Prediction) -> list[Region]:
    """The regions that speak against an image, highest first: what would be outlined if it were called anomalous."""
    called = prediction
    if not prediction.is_anomalous:
        called = replace(prediction, threshold=min(prediction.threshold, 0.999 * prediction.image_score))
    return called.regions()[:_MOST_REGIONS]


def _box_about(
    prediction: Prediction, position: int, grid: tuple[int, int], region: Region, pose: Tensor | None
) -> Box:
    """A box of a region's size about a patch of another image, within that image."""
    x, y = prediction.framing.patch_to_original(position, grid, prediction.width, prediction.height, pose)
    left, top, right, bottom = region.box
    width, height = min(right - left, prediction.width), min(bottom - top, prediction.height)
    left = round(min(max(x - width / 2, 0), prediction.width - width))
    top = round(min(max(y - height / 2, 0), prediction.height - height))
    return left, top, left + width, top + height
