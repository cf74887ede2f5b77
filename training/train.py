"""Make the weights of the built-in backbone: `python training/train.py --teacher FILE -o builtin-v1.safetensors`.

The student learns to give, for procedural pictures, two maps of the teacher's, and the differences between its maps of
a scene and of the same scene slightly altered. A run that was interrupted goes on from its last checkpoint; the same
arguments give the same pictures in the same order.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from muon import Muon
from pictures import alter_pictures, draw_pictures
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from teacher import load_teacher, teacher_features
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softpatch.atomic import replacing
from softpatch.features.builtin import MEAN, STD, BuiltinNetwork
from softpatch.features.folding import fold_batch_norm
from softpatch.features.weights import weights_digest

SIZES = ((128, 64), (128, 64), (192, 28))
"""Side and number of the pictures of one batch after another, half of them altered copies of the others."""
HELD_OUT = 1_000_000_000
"""Seeds from here on are never trained on."""
LESSON, PASSES = 256, 6
"""Batches that are drawn and taught together, and how often each of them is learned from: to draw a batch and to ask
the teacher takes as long as to learn from it three times."""
BLOCKS = (5, 12)
"""The teacher's blocks whose maps are learned, of stride 8 and 16."""
SCALES = (1, 2)
"""How many times larger the teacher sees the pictures: both maps come to a cell for every 8 pixels. Enlarged, it looks
at details and their near surroundings instead of whole objects."""
CHANNELS = (32, 96)
WEIGHTS = (0.2, 0.12)
"""Standard deviation of the student's channels, map by map: both maps count alike in a distance, and distances are
about as large as a ResNet-18's."""
FAINTEST = (0.1, 0.02)
"""Share of the mean variance below which what varies in a picture, and what differs in a pair, counts for less."""
MARGIN = 16
"""The teacher sees pictures mirrored this many pixels beyond their border: its zero padding leaves no trace."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the teacher."""

    steps: int
    seed: int
    learning_rate: float = 0.04
    learning_rate_adamw: float = 6e-3
    warmup: float = 0.04
    weight_decay: float = 0.02
    average: float = 0.998


@dataclass(frozen=True)
class Targets:
    """How the teacher's maps become what the student learns: (map - mean) * scale, of variance `WEIGHTS`²."""

    means: list[Tensor]
    scales: list[Tensor]

    def __call__(self, maps: list[Tensor]) -> Tensor:
        """Bring maps (B, C, H, W) of several C to one float32 map of all their channels."""
        scaled = [
            (each.float() - mean[:, None, None]) * scale
            for each, mean, scale in zip(maps, self.means, self.scales, strict=True)
        ]
        return torch.cat(scaled, dim=1)


class Batches(Dataset[Tensor]):
    """Batch after batch of `_pairs`, uint8; the number of a batch is its seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, batch: int) -> Tensor:
        torch.set_num_threads(1)
        size, count = SIZES[batch % len(SIZES)]
        return _pairs(count, size, self.seed * HELD_OUT // 1000 + batch)


def _pairs(count: int, size: int, seed: int) -> Tensor:
    """Pictures (count, 3, size, size), uint8: the second half shows the scenes of the first half once more, altered."""
    pictures = draw_pictures(count // 2, size, seed)
    return (torch.cat([pictures, alter_pictures(pictures, seed)]) * 255).round().to(torch.uint8)


def make_targets(teacher: dict[str, Tensor], device: str) -> Targets:
    """Measure the teacher's features on held-out pictures."""
    batches = [_taught(teacher, draw_pictures(64, 192, HELD_OUT + batch).to(device)) for batch in range(6)]
    means, scales = [], []
    for weight, maps in zip(WEIGHTS, zip(*batches, strict=True), strict=True):
        values = torch.cat([each.float().transpose(0, 1).flatten(1) for each in maps], dim=1)  # (C, n)
        means.append(values.mean(dim=1))
        scales.append(weight / values.var(dim=1).mean().sqrt())
    return Targets(means, scales)


