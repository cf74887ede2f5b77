"""Contaminate a clean training set with anomalous images, as section 4 of the SoftPatch+ paper does.

- `clean`: nothing is added; the upper bound.
- `no-overlap`: anomalous test images move into training and leave the test set.
- `overlap`: they stay in the test set; what enters training is a copy, slightly turned, shifted and noisy.
- `overlap-distinct`: the same, with each anomalous image at most once, so that a ratio is reached only as far as
  there are such images (as in MeDS, arXiv 2605.26676).

Every good training image stays. Reference: Wang et al., "SoftPatch+: Fully Unsupervised Anomaly
Classification and Segmentation".
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from softpatch.config import PROTOCOLS, one_of
from softpatch.data.decode import read_image
from softpatch.data.images import ImageRef
from softpatch.data.layouts import Dataset, Sample
from softpatch.data.pixels import ValueRange
from softpatch.errors import InputError

MAX_DEGREES = 3.0
MAX_SHIFT = 0.03
"""The largest shift, as a share of the image's side."""
NOISE_DEVIATION = 0.005
"""Standard deviation of the noise added to pixels in [0, 1], about one grey level: what differs between two shots of an
industrial camera. The paper leaves it open; more (0.02) makes copies so unlike that they hardly contaminate."""


@dataclass(frozen=True)
class ContaminatedSplit:
    """What a protocol makes of a dataset.

    `train` is all the good training images in order, then the anomalous ones, and `train_is_anomalous` says
    which is which. `injected` are the paths of the anomalous test images that entered training, in the order
    they were drawn; in `overlap` one may be drawn again.
    """

    train: tuple[ImageRef, ...]
    train_is_anomalous: tuple[bool, ...]
    test: tuple[Sample, ...]
    injected: tuple[str, ...]


@dataclass(frozen=True)
class Augmentation:
    """One fixed small disturbance of an image, as a camera that was knocked would make it.

    The image is turned counter-clockwise by `degrees` about its centre, then shifted right by `shift_x` of
    its width and down by `shift_y` of its height, its border pixels repeated outwards; then Gaussian noise
    drawn from `noise_seed` is added. The same values give the same pixels, whoever asks and when.
    """

    degrees: float
    shift_x: float
    shift_y: float
    noise_seed: int
    noise_deviation: float = NOISE_DEVIATION

    def apply(self, image: Tensor) -> Tensor:
        """Disturb an image: (3, H, W) in [0, 1] -> the same shape and range."""
        height, width = image.shape[1:]
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        # from an output to an input position, both in [-1, 1]: shift back, then turn back in square pixels
        turn_back = torch.tensor([[cos, -sin * height / width], [sin * width / height, cos]])
        shift_back = turn_back @ torch.tensor([[-2.0 * self.shift_x], [-2.0 * self.shift_y]])
        theta = torch.cat([turn_back, shift_back], dim=1)[None]  # (1, 2, 3)
        grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
        moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
        noise = np.random.default_rng(self.noise_seed).standard_normal(image.shape, dtype=np.float32)
        return moved.add_(torch.from_numpy(noise), alpha=self.noise_deviation).clamp_(0, 1)


def contaminate(dataset: Dataset, *, protocol: str, noise_ratio: float, seed: int) -> ContaminatedSplit:
    """Add floor(`noise_ratio` x training images) anomalous test images to the training set.

    `protocol` is one of `PROTOCOLS`; "overlap-distinct" adds no more than there are. `seed` alone decides which images
    are drawn and how copies are disturbed; with the same seed a smaller ratio draws a part of what a larger one draws.
    Images that the dataset itself labels anomalous in `train` stay there, in every protocol.

    Raises `InputError` for an unknown protocol, a ratio outside [0, 1] or not 0 in `clean`, a negative seed,
    and a ratio that asks for more anomalous images than the test set can give.
    """
    _check(protocol, noise_ratio, seed)
    anomalous = [sample for sample in dataset.test if sample.is_anomalous]
    # the tolerance takes 0.29 * 100 = 28.999999999999996 as the 29 it means
    count = math.floor(noise_ratio * len(dataset.train) + 1e-6)
    if count and not anomalous:
        raise InputError(f"`noise_ratio` {noise_ratio} needs anomalous test images; {dataset.root} has none")
    if protocol == "no-overlap" and 0 < len(anomalous) <= count:
        raise InputError(_too_many(noise_ratio, count, len(anomalous), len(dataset.train)))

    if protocol == "overlap-distinct":
        count = min(count, len(anomalous))
    drawn = _draw(anomalous, count, seed)
    test = dataset.test
    if protocol == "no-overlap":
        moved = set(drawn)
        test = tuple(sample for sample in test if sample not in moved)
        injected = [sample.ref for sample in drawn]
    else:
        injected = _disturbed_copies(drawn, seed)
    known = sorted(dataset.train, key=lambda sample: sample.is_anomalous)  # stable, good ones first
    return ContaminatedSplit(
        train=(*(sample.ref for sample in known), *injected),
        train_is_anomalous=(*(sample.is_anomalous for sample in known), *(True for _ in injected)),
        test=test,
        injected=tuple(str(sample.path) for sample in drawn),
    )


def draw_augmentation(seed: int, copy: int) -> Augmentation:
    """Draw the disturbance of the `copy`-th injected image: uniform within `MAX_DEGREES` and `MAX_SHIFT`."""
    rng = np.random.default_rng((seed, 1, copy))
    degrees, shift_x, shift_y = rng.uniform(-1, 1, 3) * (MAX_DEGREES, MAX_SHIFT, MAX_SHIFT)
    return Augmentation(float(degrees), float(shift_x), float(shift_y), noise_seed=int(rng.integers(2**63)))


def _check(protocol: str, noise_ratio: float, seed: int) -> None:
    one_of("protocol", protocol, PROTOCOLS)
    if not 0 <= noise_ratio <= 1:
        raise InputError(f"`noise_ratio` is {noise_ratio}; it lies between 0 and 1")
    if protocol == "clean" and noise_ratio != 0:
        raise InputError(f"`noise_ratio` is {noise_ratio} in the protocol 'clean', which adds nothing; give 0")
    if seed < 0:
        raise InputError(f"`seed` is {seed}; it is a whole number, 0 or more")


def _too_many(noise_ratio: float, count: int, available: int, train: int) -> str:
    digits = len(str(train))  # enough to tell one training image from the next
    largest = math.ceil((available - 1) / train * 10**digits) / 10**digits
    return (
        f"`noise_ratio` {noise_ratio} asks for {count} of the {available} anomalous test images and leaves "
        f"none to test with; the largest possible ratio is {largest}"
    )


def _draw(anomalous: list[Sample], count: int, seed: int) -> list[Sample]:
    """Draw without replacement, and from all of them anew once none is left."""
    rng = np.random.default_rng((seed, 0))
    drawn: list[Sample] = []
    while len(drawn) < count:
        drawn += [anomalous[i] for i in rng.permutation(len(anomalous))]
    return drawn[:count]


def _disturbed_copies(drawn: list[Sample], seed: int) -> list[ImageRef]:
    copies: Counter[Path] = Counter()
    refs = []
    for i, sample in enumerate(drawn):
        copies[sample.path] += 1
        read = partial(_read_disturbed, sample.path, draw_augmentation(seed, i))
        refs.append(ImageRef(f"{sample.path} (copy {copies[sample.path]})", read))
    return refs


def _read_disturbed(path: Path, augmentation: Augmentation, value_range: ValueRange | None) -> Tensor:
    return augmentation.apply(read_image(path, value_range))
