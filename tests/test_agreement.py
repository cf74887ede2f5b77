"""Distances from patches to images, against all pairs computed one by one, and what images make of each other."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from softpatch.memory.agreement import (
    Audit,
    audit_images,
    concentrate,
    estimate_contamination,
    excess,
    image_distances,
    share_standing_out,
    support,
    support_radii,
    two_groups,
)
from softpatch.memory.belief import NO_ANSWERS
from softpatch.memory.discriminators import NoiseSettings, noise_scores
from softpatch.memory.estimate import Contamination


@pytest.mark.parametrize("patches", [1, 9, 400])
def test_a_patch_is_as_far_from_an_image_as_from_its_nearest_patch(patches: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = (torch.randn(3, 5, 6, generator=generator) + 20).half()
    references = (torch.randn(4, patches, 6, generator=generator) + 20).half()
    found = image_distances(queries, references)
    expected = torch.cdist(queries.double()[:, None], references.double()[None]).amin(dim=3).mT  # (3, 5, 4)
    assert found.dtype == torch.float16
    assert torch.allclose(found.double(), expected, rtol=2e-3)


def test_a_patch_is_at_no_distance_from_its_own_image() -> None:
    images = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(0)).half()
    found = image_distances(images, images)
    own = found[torch.arange(3), :, torch.arange(3)]
    assert own.max() < 0.02  # beside distances of about 16
    assert found.median() > 10


def folder(good: int, defective: int) -> Tensor:
    """Embeddings (N, 40, 6) of good images alike, and of `defective` ones at the end; two and two share a defect."""
    generator = torch.Generator().manual_seed(0)
    count = good + defective
    images = torch.randn(1, 40, 6, generator=generator) + 0.1 * torch.randn(count, 40, 6, generator=generator)
    for number in range(defective):
        images[good + number, :10] += 5 * (1 + number // 2)
    return images.half()


def audit_of(images: Tensor, answers: Mapping[int, bool] = NO_ANSWERS) -> Audit:
    """The audit of images (N, P, D) by the scores of the two discriminators that it needs."""
    scores = {name: torch.zeros(images.shape[:2]) for name in ("nearest", "lof")}
    for positions, found in noise_scores(images, tuple(scores), NoiseSettings(min(6, len(images) - 1), 0.01)):
        for name in scores:
            scores[name][:, positions] = found[name]
    return audit_images(images, scores["nearest"], scores["lof"], answers)


def test_repeated_defects_lose_their_company() -> None:
    """Three images with one defect are each other's second nearest, until one of them is dropped."""
    images = folder(20, 0)
    images[17:, :10] += 5
    distances = image_distances(images, images)
    distances.diagonal(dim1=0, dim2=2).fill_(math.inf)
    rounds = concentrate(distances, torch.arange(20), highest=4, rounds=9)
    assert rounds[0][17:].max() < 3 * rounds[0][:17].max()
    assert rounds[-1][17:].min() > 20 * rounds[-1][:17].max()


def test_good_images_are_trusted_and_defective_ones_are_not() -> None:
    images = folder(30, 6)
    audit = audit_of(images)
    assert audit.trusted[30:].sum() == 0
    assert audit.trusted[:30].sum() >= 20
    assert audit.contamination.estimate == pytest.approx(1 / 6, abs=0.01)
    assert audit.contamination.low < 1 / 6 < audit.contamination.high
    assert audit.contamination.identifiable


def test_few_images_are_all_trusted() -> None:
    images = folder(6, 1)
    audit = audit_of(images)
    assert audit.trusted.all()
    assert not audit.contamination.identifiable


def test_of_many_images_some_are_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpatch.memory.agreement.REFERENCES", 15)
    images = folder(40, 5)
    audit = audit_of(images)
    assert len(audit.references) == 15
    assert audit.trusted[40:].sum() == 0


def test_evidence_is_highest_of_what_is_anomalous() -> None:
    images = folder(30, 6)
    audit = audit_of(images)
    assert audit.evidence[30:].min() > audit.evidence[:30].max()
    assert audit.apart[30:].amax(dim=1).min() > 2 * audit.reach