def _taught(teacher: dict[str, Tensor], pictures: Tensor) -> list[Tensor]:
    """The teacher's maps of pictures (B, 3, S, S) in [0, 1]: (B, `CHANNELS`, S/8, S/8) each."""
    wider, cells = F.pad(pictures, (MARGIN, MARGIN, MARGIN, MARGIN), mode="reflect"), MARGIN // 8
    maps = []
    for block, scale in zip(BLOCKS, SCALES, strict=True):
        seen = F.interpolate(wider, scale_factor=scale, mode="bicubic").clamp(0, 1) if scale > 1 else wider
        with torch.autocast(pictures.device.type, torch.bfloat16):
            maps.append(teacher_features(teacher, seen, block)[..., cells:-cells, cells:-cells])
    return maps


def lessons(
    recipe: Recipe, teacher: dict[str, Tensor], targets: Targets, device: str, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give, from step `start` on, pictures (B, 3, S, S) in [0, 1] and the map (B, C, S/8, S/8) to learn from them."""
    step = start - start % (LESSON * PASSES)
    numbers = range(step // PASSES, step // PASSES + recipe.steps)
    drawn = DataLoader(
        Batches(numbers.stop, recipe.seed), batch_size=None, sampler=numbers, num_workers=1, prefetch_factor=4
    )
    lesson: list[tuple[Tensor, Tensor]] = []
    for batch in drawn:
        pictures = batch.to(device)
        lesson.append((pictures, targets(_taught(teacher, pictures / 255)).half()))
        again = [len(lesson) - 1]
        if len(lesson) == LESSON:
            random = torch.Generator().manual_seed(step)
            again += [int(index) for _ in range(1, PASSES) for index in torch.randperm(LESSON, generator=random)]
        for index in again:
            if step >= start:
                pictures, wanted = lesson[index]
                yield pictures / 255, wanted.float()
            step += 1
        if len(lesson) == LESSON:
            lesson = []


def feature_errors(network: nn.Module, held_out: list[tuple[Tensor, Tensor]]) -> list[list[float]]:
    """`misses`, maps x 2, averaged over batches of pictures and the maps wanted for them."""
    network.eval()
    with torch.inference_mode():
        missed = [misses(*network(_scaled(pictures)), wanted) for pictures, wanted in held_out]
    network.train()
    found: list[list[float]] = torch.stack(missed).mean(dim=0).mul(1e4).round().div(1e4).tolist()
    return found


def misses(given: Tensor, wanted: Tensor) -> Tensor:
    """What the student misses of each map of `_pairs`, and of the differences within pairs: (maps, 2).

    A squared error is taken as a share of what varies within that picture or differs within that pair, so that faint
    textures and faint defects count as much as plain ones; `FAINTEST` keeps noise from counting.
    """
    missed = []
    for ours, theirs, weight in zip(given.split(CHANNELS, 1), wanted.split(CHANNELS, 1), WEIGHTS, strict=True):
        varying = theirs - theirs.mean(dim=(2, 3), keepdim=True)
        our_change, their_change = (torch.sub(*maps.float().chunk(2)) for maps in (ours, theirs))
        missed += [
            _share(ours.float() - theirs, varying, FAINTEST[0] * weight**2),
            _share(our_change - their_change, their_change, FAINTEST[1] * weight**2),
        ]
    return torch.stack(missed).view(-1, 2)


def _share(errors: Tensor, values: Tensor, least: float) -> Tensor:
    """The mean over pictures (B, C, H, W) of squared errors over squared values plus `least`."""
    errors, values = (maps.square().mean(dim=(1, 2, 3)) for maps in (errors, values))
    return (errors / (values + least)).mean()


def _scaled(pictures: Tensor) -> Tensor:
    return ((pictures - MEAN) / STD).to(memory_format=torch.channels_last)


def train(recipe: Recipe, teacher_path: Path, folder: Path, device: str, limit_s: float) -> nn.Module:
    """Train until `recipe.steps`, or stop in good order after `limit_s` seconds; checkpoints go to `folder`."""
    torch.manual_seed(recipe.seed)
    teacher = {name: value.to(device) for name, value in load_teacher(teacher_path).items()}
    targets = make_targets(teacher, device)
    pictures = [_pairs(32, 224, HELD_OUT + 1000 + batch).to(device) / 255 for batch in range(4)]
    held_out = [(each, targets(_taught(teacher, each))) for each in pictures]
    student: nn.Module = BuiltinNetwork(nn.BatchNorm2d).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = torch.optim.swa_utils.AveragedModel(student, avg_fn=partial(_average, recipe.average), use_buffers=True)
    optimisers = make_optimisers(student, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, partial(_rate, recipe)) for each in optimisers]
    parts = {"student": student, "averaged": averaged}
    for name, optimiser, schedule in zip(("muon", "adamw"), optimisers, schedules, strict=True):
        parts |= {name: optimiser, f"{name}_schedule": schedule}
    checkpoint, start, log = folder / "checkpoint.pt", 0, folder / "log.jsonl"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["recipe"] != asdict(recipe):
            raise SystemExit(f"{checkpoint} is of another recipe, {saved['recipe']}; name another folder")
        start = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    def save(step: int) -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        with replacing(checkpoint) as temporary:
            torch.save({"recipe": asdict(recipe), "step": step, **states}, temporary)
        errors = feature_errors(averaged.module, held_out)
        with log.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(time.monotonic() - began), "missed": errors}) + "\n")

    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    taught = lessons(recipe, teacher, targets, device, start)
    with Progress(*columns) as bars:
        bar = bars.add_task("training", total=recipe.steps, completed=start)
        for step, (shown, wanted) in zip(range(start + 1, recipe.steps + 1), taught, strict=False):
            with torch.autocast(shown.device.type, torch.bfloat16):
                (given,) = student(_scaled(shown))
            loss = misses(given, wanted).sum()
            student.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            for optimiser, schedule in zip(optimisers, schedules, strict=True):
                optimiser.step()
                schedule.step()
            averaged.update_parameters(student)
            bars.update(bar, completed=step, description=f"training, loss {float(loss.detach()):.3f}")
            if step % 1_000 == 0 or step == recipe.steps:
                save(step)
            if time.monotonic() - began > limit_s:
                save(step)
                raise SystemExit(f"time is over at step {step} of {recipe.steps}; the same command goes on from here")
    return averaged.module


def make_optimisers(student: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions that mix channels, AdamW for the rest: stem, head, kernels by channel, norms."""
    inner = [name for name, each in student.named_parameters() if each.ndim == 4 and each.shape[1] > 3]
    inner.remove("head.weight")
    mixing = [each for name, each in student.named_parameters() if name in inner]
    rest = [each for name, each in student.named_parameters() if name not in inner]
    return [
        Muon(mixing, recipe.learning_rate),
        torch.optim.AdamW(rest, recipe.learning_rate_adamw, weight_decay=recipe.weight_decay),
    ]


def _rate(recipe: Recipe, step: int) -> float:
    """The share of the learning rate at a step: a linear rise, then half a cosine down to zero."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup))


def _average(decay: float, averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
    """The exponential moving average, with a shorter memory at first: the untrained network is forgotten soon."""
    return averaged + (current - averaged) * (1 - ((1 + count) / (10 + count)).clamp_max(decay))


def write_weights(network: nn.Module, path: Path) -> None:
    """Fold the batch norms and write what is left in half precision."""
    network = network.cpu().eval()
    folded = fold_batch_norm(network, torch.rand(1, 3, 224, 224))
    if any(isinstance(module, nn.BatchNorm2d) for module in folded.modules()):
        raise SystemExit("a batch norm could not be folded; nothing is written")
    with replacing(path) as temporary:
        save_file({name: value.half().contiguous() for name, value in folded.state_dict().items()}, temporary)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="MobileNetV2 weights, safetensors")
    parser.add_argument("--steps", type=int, default=15_360)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=Path("training-run"), help="for checkpoints and the log")
    parser.add_argument("--hours", type=float, default=1e6, help="stop in good order after this time")
    parser.add_argument("-o", "--output", type=Path, default=Path("builtin-v1.safetensors"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(arguments.steps, arguments.seed)
    network = train(recipe, arguments.teacher, arguments.folder, arguments.device, arguments.hours * 3600)
    write_weights(network, arguments.output)
    written = {name: value.float() for name, value in load_file(arguments.output).items()}
    count = sum(value.numel() for value in written.values())
    print(f"{arguments.output}: {count:,} numbers, digest {weights_digest(written)}")


if __name__ == "__main__":
    main()
