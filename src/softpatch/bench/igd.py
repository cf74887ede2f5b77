"""IGD: interpolated Gaussian descriptors, one of whole images and one of their patches (Chen et al. 2022).

An encoder f takes what it sees to a latent z, and a decoder g draws it again. What is drawn should look like what was
seen: MS-SSIM and absolute difference. z should lie near the centre μ of a Gaussian of spread σ², both estimated anew
from time to time: 1 - exp(-‖z - μ‖² / σ²). And a critic should take what g draws of a mixture s·z₁ + (1-s)·z₂ for none,
while it learns to tell the share s. What is drawn badly or lies far from μ is anomalous.

As in the paper, the encoder of whole images is a linear map of pooled features of the backbone, and the patches are of
32 px, 16 px apart. Their encoder is learned from scratch here, where the authors' is distilled from an ImageNet network
beforehand; instead, encoder and decoder learn to draw for a while before there is a Gaussian. The networks are plainer
than the authors', and without batch norm; norms in the encoder would hide how bright a patch is.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from softpatch.bench.features import Features
from softpatch.bench.outcome import Outcome
from softpatch.bench.structure import error_maps, reconstruction_errors
from softpatch.config import Settings
from softpatch.data.contamination import ContaminatedSplit
from softpatch.progress import Progress
from softpatch.scoring.anomaly_map import anomaly_maps

LATENT, FOOLING, BLEND = 128, 0.1, 0.2
"""Numbers in a latent, the critic's weight in the loss, and how much of the image is left in the reconstruction that
the critic learns to take for no mixture: as in the paper."""


@dataclass(frozen=True)
class View:
    """What a descriptor looks at: squares of `side` px in images of `size` px, a new one every `stride` px.

    `window` is that of SSIM, in px, `batch` the images in a step, and `drawing` the weight of the reconstruction error
    in the anomaly score; the rest is the Gaussian's.
    """

    size: int
    side: int
    stride: int
    window: int
    batch: int
    drawing: float

    @property
    def whole(self) -> bool:
        """Whether it is the image itself."""
        return self.side == self.size

    def squares(self, images: Tensor) -> Tensor:
        """The n squares of each of B images (B, 3, size, size): (B·n, 3, side, side)."""
        columns = F.unfold(images, self.side, stride=self.stride)  # (B, 3·side², n)
        return columns.mT.reshape(-1, 3, self.side, self.side)

    def together(self, maps: Tensor, count: int) -> Tensor:
        """Maps (count·n, side, side) of squares as maps of their images (count, size, size), averaged."""
        columns = maps.reshape(count, -1, self.side**2).mT
        total, covered = (
            F.fold(each, (self.size, self.size), self.side, stride=self.stride)[:, 0]
            for each in (columns, torch.ones_like(columns))
        )
        return total / covered


def views(size: int) -> tuple[View, View]:
    """Whole images of `size` px, and their patches, as in the paper."""
    whole = View(size, size, size, window=11, batch=16, drawing=0.1)
    return whole, View(size, 32, 16, window=3, batch=2, drawing=0.9)


@dataclass(frozen=True)
class Training:
    """How long a descriptor is trained, `epochs` over the images but at most `images`, and how wide its networks are.

    In the course of it the Gaussian is estimated `estimates` times.
    """

    epochs: int
    images: int
    width: int = 64
    learning_rate: float = 1e-4
    estimates: int = 26


BUDGETS = {"paper": Training(epochs=256, images=10**9), "small": Training(epochs=10**9, images=1600, width=16,
                                                                         learning_rate=2e-3, estimates=5)}  # fmt: skip
"""The paper's 256 epochs with an estimate every ten, or what two cores do in about ten minutes."""
ALONE = 0.25
"""Share of the training before the Gaussian pulls: latents that mean nothing yet it would draw to one point."""


def pooled_and_pixels(maps: Sequence[Tensor]) -> Tensor:
    """The channels' means in the maps (B, C, H, W) of several layers, and the last of them, the images: float16."""
    *layers, images = maps
    return torch.cat([*(layer.mean(dim=(2, 3)) for layer in layers), images.flatten(1)], dim=1).half()


