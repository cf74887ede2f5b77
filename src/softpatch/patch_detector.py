"""Patch embeddings in, scores out: what a detector learns, before there are images or files.

Fit: patch embeddings -> noise scores -> kept patches and soft weights -> coreset -> memory bank. Of images that a
person rejected nothing enters a bank, but their oddest patches are remembered as known to be bad.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from softpatch.config import Settings
from softpatch.errors import InputError
from softpatch.memory.agreement import audit_images
from softpatch.memory.bank import ChosenPatches, MemoryBank, choose_patches, choose_supported_patches
from softpatch.memory.belief import NO_ANSWERS
from softpatch.memory.estimate import Contamination
from softpatch.memory.neighbours import SearchIndex, nearest_neighbours
from softpatch.memory.projection import project
from softpatch.memory.selection import discard_share, judge_patches, kept_patches, noisiest
from softpatch.progress import Progress, silent

_CALIBRATION_IMAGES = 100  # more would cost more than the rest of the fit and sharpen the threshold little
_BAD_PATCHES = 8  # of a rejected image at most
_RAISED = 2.0  # at most, the score of a patch that is nearer to a known bad one than to the bank


@dataclass(frozen=True, eq=False)
class Learned:
    """What a bank for the image score and one for the map will hold, and how contaminated the training images look.

    Rejected images are counted nowhere in it. The contamination is None where images were not compared with each other.
    """

    for_image: ChosenPatches
    for_map: ChosenPatches
    contamination: Contamination | None


@dataclass(frozen=True, eq=False)
class PatchDetector:
    """One memory bank for the image score, one for the anomaly map: the same object in SoftPatch and PatchCore.

    Patch embeddings are float16 here as in the banks, so that a patch is at distance 0 from itself. A patch that is
    nearer to one of `known_bad` (B, D) float16 than its score has that score raised by as much, at most twofold.
    """

    classification: MemoryBank
    segmentation: MemoryBank
    known_bad: Tensor | None = None

    @cached_property
    def _bad_index(self) -> SearchIndex | None:
        return None if self.known_bad is None else SearchIndex(self.known_bad)

    @classmethod
    def fit(
        cls,
        embeddings: Tensor,
        settings: Settings,
        *,
        places: Tensor | None = None,
        answers: Mapping[int, bool] = NO_ANSWERS,
        progress: Progress = silent,
    ) -> "PatchDetector":
        """Learn from the patch embeddings (N·G, P, D) float16 of G copies of each of N images.

        Some of the images may be anomalous; of some a person's `answers` say so (see `choose_banks`, as for `places`).

        Raises `InputError` for another shape or dtype, values that are not finite numbers, and fewer images than the
        discriminators need.
        """
        if embeddings.ndim != 3 or embeddings.dtype != torch.float16 or not embeddings.isfinite().all():
            shape, dtype = tuple(embeddings.shape), embeddings.dtype
            raise InputError(f"patch embeddings are finite float16 (N, P, D), not {shape} {dtype}")
        rejected, copies = sum(answers.values()), 1 if places is None else len(places)
        need_images(len(embeddings) // copies - rejected, settings)
        projected = project(embeddings, settings.projected_dim, settings.seed)
        learned = choose_banks(projected, settings, places=places, answers=answers, progress=progress)
        bad, left = embeddings[: rejected * copies : copies], embeddings[rejected * copies :]
        patches = left.flatten(0, 1)
        detector = cls.of(learned, lambda chosen: patches[chosen])
        if not rejected:
            return detector
        numbers = calibration_images(len(left) // copies)
        scores, _, _ = detector.score(left[numbers * copies], owners=numbers.to(left.device))
        return detector.with_known_bad([bad], float(scores.median()))

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
        if self._bad_index is not None:
            near, _ = nearest_neighbours(embeddings.flatten(0, 1), self._bad_index)
            near = near.view_as(patch_scores)
            for_image = patch_scores
            if self.segmentation is not self.classification:
                for_image = self.classification.score(embeddings, owners=owners)
            return *raised(for_image, near).max(dim=1), raised(patch_scores, near)
        if self.segmentation is self.classification:
            return *patch_scores.max(dim=1), patch_scores
        return *self.classification.highest(embeddings, patch_scores, owners=owners), patch_scores

    def with_known_bad(self, rejected: Iterable[Tensor], typical: float) -> "PatchDetector":
        """The same detector, that knows the oddest patches of rejected images by their embeddings (n, P, D) float16.

        Of each image the patch with the highest score is taken, and of its next seven those whose score exceeds what is
        `typical` of a good image.
        """
        found = []
        for embeddings in rejected:
            scores, positions = self.classification.score(embeddings).topk(
                min(_BAD_PATCHES, embeddings.shape[1]), dim=1
            )
            odd = scores > typical
            odd[:, 0] = True
            found.append(embeddings.gather(1, positions[:, :, None].expand(-1, -1, embeddings.shape[2]))[odd])
        return replace(self, known_bad=torch.cat(found)) if found else self

    def with_banks(self, change: Callable[[MemoryBank], MemoryBank]) -> "PatchDetector":
        """The same detector with both banks changed alike; patches that they share stay shared."""
        classification = change(self.classification)
        if self.segmentation is self.classification:
            return replace(self, classification=classification, segmentation=classification)
        segmentation = change(self.segmentation)
        if self.segmentation.patches is self.classification.patches:
            segmentation = classification.with_radii(segmentation.radii)
        return replace(self, classification=classification, segmentation=segmentation)

    def to(self, device: torch.device) -> "PatchDetector":
        """The same detector on another device."""
        known_bad = None if self.known_bad is None else self.known_bad.to(device)
        return replace(self.with_banks(lambda bank: bank.to(device)), known_bad=known_bad)


def raised(scores: Tensor, near: Tensor) -> Tensor:
    """Patch scores (N, P), raised by how much nearer a known bad patch is, whose distances `near` (N, P) are."""
    return scores * (scores / near.clamp_min(1e-6)).clamp(1, _RAISED)


def choose_banks(
    projected: Tensor,
    settings: Settings,
    *,
    places: Tensor | None = None,
    answers: Mapping[int, bool] = NO_ANSWERS,
    progress: Progress = silent,
) -> Learned:
    """Choose the patches for the image score's bank and for the map's, from projected embeddings (N·G, P, d) float16.

    They are of G copies of each of N images, the image itself first, whose positions show the `places` (G, P) of it
    (see `softpatch.symmetry.turned_positions`); None for the images alone. Noise is judged among the images themselves,
    since a defect must not find its own copies; a copy's patch is trusted as what it shows.

    By a person's `answers` some images, told by their numbers, are anomalous or not. Those that are must be the first;
    nothing is chosen of them, and indices and owners are counted without them. Of the others no patch is noise.
    """
    if places is None:
        places = torch.arange(projected.shape[1])[None]
    places, copies, rejected = places.to(projected.device), len(places), sum(answers.values())
    noise = judge_patches(projected[::copies], settings, progress=progress)
    audit = None
    if settings.discard_rule == "agreement":
        audit = audit_images(projected[::copies], noise.nearest, noise.lof, answers, progress=progress)
    if rejected:
        projected = projected[rejected * copies :]
        noise = judge_patches(projected[::copies], settings, progress=progress)
        audit = audit and audit.without_first(rejected)
    noise.fused[[number - rejected for number, is_anomalous in answers.items() if not is_anomalous]] = 0
    if audit is not None:
        for_image, for_map = settings.discard_fraction, settings.segmentation_discard_fraction
        supported = choose_supported_patches(
            projected,
            noise.weights,
            audit,
            noisiest(noise.fused, for_image),
            noisiest(noise.fused, for_image if for_map is None else for_map),
            places,
            coreset_ratio=settings.coreset_ratio,
            max_bank_size=settings.max_bank_size,
            progress=progress,
        )
        return Learned(*supported, audit.contamination)
    fused, weights = noise.fused, noise.weights
    if copies > 1:
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


def need_images(count: int, settings: Settings) -> None:
    """Raise `InputError` where so many images are fewer than the discriminators need."""
    if count < settings.fewest_images:
        raise InputError(
            f"{count} usable training images are too few; these settings need at least {settings.fewest_images}, "
            "better 50 or more"
        )


def calibration_images(count: int) -> Tensor:
    """Numbers of the training images, evenly spaced, that scores of good images are taken from."""
    return torch.linspace(0, count - 1, min(count, _CALIBRATION_IMAGES)).long()
