"""What an audit of a training folder finds: which images look anomalous, why, and which belong together."""

from dataclasses import dataclass
from typing import Literal

from softpatch.memory.belief import Belief, Hypotheses
from softpatch.results import Prediction

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the original image; the last two are the first beyond it."""
GroupKind = Literal["repeated defect", "variant", "copies", "unlike the rest", "exposure", "blur"]


@dataclass(frozen=True)
class Counterpart:
    """What a region should look like: the nearest patch of a trusted image, and where it is."""

    path: str
    box: Box


@dataclass(frozen=True)
class AuditedRegion:
    """A region that speaks against an image.

    `area` is in pixels of the original image, `peak` and `mean` are of the anomaly map. `agreeing` other images hold
    something as similar as good patches are to each other.
    """

    box: Box
    area: int
    peak: float
    mean: float
    agreeing: int
    counterpart: Counterpart | None


@dataclass(frozen=True, eq=False)
class AuditedImage:
    """A training image, judged as if it had not been learned from.

    `suspicion` in [0, 1] is the probability that it is anomalous (see `softpatch.memory.belief`), `evidence` what
    that is computed from. `regions` come highest first; `prediction` holds the score, the threshold and the map.
    """

    path: str
    suspicion: float
    evidence: float
    prediction: Prediction
    regions: tuple[AuditedRegion, ...]


@dataclass(frozen=True)
class ImageGroup:
    """Images that belong together: what `kind` of group, numbers into `FolderAudit.images`, and the evidence.

    `evidence` is one sentence, such as "14 images show the same at the same place".
    """

    kind: GroupKind
    images: tuple[int, ...]
    evidence: str


@dataclass(frozen=True, eq=False)
class FolderAudit:
    """Images, the most suspicious first, groups of them, and what the questions are chosen by."""

    images: tuple[AuditedImage, ...]
    groups: tuple[ImageGroup, ...]
    belief: Belief
    hypotheses: Hypotheses