def run(
    split: ContaminatedSplit, features: Features, settings: Settings, budget: str, *, progress: Progress
) -> Outcome:
    """Fit the training images of a split and judge its test images."""
    train = features.of(split.train, settings.seed, progress=progress)
    test = features.of([sample.ref for sample in split.test], settings.seed, progress=progress)
    size = settings.seen_side // 32 * 32  # what can be halved often
    scores, maps = torch.zeros(len(test)), torch.zeros(len(test), size, size)
    fitting = predicting = 0.0
    for number, view in enumerate(views(size)):
        began = time.perf_counter()
        pooled = sum(shape[0] for shape in features.shapes[:-1])
        descriptor = Descriptor(view, pooled, BUDGETS[budget].width, settings.seed + number)
        descriptor.to(features.backbone.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        train_descriptor(descriptor, train, BUDGETS[budget], settings.seed + number, progress=progress)
        fitted = time.perf_counter()
        its_scores, its_maps = judge(descriptor, test, progress=progress)
        scores, maps = scores + its_scores / 2, maps + its_maps / 2
        fitting, predicting = fitting + fitted - began, predicting + time.perf_counter() - fitted
    resized = anomaly_maps(maps, features.map_shape, 0.0)
    return Outcome(scores.numpy(), list(resized.numpy()), fitting, predicting)


class Descriptor(nn.Module):
    """Encoder, decoder and critic of a view, and the Gaussian of its latents: `centre` μ (128,) and `spread` σ² ().

    `pooled` is how many of the numbers of `pooled_and_pixels` are not pixels. Weights are drawn from `seed`.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, view: View, pooled: int, width: int, seed: int) -> None:
        super().__init__()
        self.view, self.pooled = view, pooled
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Linear(pooled, LATENT) if view.whole else looking_network(view.side, width, LATENT)
            self.decoder = drawing_network(view.side, width)
            self.critic = looking_network(view.side, width, 1)
        self.register_buffer("centre", torch.zeros(LATENT))
        self.register_buffer("spread", torch.ones(()))

    def sights(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder takes, and the squares (B·n, 3, side, side), of B images as of `pooled_and_pixels`."""
        vectors = vectors.to(self.centre.device).float()
        features, pixels = vectors[:, : self.pooled], vectors[:, self.pooled :]
        crop, size = math.isqrt(pixels.shape[1] // 3), self.view.size
        images = pixels.view(-1, 3, crop, crop)
        if crop != size:
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        squares = self.view.squares(images)
        return (features if self.view.whole else squares), squares

    def improbabilities(self, latents: Tensor) -> Tensor:
        """How improbable latents (n, 128) are: 1 - exp(-‖z - μ‖² / σ²) in [0, 1], (n,)."""
        return 1 - torch.exp(-(latents - self.centre).square().sum(dim=1) / self.spread)


def halvings(side: int) -> int:
    """How often a side can be halved without rest, to no less than 4."""
    return next(times for times in range(side) if (side >> times) % 2 or side >> times < 8)


def looking_network(side: int, width: int, outputs: int) -> nn.Sequential:
    """A network from images (B, 3, side, side) to vectors (B, outputs)."""
    blocks: list[nn.Module] = []
    channels = [3, *_channels(side, width)]
    for before, after in pairwise(channels):
        blocks += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels[-1] * (side >> halvings(side)) ** 2, outputs))


def drawing_network(side: int, width: int) -> nn.Sequential:
    """A network from latents (B, 128) to images (B, 3, side, side)."""
    channels, start = _channels(side, width)[::-1], side >> halvings(side)
    blocks: list[nn.Module] = [nn.Linear(LATENT, channels[0] * start**2), nn.Unflatten(1, (channels[0], start, start))]
    for before, after in pairwise(channels):
        blocks += [_double(before, after), nn.GroupNorm(1, after), nn.ReLU()]
    return nn.Sequential(*blocks, _double(channels[-1], 3))


def _channels(side: int, width: int) -> list[int]:
    """Channels after each halving."""
    return [width * min(8, 2**times) for times in range(halvings(side))]


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1))


