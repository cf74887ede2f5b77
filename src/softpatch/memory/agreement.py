"""Agreement of images: how many training images know a patch, and which of the images are to be trusted.

What is nominal, many images show, wherever it lies on them. A defect is known to few, but those few may repeat it. So
images are judged by images: those that look least like the others are dropped, some at a time, and all are judged anew
by those left, whereby defects that repeat lose their company. A patch of an image that is not trusted then counts as
far as other images agree, which its *support radius* says: how far from it one has to look for a trusted image, or for
several of any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import Tensor

from softpatch.memory.belief import NO_ANSWERS, believe, first_hypotheses
from softpatch.memory.estimate import Contamination
from softpatch.memory.evidence import USUAL_GRID, image_evidence
from softpatch.memory.shorth import SMALLEST, middle_and_spread
from softpatch.progress import Progress, silent
from softpatch.threads import single_threaded_workers

KNOWN_BY = 5
"""So many images know a patch well enough, its own included."""
REFERENCES = 256
"""Images that others are compared with at most, so that the cost grows with their number and not with its square."""
_FEWEST = 10  # images; of fewer none is distrusted
_SUSPECTS = 0.1  # of an image's patches, at least: the farthest from those at their position
_MOST_SUSPECTS = 256  # of an image of more patches than usual
_PAIRS = 2000  # of whole images that are compared where there are so few
_AUDITED = 0.01  # of an image's patches: the most anomalous, whose mean is its audit score
_AT_ONCE = 0.05  # of the images are dropped
_LEAST_DROPPED, _MOST_DROPPED = 0.1, 0.4
_ROUNDS = round(_MOST_DROPPED / _AT_ONCE) + 1
_LOOKED_AT = 5  # rounds of dropping, whose mean excess is steadier than each
_CLEAN_EXCESS = 0.04  # of a clean folder, about
_DROPPED_FOR_EACH = 3.5  # image that stands out, since more do not
_SET_APART = 0.8  # of the variance is explained by two groups: of a normal curve, 0.64
_MARGIN = 1.15  # of the radius, for images that are not trusted: what several of them share may be a defect
_LONGER_ABOVE = 1.35  # how much wider good images' audit scores spread above their middle than below
_FEW_QUERIES = 784  # that a thread measures at a time
_FEW_IMAGES = 32  # of the usual size, whose patches are held in single precision
_FEW_PATCHES = 784  # that it is compared with at a time
_SOME = 8  # patches of which one is looked at


@dataclass(frozen=True, eq=False)
class Audit:
    """What training images make of each other: which are `trusted` (N,), bool, and how contaminated they look.

    `references` (M,) int64 are the numbers of those that all were compared with, and `evidence` (N,) float64 says how
    much speaks against each (see `image_evidence`). `apart` (N, m) are the distances of each image's m oddest patches
    to the nearest trusted image.
    """

    trusted: Tensor
    references: Tensor
    contamination: Contamination
    evidence: Tensor
    apart: Tensor

    def without_first(self, count: int) -> "Audit":
        """The same audit of all but the first images, which were found to be anomalous."""
        left = len(self.trusted) - count
        values = (self.contamination.estimate, self.contamination.low, self.contamination.high)
        shares = (min(1.0, max(0.0, (value * len(self.trusted) - count) / left)) for value in values)
        return Audit(
            trusted=self.trusted[count:],
            references=_references(left, self.references.device),
            contamination=Contamination(*shares),
            evidence=self.evidence[count:],
            apart=self.apart[count:],
        )

    @property
    def reach(self) -> float:
        """How far the oddest patch of a trusted image is from the nearest other: the median over trusted images."""
        return float(self.apart[self.trusted].amax(dim=1).float().median())


def audit_images(
    projected: Tensor,
    nearest: Tensor,
    lof: Tensor,
    answers: Mapping[int, bool] = NO_ANSWERS,
    *,
    progress: Progress = silent,
) -> Audit:
    """Judge images by each other, from their patches' embeddings (N, P, d) float16.

    `nearest` and `lof` (N, P) are the scores of these discriminators. By the former the tenth of the patches that are
    farthest from those at their position are compared with whole images, or more where there are few images. Dropped
    are 3.5 times as many images as stand out, within 10 and 40 %; or as many as a person's `answers` ask for, which say
    of some images whether they are anomalous (see `trusted_by_answers`). Of images of more than `USUAL_GRID` patches as
    many count as of those, or a few more, so that a small defect is not lost among many patches, and neither is time.
    """
    count, positions, dim = projected.shape
    references = _references(count, projected.device)
    share = min(1.0, max(_SUSPECTS, _PAIRS / (count * len(references))))
    most = positions if positions <= USUAL_GRID else max(_MOST_SUSPECTS, round(share * USUAL_GRID))
    suspects = nearest.topk(min(most, max(8, round(share * positions))), dim=1).indices
    asked = projected.gather(1, suspects[:, :, None].expand(-1, -1, dim))
    distances = image_distances(asked, projected, references, progress=progress)
    distances[references, :, torch.arange(len(references), device=references.device)] = torch.inf
    highest = max(1, round(_AUDITED * min(positions, USUAL_GRID)))
    rounds = concentrate(distances, references, highest, 1 if count < _FEWEST else _ROUNDS)
    evidence = image_evidence(rounds, lof)
    trusted = torch.ones(count, dtype=torch.bool, device=projected.device)
    contamination = Contamination(0.0, 0.0, 0.5)
    if count >= _FEWEST:
        contamination = estimate_contamination(rounds[:_LOOKED_AT])
        dropped = min(_MOST_DROPPED, max(_LEAST_DROPPED, _DROPPED_FOR_EACH * share_standing_out(rounds[:_LOOKED_AT])))
        steps = round(dropped / _AT_ONCE)
        trusted[:] = False
        trusted[_lowest(rounds[steps - 1], 1 - steps * _AT_ONCE)] = True
    if answers:
        trusted, contamination = trusted_by_answers(evidence, contamination, answers)
        trusted = trusted.to(projected.device)
    apart = distances[:, :, trusted[references]].amin(dim=2) if trusted[references].any() else distances.amin(dim=2)
    return Audit(trusted, references, contamination, evidence, apart)


def _references(count: int, device: torch.device) -> Tensor:
    """Numbers (M,) of so many images, evenly spaced, that all are compared with."""
    return torch.linspace(0, count - 1, min(count, REFERENCES), device=device).long()


def trusted_by_answers(
    evidence: Tensor, contamination: Contamination, answers: Mapping[int, bool]
) -> tuple[Tensor, Contamination]:
    """Which images a person's answers let one trust, bool (N,), and what they say of the contamination.

    As many as may be anomalous are not, by the upper end of its interval and at most 40 %, as without answers: the most
    suspicious. Of those that were answered the answers decide.
    """
    x = evidence.numpy()
    belief = believe(x, first_hypotheses(x, contamination), answers)
    trusted = torch.ones(len(x), dtype=torch.bool)
    most_suspicious = np.argsort(-belief.suspicion, kind="stable")
    trusted[most_suspicious[: round(min(_MOST_DROPPED, belief.high) * len(x))]] = False
    trusted[list(answers)] = ~torch.tensor(list(answers.values()))
    return trusted, Contamination(belief.contamination, belief.low, belief.high)


def concentrate(distances: Tensor, references: Tensor, highest: int, rounds: int) -> list[Tensor]:
    """Drop the least trusted images, 5 % at a time, and judge all anew by those left: scores (N,) of each round.

    `distances` (N, m, M) of patches to reference images are infinite to their own. An image's score is the mean of the
    `highest` of its patches' distances to the second nearest of the references left: the second, because a defect that
    entered twice has a first.
    """
    count = len(distances)
    left = torch.ones(count, dtype=torch.bool, device=distances.device)
    found = []
    for step in range(rounds):
        known = distances[:, :, left[references]]
        second = torch.stack([image.float().kthvalue(min(2, image.shape[1]), dim=1).values for image in known])
        found.append(second.topk(min(highest, second.shape[1]), dim=1).values.mean(dim=1))
        left = torch.zeros_like(left)
        left[_lowest(found[-1], 1 - (step + 1) * _AT_ONCE)] = True
    return found


def _lowest(scores: Tensor, share: float) -> Tensor:
    """Numbers of the given share of images, those with the lowest scores (N,)."""
    return scores.argsort(stable=True)[: round(share * len(scores))]


def share_standing_out(rounds: Sequence[Tensor]) -> float:
    """The share of images that stand out by their audit scores (N,) of several rounds, in [0, 1]: 0 of a clean folder.

    The mean over rounds, which is steadier than each, less what clean folders have.
    """
    return max(0.0, sum(map(excess, rounds)) / len(rounds) - _CLEAN_EXCESS)


def estimate_contamination(rounds: Sequence[Tensor]) -> Contamination:
    """Estimate the contamination from the audit scores (N,) of several rounds of dropping.

    Where two groups explain four fifths of the last scores' variance, the upper one is counted, give or take two images
    and one in fifty. Elsewhere it is `share_standing_out`, and the interval is as wide as the errors seen on six
    products and two backbones (docs/lab).
    """
    share, explained = two_groups(rounds[-1])
    if explained >= _SET_APART:
        either = 0.02 + 2 / len(rounds[-1])
        return Contamination(share, max(0.0, share - either), share + either)
    share = share_standing_out(rounds)
    return Contamination(share, max(0.0, share - 0.2), min(0.5, 0.3 + 2.5 * share))


def two_groups(scores: Tensor) -> tuple[float, float]:
    """Split scores (N,) where two groups explain most of the variance of their logarithms (Otsu's method).

    Gives the share of the upper group, at most a half, and how much of the variance the split explains, in [0, 1].
    """
    logs = scores.double().cpu().clamp_min(SMALLEST).log().sort().values
    count = len(logs)
    sizes = torch.arange(1, count, dtype=torch.float64)
    sums = logs.cumsum(0)
    apart = (sums[-1] - sums[:-1]) / (count - sizes) - sums[:-1] / sizes
    explained = sizes * (count - sizes) / count**2 * apart.square() / logs.var(correction=0).clamp_min(SMALLEST)
    explained[: (count - 1) // 2] = 0
    best = int(explained.argmax())
    return float(1 - (best + 1) / count), float(explained[best])


def excess(scores: Tensor) -> float:
    """The share of scores (N,) beyond those of a split normal curve through the lower ones, in [0, 1].

    Scores are taken as logarithms, in spreads below the middle of their shortest half; the curve is 1.35 times as wide
    above. As many are good as explain the count below every score from 1 to 3.5 spreads above.
    """
    logs = scores.double().cpu().clamp_min(SMALLEST).log().sort().values
    middle, spread = middle_and_spread(logs)
    spreads = (logs - middle) / spread.clamp_min(SMALLEST)
    below, above = 2 / (1 + _LONGER_ABOVE), 2 * _LONGER_ABOVE / (1 + _LONGER_ABOVE)
    lower, upper = spreads.clamp_max(0), spreads.clamp_min(0) / _LONGER_ABOVE
    expected = below * torch.special.ndtr(lower) + above * (torch.special.ndtr(upper) - 0.5)
    counted = torch.arange(1, len(logs) + 1) / len(logs)
    looked_at = (spreads > 1) & (spreads < 3.5)
    return max(0.0, 1 - float((counted / expected)[looked_at].min())) if looked_at.any() else 0.0


def support(
    patches: Tensor, owners: Tensor, projected: Tensor, audit: Audit, *, progress: Progress = silent
) -> tuple[Tensor, Tensor]:
    """How far patches (Q, d) have to look for images that know them, by the embeddings (N, P, d) of all.

    Gives two distances (Q,) float32: to the nearest trusted image, and to the fourth nearest of any (of a sample of the
    images, to as many as stand for four of all), each image by its nearest patch and not counting the patches' `owners`
    (Q,), numbers of images.
    """
    references = audit.references
    distances = image_distances(patches, projected, references, progress=progress).float()
    distances[owners[:, None] == references] = torch.inf
    wanted = min(ceil((KNOWN_BY - 1) * len(references) / len(projected)), len(references) - 1)
    several = distances.kthvalue(wanted, dim=1).values
    return distances[:, audit.trusted[references]].amin(dim=1), several


def support_radii(nearest_trusted: Tensor, several: Tensor, trusted: Tensor, doubtful: Tensor) -> Tensor:
    """The radius of patches (Q,), float32: at what distance at least a query has to count that is near to one.

    It is 0 for a patch of a `trusted` image that is not `doubtful`, bool (Q,) both. Else there must be one trusted
    image or several, with a margin; and `several` in any case where the patch itself is doubtful.
    """
    radii = _MARGIN * torch.minimum(nearest_trusted, several)
    radii = radii.masked_fill(trusted, 0)
    return torch.where(doubtful, torch.maximum(radii, several), radii)


def image_distances(
    queries: Tensor, images: Tensor, numbers: Tensor | None = None, *, progress: Progress = silent
) -> Tensor:
    """Find each patch's distance to each of M images, which is that to their nearest patch, wherever it lies.

    Of `queries` (..., D) and `images` (N, R, D), float16, of which those with the `numbers` (M,) are compared, or all,
    gives float16 distances (..., M). All of them are
    computed, 2·M·R·D operations for each patch; the expanded square of embeddings seen from their mean errs by a few
    thousandths, as float16 does.
    """
    shape, queries = queries.shape[:-1], queries.reshape(-1, queries.shape[-1])
    numbers = torch.arange(len(images), device=images.device) if numbers is None else numbers
    mean = images[:, ::_SOME][numbers].float().mean(dim=(0, 1))  # about that of all: values seen from there are smaller
    found = torch.empty(len(queries), len(numbers), dtype=torch.float16, device=queries.device)
    starts = range(0, len(queries), _FEW_QUERIES)
    each = single_threaded_workers().map if queries.device.type == "cpu" else map
    at_once = max(1, _FEW_IMAGES * USUAL_GRID // max(USUAL_GRID, images.shape[1]))
    for first in range(0, len(numbers), at_once):
        some = slice(first, first + at_once)
        centred = images[numbers[some]].float() - mean
        # ‖p-q‖² - ‖q‖² in one product: (-2p, ‖p‖²)·(q, 1)
        rows = torch.cat([-2 * centred, centred.square().sum(dim=2, keepdim=True)], dim=2)
        for _ in each(partial(_measure, queries, mean, rows, found[:, some]), starts):
            pass  # but for what it may raise
        progress("comparing images", min(some.stop, len(numbers)), len(numbers))
    return found.view(*shape, len(numbers))


def _measure(queries: Tensor, mean: Tensor, rows: Tensor, found: Tensor, start: int) -> None:
    """Fill some lines of distances `found` (Q, m) to the images whose patches `rows` (m, R, D + 1) describe."""
    seen = queries[start : start + _FEW_QUERIES].float() - mean
    columns = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1).T.contiguous()  # (D + 1, q)
    nearest = torch.full((len(rows), columns.shape[1]), torch.inf, device=rows.device)
    room = torch.empty(_FEW_PATCHES, columns.shape[1], device=rows.device)  # anew for every product: twice the time
    for image, least in zip(rows, nearest, strict=True):
        for part in torch.split(image, _FEW_PATCHES):
            torch.minimum(least, torch.mm(part, columns, out=room[: len(part)]).amin(dim=0), out=least)
    found[start : start + _FEW_QUERIES] = (nearest + seen.square().sum(dim=1)).clamp_min(0).sqrt().T
