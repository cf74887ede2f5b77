"""PatchCore, SoftPatch and SoftPatch+, and PatchCore after whole images were dropped."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from softpatch.bench.features import Features
from softpatch.bench.oracle import ask, rejected_first
from softpatch.bench.outcome import Outcome
from softpatch.config import PRESETS, Settings
from softpatch.data.contamination import ContaminatedSplit
from softpatch.data.images import ImageRef
from softpatch.data.pixels import ValueRange
from softpatch.features.tiles import embedding_shape
from softpatch.memory.belief import first_hypotheses
from softpatch.memory.projection import project
from softpatch.memory.selection import judge_patches
from softpatch.passes import product_symmetries
from softpatch.patch_detector import PatchDetector
from softpatch.progress import Progress
from softpatch.review.audit import audit_of, audit_settings
from softpatch.scoring.anomaly_map import anomaly_maps
from softpatch.symmetry import Symmetry, transform, turned_positions

_BATCH = 16


def run(
    split: ContaminatedSplit,
    features: Features,
    settings: Settings,
    *,
    drop_images: bool,
    answers: int = 0,
    asked: str = "page",
    progress: Progress,
) -> Outcome:
    """Fit the training images of a split and judge its test images.

    With `drop_images` those that are noisiest are left out, as large a share as `settings.discard_fraction`, and the
    rest is learned from as PatchCore does (the image-level denoising of section 5.3.3). With `answers` a person who
    knows the truth says so much of it (see `softpatch.bench.oracle`).
    """
    grid, _ = embedding_shape(features.backbone, settings)
    symmetries = product_symmetries(split.train, features.backbone, settings, features.runtime, prod(grid))
    copies = [copy for ref in split.train for copy in symmetric_copies(ref, symmetries)]
    train = features.of(copies, settings.seed, progress=progress)
    looking = features.seconds_per_image * (len(copies) - len(split.train))
    began = time.perf_counter()
    if drop_images:
        train = train[quiet_images(train, settings)]
        settings = replace(settings, **PRESETS["patchcore"])
    given: dict[int, bool] = {}
    found: dict[str, float] = {}
    if answers:
        truth = split.train_is_anomalous
        projected = project(train[:: len(symmetries)], settings.projected_dim, settings.seed)
        audit = audit_of(projected, audit_settings(settings))
        evidence = audit.evidence.numpy()
        hypotheses = first_hypotheses(evidence, audit.contamination)
        for count in (0, answers):
            given, belief = ask(evidence, hypotheses, truth, count, asked=asked, seed=settings.seed)
            found |= {f"low_after_{count}": belief.low, f"high_after_{count}": belief.high}
        order, given = rejected_first(given, len(truth))
        train = train.view(len(truth), len(symmetries), *train.shape[1:])[order].flatten(0, 1)
    places = turned_positions(symmetries, grid)
    detector = PatchDetector.fit(train, settings, places=places, answers=given, progress=progress)
    fitted = time.perf_counter()
    test = features.of([sample.ref for sample in split.test], settings.seed, progress=progress)
    looked = time.perf_counter()
    scores, maps = [], []
    for batch in torch.split(test, _BATCH):
        image_scores, _, patch_scores = detector.score(batch)
        scores.append(image_scores)
        maps += list(anomaly_maps(patch_scores.view(-1, *grid), features.map_shape, settings.smoothing_sigma).numpy())
        progress("predict", len(maps), len(test))
    ended = time.perf_counter()
    return Outcome(torch.cat(scores).numpy(), maps, looking + fitted - began, ended - looked, found)


def symmetric_copies(ref: ImageRef, symmetries: Sequence[Symmetry]) -> list[ImageRef]:
    """An image, turned and mirrored: one copy for each symmetry, of which the first leaves it as it is."""
    names = (
        f"{ref.name} (mirrored, {turns} quarter turns)" if mirrored else f"{ref.name} ({turns} quarter turns)"
        for turns, mirrored in symmetries[1:]
    )
    copies = zip(names, symmetries[1:], strict=True)
    return [ref, *(ImageRef(name, partial(_read_copy, ref, symmetry)) for name, symmetry in copies)]


def _read_copy(ref: ImageRef, symmetry: Symmetry, value_range: ValueRange | None) -> Tensor:
    return transform(ref.load(value_range), symmetry)


def quiet_images(embeddings: Tensor, settings: Settings) -> Tensor:
    """Numbers (n,) of the training images to keep: all but the `discard_fraction` whose noisiest patch is noisiest."""
    noise = judge_patches(project(embeddings, settings.projected_dim, settings.seed), settings)
    worst = noise.fused.amax(dim=1)
    dropped = int(settings.discard_fraction * len(worst) + 1e-9)
    return worst.argsort(stable=True)[: len(worst) - dropped].sort().values