def train_descriptor(
    descriptor: Descriptor, vectors: Tensor, training: Training, seed: int, *, progress: Progress
) -> list[float]:
    """Teach a descriptor the images of `pooled_and_pixels` (N, all); return the loss of each step."""
    view, random = descriptor.view, torch.Generator().manual_seed(seed)
    artist = _optimiser([*descriptor.encoder.parameters(), *descriptor.decoder.parameters()], training)
    critic = _optimiser([*descriptor.critic.parameters()], training)
    steps = -(-min(training.images, training.epochs * len(vectors)) // view.batch)
    alone = int(ALONE * steps)
    every = -(-(steps - alone) // training.estimates)
    schedules = [torch.optim.lr_scheduler.PolynomialLR(each, steps, power=0.9) for each in (artist, critic)]
    batches, losses = _shuffled(len(vectors), view.batch, random), []
    for step in range(steps):
        if step >= alone and (step - alone) % every == 0:
            estimate_gaussian(descriptor, vectors)
        seen, squares = descriptor.sights(vectors[next(batches)])
        latents = descriptor.encoder(seen)
        shares = torch.rand(len(latents), 1, generator=random).to(latents.device) / 2
        drawn, mixed = descriptor.decoder(latents), descriptor.decoder(mixtures(latents, shares))
        errors = reconstruction_errors(squares, drawn, view.window)
        if step >= alone:
            errors = errors + descriptor.improbabilities(latents)
        loss = errors.mean() + FOOLING * descriptor.critic(mixed).square().mean()
        _step(artist, loss)
        _step(critic, critic_loss(descriptor.critic, squares, drawn.detach(), mixed.detach(), shares))
        for schedule in schedules:
            schedule.step()
        losses.append(loss.item())
        progress("training", step + 1, steps)
    estimate_gaussian(descriptor, vectors)
    return losses


def mixtures(latents: Tensor, shares: Tensor) -> Tensor:
    """Mix latents (n, 128), by shares s (n, 1), with those at the other end of the batch: s·z₁ + (1-s)·z₂."""
    return shares * latents + (1 - shares) * latents.flip(0)


def critic_loss(
    critic: Callable[[Tensor], Tensor], squares: Tensor, drawn: Tensor, mixed: Tensor, shares: Tensor
) -> Tensor:
    """How badly a critic tells the shares (n, 1) of mixtures, and 0 of what was drawn of one square."""
    plain = BLEND * squares + (1 - BLEND) * drawn
    return (critic(mixed) - shares).square().mean() + critic(plain).square().mean()


@torch.no_grad()
def estimate_gaussian(descriptor: Descriptor, vectors: Tensor) -> None:
    """Set μ to the mean of the training images' latents, no entry of it within 0.1 of 0, and σ² to their mean squared
    distance from it, at least 1."""
    parts = torch.split(vectors, descriptor.view.batch)
    latents = torch.cat([descriptor.encoder(descriptor.sights(part)[0]) for part in parts])
    centre = latents.mean(dim=0)
    descriptor.centre.copy_(centre.abs().clamp_min(0.1).copysign(centre))
    descriptor.spread.copy_((latents - descriptor.centre).square().sum(dim=1).mean().clamp_min(1))


@torch.inference_mode()
def judge(descriptor: Descriptor, vectors: Tensor, *, progress: Progress) -> tuple[Tensor, Tensor]:
    """Image scores (N,), the largest of an image's squares, and reconstruction error maps (N, size, size)."""
    view, scores, maps = descriptor.view, [], []
    for part in torch.split(vectors, view.batch):
        seen, squares = descriptor.sights(part)
        latents = descriptor.encoder(seen)
        drawn = descriptor.decoder(latents)
        errors, improbable = reconstruction_errors(squares, drawn, view.window), descriptor.improbabilities(latents)
        found = view.drawing * errors + (1 - view.drawing) * improbable
        scores.append(found.view(len(part), -1).amax(dim=1).cpu())
        maps.append(view.together(error_maps(squares, drawn, view.window), len(part)).cpu())
        progress("predict", sum(map(len, scores)), len(vectors))
    return torch.cat(scores), torch.cat(maps)


def _optimiser(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, training.learning_rate, betas=(0.0, 0.9), weight_decay=1e-6)


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _shuffled(count: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Batches of numbers below `count`, in another random order in every epoch, for ever."""
    while True:
        yield from torch.split(torch.randperm(count, generator=random), size)
