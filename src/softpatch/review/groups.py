"""Images of a training folder that belong together: a person decides of all at once.

A group is no verdict: each has its kind, its images and one sentence of evidence, and nothing is deleted by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from softpatch.memory.belief import Belief
from softpatch.memory.groups import image_groups
from softpatch.passes import Seen
from softpatch.results import Prediction

GroupKind = Literal["repeated defect", "variant", "copies", "unlike the rest", "exposure", "blur"]
_SUSPICIOUS = 0.1  # images at least this probably anomalous may share a defect
_KNOWN_TO = 2  # trusted images that show it too make it a variant rather than a defect
_SMALL = 32  # pixels of the side of small pictures
_NEAR_COPY = 0.12  # of the usual distance to the most similar picture; a shift by 2 pixels of 224 makes 0.3 or more
_FAR = 6.0  # robust standard deviations, for light and sharpness
_LEAST_DEVIATION = 0.02  # of light in [0, 1], and of the logarithm of sharpness
_LIGHT_ABOVE = 0.98  # is lost, as is what is below the rest of it
_FEWEST = 10  # images, to know what is usual


@dataclass(frozen=True, eq=False)
class Comparison:
    """The patches that speak most against some images, `numbers` (n), compared with all N.

    `distances` (n, N) float32 are those to each image, by its nearest patch, infinite to the own; within `reach` an
    image shows the same. So many trusted images do as `knowing` (n) says. `boxes` (n) are the regions about the
    patches, in shares of the image's sides: left, top, right and bottom.
    """

    numbers: list[int]
    distances: Tensor
    reach: float
    knowing: list[int]
    boxes: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class ImageGroup:
    """Images that belong together: what `kind` of group, numbers into `FolderAudit.images`, and the evidence.

    `evidence` is one sentence, such as "14 images show the same at the same place".
    """

    kind: GroupKind
    images: tuple[int, ...]
    evidence: str


class Looks(NamedTuple):
    """Of N images mean `light` (N,) in [0, 1], the share of it that is `lost` (N,), `sharpness` (N,) > 0, and `small`
    pictures (N, 1024) of them, grey, of mean 0 and norm 1."""

    light: Tensor
    lost: Tensor
    sharpness: Tensor
    small: Tensor


def image_looks(images: Tensor) -> Looks:
    """How images (B, 3, H, W) in [0, 1] look as pictures; see `Looks`.

    Lost is what is nearly black or white. Sharpness is the mean difference of a pixel to the mean of its neighbours,
    beside the standard deviation of all.
    """
    grey = images.mean(dim=1, keepdim=True)
    lost = ((grey > _LIGHT_ABOVE) | (grey < 1 - _LIGHT_ABOVE)).float().mean(dim=(1, 2, 3))
    kernel = grey.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None] / 4
    detail = F.conv2d(grey, kernel).abs().mean(dim=(1, 2, 3))
    small = F.adaptive_avg_pool2d(grey, _SMALL).flatten(1)
    small = F.normalize(small - small.mean(dim=1, keepdim=True))
    return Looks(grey.mean(dim=(1, 2, 3)), lost, detail / grey.std(dim=(1, 2, 3)).clamp_min(1e-3), small)


def find_groups(
    seen: Seen,
    belief: Belief,
    predictions: Sequence[Prediction],
    looks: Looks,
    compared: Comparison,
    rank: Mapping[int, int],
    copies: Sequence[tuple[str, str]],
) -> tuple[ImageGroup, ...]:
    """All groups of images, whose places in the audit `rank` gives by their numbers.

    `copies` are names of images that were left out, and of those they equal.
    """
    found = [
        *repeated(belief, compared),
        *near_copies(looks.small),
        *odd_ones(seen, predictions),
        *badly_taken(looks),
    ]
    groups = [
        ImageGroup(group.kind, tuple(sorted(rank[number] for number in group.images)), group.evidence)
        for group in found
    ]
    names = {ref.name: rank[number] for number, ref in enumerate(seen.refs)}
    for name in dict.fromkeys(original for _, original in copies):
        others = [copy for copy, original in copies if original == name]
        files = "file is a copy" if len(others) == 1 else "files are copies"
        evidence = f"{len(others)} other {files} of this image, such as {others[0]}"
        groups.append(ImageGroup("copies", (names[name],), evidence))
    return tuple(groups)


def repeated(belief: Belief, compared: Comparison) -> list[ImageGroup]:
    """Suspicious images that show the same: a defect, or a variant where trusted images show it too.

    Two do where one holds what speaks most against the other: a defect need not be the worst of each.
    """
    chosen = [place for place, number in enumerate(compared.numbers) if belief.suspicion[number] >= _SUSPICIOUS]
    if len(chosen) < 2:
        return []
    numbers = [compared.numbers[place] for place in chosen]
    apart = compared.distances[chosen][:, numbers].double().numpy()
    found = []
    for group in linked(np.minimum(apart, apart.T), compared.reach):
        members = [numbers[i] for i in group]
        where = "at the same place" if _overlap([compared.boxes[chosen[i]] for i in group]) else "at different places"
        known = int(np.median([compared.knowing[chosen[i]] for i in group]))
        if known >= _KNOWN_TO:
            evidence = f"{len(members)} images show the same {where}, and so do {known} images that look good otherwise"
            found.append(ImageGroup("variant", tuple(members), evidence))
        else:
            evidence = f"{len(members)} images show the same {where}, and hardly any other image does"
            found.append(ImageGroup("repeated defect", tuple(members), evidence))
    return found


def _overlap(boxes: Sequence[tuple[float, float, float, float]]) -> bool:
    """Whether each box, left, top, right and bottom, shares half of the smaller area with the first."""
    left, top, right, bottom = np.array(boxes).T
    width = (np.minimum(right, right[0]) - np.maximum(left, left[0])).clip(0)
    height = (np.minimum(bottom, bottom[0]) - np.maximum(top, top[0])).clip(0)
    areas = (right - left) * (bottom - top)
    return bool((width * height >= np.minimum(areas, areas[0]) / 2).all())


def linked(distances: NDArray[np.float64], reach: float) -> list[list[int]]:
    """Groups of two or more whose mean distances to each other are within `reach`, the largest first."""
    from scipy.cluster.hierarchy import fcluster, linkage  # a second's import
    from scipy.spatial.distance import squareform

    np.fill_diagonal(distances, 0)
    names = fcluster(linkage(squareform(distances, checks=False), "average"), reach, "distance")
    groups = [np.flatnonzero(names == name).tolist() for name in np.unique(names)]
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def near_copies(small: Tensor) -> list[ImageGroup]:
    """Images much more similar than any others, as small pictures (N, 1024): taken twice, or saved again."""
    count = len(small)
    if count < _FEWEST:
        return []
    nearest, indices = torch.full((count,), torch.inf), torch.zeros(count, dtype=torch.int64)
    for start in range(0, count, 256):
        distances = torch.cdist(small[start : start + 256], small)
        distances[torch.arange(len(distances)), start + torch.arange(len(distances))] = torch.inf
        nearest[start : start + 256], indices[start : start + 256] = distances.min(dim=1)
    groups: list[set[int]] = []
    for number in (nearest <= _NEAR_COPY * nearest.median()).nonzero()[:, 0].tolist():
        pair = {number, int(indices[number])}
        touching = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair] + [pair.union(*touching)]
    evidence = "{} pictures are nearly the same"
    ordered = sorted(sorted(group) for group in groups)
    return [ImageGroup("copies", tuple(group), evidence.format(len(group))) for group in ordered]


def odd_ones(seen: Seen, predictions: Sequence[Prediction]) -> list[ImageGroup]:
    """Images that have little in common with most: other products, cameras or lights, each group of them for itself."""
    _, *smaller = image_groups(seen.projected)
    found = [
        ImageGroup("unlike the rest", tuple(group), f"{len(group)} images are like each other and unlike all others")
        for group in smaller
    ]
    grouped = {number for group in smaller for number in group}
    alone = [n for n, prediction in enumerate(predictions) if prediction.is_unlike_training and n not in grouped]
    if alone and len(alone) < len(predictions) / 2:
        images = "image differs" if len(alone) == 1 else "images differ"
        evidence = f"{len(alone)} {images} from the others nearly everywhere"
        found.append(ImageGroup("unlike the rest", tuple(alone), evidence))
    return found


def badly_taken(looks: Looks) -> list[ImageGroup]:
    """Images much darker, brighter or less sharp than the others."""
    if len(looks.light) < _FEWEST:
        return []
    light, sharpness = _deviations(looks.light), _deviations(looks.sharpness.clamp_min(1e-4).log())
    lost = _deviations(looks.lost)
    told: list[tuple[GroupKind, Tensor, str]] = [
        ("exposure", light < -_FAR, "much darker than the others"),
        ("exposure", (light > _FAR) | ((lost > _FAR) & (light > 0)), "much brighter than the others"),
        ("blur", sharpness < -_FAR, "much less sharp than the others"),
    ]
    found = []
    for kind, chosen, what in told:
        numbers = chosen.nonzero()[:, 0].tolist()
        if numbers:
            images = "image is" if len(numbers) == 1 else "images are"
            found.append(ImageGroup(kind, tuple(numbers), f"{len(numbers)} {images} {what}"))
    return found


def _deviations(values: Tensor) -> Tensor:
    """Values (N,) as robust standard deviations from their median."""
    apart = values - values.median()
    return apart / (1.4826 * apart.abs().median()).clamp_min(_LEAST_DEVIATION)