def test_answers_decide_whom_to_trust() -> None:
    images = folder(30, 6)
    audit = audit_of(images, {3: True, 31: False})
    assert not audit.trusted[3]
    assert audit.trusted[31]
    asked = torch.zeros(36, dtype=torch.bool)
    asked[[3, 31]] = True
    others, distrusted = audit.evidence[audit.trusted & ~asked], audit.evidence[~audit.trusted & ~asked]
    assert distrusted.min() >= others.max()
    # as many as may be anomalous
    assert len(distrusted) + 1 == pytest.approx(36 * min(0.4, audit.contamination.high), abs=1.5)
    left = audit_of(images.roll(-3, dims=0), {0: True}).without_first(1)
    assert len(left.trusted) == len(left.evidence) == 35
    assert left.references.tolist() == list(range(35))


def test_answers_make_the_contamination_certain() -> None:
    images = folder(30, 6)
    before = audit_of(images).contamination
    asked = audit_of(images, {number: number >= 30 for number in range(24, 36)}).contamination
    assert asked.high - asked.low < before.high - before.low
    assert asked.low <= 1 / 6 <= asked.high
    left = audit_of(images.roll(6, dims=0), {number: number < 6 for number in range(12)}).without_first(6)
    assert left.contamination.estimate < 0.05


def test_support_is_the_distance_to_a_trusted_image_and_to_several_of_any() -> None:
    # one patch per image, on a line; images 0 and 5 are trusted
    places = torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0, 16.0])
    images = places[:, None, None].half()
    trusted = torch.tensor([True, False, False, False, False, True])
    audit = audit_images(images, torch.zeros(6, 1), torch.zeros(6, 1))
    audit = replace(audit, trusted=trusted)
    nearest, several = support(images[:, 0], torch.arange(6), images, audit)
    assert nearest.tolist() == [16, 1, 2, 4, 8, 16]
    assert several.tolist() == [8, 7, 6, 4, 8, 15]  # of the others, the fourth nearest


def test_radii() -> None:
    nearest, several = torch.tensor([1.0, 3.0, 1.0, 1.0]), torch.tensor([2.0, 2.0, 2.0, 2.0])
    trusted = torch.tensor([False, False, True, True])
    doubtful = torch.tensor([False, False, False, True])
    radii = support_radii(nearest, several, trusted, doubtful)
    assert radii.tolist() == pytest.approx([1.15, 2.3, 0.0, 2.0])
    doubtful = torch.tensor([True, True, False, False])
    assert support_radii(nearest, several, trusted, doubtful).tolist() == pytest.approx([2.0, 2.3, 0.0, 0.0])


def lognormal(count: int, seed: int = 0) -> Tensor:
    """Scores whose logarithms are normal below their middle, and reach 1.35 times as far above."""
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sides = torch.rand(count, generator=torch.Generator().manual_seed(seed + 1)) < 1.35 / 2.35
    return (0.1 * torch.where(sides, 1.35 * drawn.abs(), -drawn.abs())).exp()


def test_excess_is_the_share_that_a_good_folder_does_not_explain() -> None:
    good, anomalous = lognormal(3000), 3 * torch.ones(1000)
    assert excess(good) < 0.03
    assert excess(torch.cat([good, anomalous])) == pytest.approx(0.25, abs=0.03)
    assert excess(torch.ones(20)) == 0


def test_clean_scores_have_little_that_stands_out() -> None:
    assert share_standing_out([lognormal(500, seed) for seed in range(5)]) < 0.02
    contamination = estimate_contamination([lognormal(500)])
    assert contamination.low == 0
    assert contamination.high >= 0.2


def test_two_groups_are_told_from_one() -> None:
    one = lognormal(400)
    assert two_groups(one)[1] < 0.75
    share, explained = two_groups(torch.cat([one, 3 * lognormal(100, 7)]))
    assert (share, explained) == (pytest.approx(0.2), pytest.approx(0.95, abs=0.04))
    contamination = estimate_contamination([torch.cat([one, 3 * lognormal(100, 7)])])
    assert contamination.identifiable
    assert contamination.low < 0.2 < contamination.high


@pytest.mark.parametrize(
    ("contamination", "said"),
    [
        (Contamination(0.12, 0.1, 0.15), "about 12% of the images look anomalous, between 10% and 15%"),
        (
            Contamination(0.1, 0.0, 0.45),
            "10% of the images stand out; the true share, between 0% and 45%, is not identifiable",
        ),
    ],
)
def test_contamination_is_said_in_a_sentence(contamination: Contamination, said: str) -> None:
    assert str(contamination) == said
