"""Make the weights of the built-in backbone: `python training/train.py --teacher FILE -o builtin-v1.safetensors`.

The student learns to give, for procedural pictures, the teacher's features, each tap turned to its principal axes and
cut to the first of them, which keeps most of each distance. A run that was interrupted goes on from its last
checkpoint; the same arguments give the same pictures in the same order.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from pictures import draw_pictures
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from teacher import load_teacher, teacher_features
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softpatch.atomic import replacing
from softpatch.features.builtin import FEATURES, BuiltinNetwork
from softpatch.features.folding import fold_batch_norm

SIZES = ((128, 64), (128, 64), (192, 28))
"""Side and number of the pictures of one batch after another."""
HELD_OUT = 1_000_000_000
"""Seeds from here on are never trained on."""
WEIGHTS = (1.0, 0.7)
"""Standard deviation of the student's channels, map by map: the coarse map counts for less in a distance."""
MARGIN = 16
"""The teacher sees pictures mirrored this far beyond their border, so that its zero padding leaves no trace."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the teacher."""

    steps: int
    seed: int
    learning_rate: float = 3e-3
    warmup: float = 0.04
    weight_decay: float = 0.02
    average: float = 0.998


@dataclass(frozen=True)
class Targets:
    """How a tap of the teacher becomes what the student learns: (features - mean) @ axes, axes orthogonal.

    They are scaled to `WEIGHTS`: the variance of a map, averaged over its channels, is WEIGHTS².
    """

    means: list[Tensor]
    axes: list[Tensor]

    def __call__(self, taps: list[Tensor]) -> list[Tensor]:
        """Bring taps (B, C, H, W) to targets (B, K, H, W)."""
        return [
            torch.einsum("bchw,ck->bkhw", tap.float() - mean[:, None, None], axis)
            for tap, mean, axis in zip(taps, self.means, self.axes, strict=True)
        ]


class Batches(Dataset[Tensor]):
    """Batch after batch of pictures; the number of a batch is its seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> Tensor:
        torch.set_num_threads(1)
        size, count = SIZES[step % len(SIZES)]
        return draw_pictures(count, size, self.seed * HELD_OUT // 1000 + step)


def make_targets(teacher: dict[str, Tensor], device: str, batches: int = 24) -> Targets:
    """Measure the teacher's features on held-out pictures, borders left out, and choose axes for the student."""
    sums: list[list[Tensor]] = []
    for batch in range(batches):
        pictures = draw_pictures(64, 192, HELD_OUT + batch).to(device)
        for tap, features in enumerate(_taught(teacher, pictures)):
            values = features[:, :, 2:-2, 2:-2].transpose(0, 1).flatten(1).double()  # (C, n)
            found = [torch.tensor(values.shape[1]), values.sum(dim=1), values @ values.T]
            if batch == 0:
                sums.append(found)
            else:
                sums[tap] = [old + new for old, new in zip(sums[tap], found, strict=True)]
    means, axes = [], []
    for (count, total, squares), size, weight in zip(sums, FEATURES, WEIGHTS, strict=True):
        mean = total / count
        covariance = squares / count - mean[:, None] * mean
        variances, vectors = (part.flip(-1)[..., :size] for part in torch.linalg.eigh(covariance))
        signs = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
        means.append(mean.float())
        axes.append((vectors * signs * weight / variances.mean().sqrt()).float())
    return Targets(means, axes)


def _taught(teacher: dict[str, Tensor], pictures: Tensor) -> list[Tensor]:
    wider = F.pad(pictures, (MARGIN, MARGIN, MARGIN, MARGIN), mode="reflect")
    with torch.autocast(pictures.device.type, torch.bfloat16):
        taps = teacher_features(teacher, wider)
    margins = (MARGIN * tap.shape[3] // wider.shape[3] for tap in taps)
    return [tap[..., m:-m, m:-m] for tap, m in zip(taps, margins, strict=True)]


def feature_errors(network: nn.Module, teacher: dict[str, Tensor], targets: Targets, device: str) -> list[float]:
    """The share of the targets' variance that the student misses, per map, on held-out pictures of 224 px."""
    missed = torch.zeros(len(FEATURES), dtype=torch.float64)
    network.eval()
    for batch in range(4):
        pictures = draw_pictures(32, 224, HELD_OUT + 1000 + batch).to(device)
        with torch.inference_mode():
            missed += torch.stack(_misses(network(_scaled(pictures)), targets(_taught(teacher, pictures)))) / 4
    network.train()
    return [round(float(value), 4) for value in missed]


def _misses(given: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    """The squared error of each map as a share of the variance it should have."""
    return [
        (ours.float() - theirs).square().mean() / weight**2
        for ours, theirs, weight in zip(given, wanted, WEIGHTS, strict=True)
    ]


def _scaled(pictures: Tensor) -> Tensor:
    return ((pictures - 0.5) / 0.25).to(memory_format=torch.channels_last)


def train(recipe: Recipe, teacher_path: Path, folder: Path, device: str, limit_s: float) -> nn.Module:
    """Train until `recipe.steps`, or stop in good order after `limit_s` seconds; checkpoints go to `folder`."""
    torch.manual_seed(recipe.seed)
    teacher = {name: value.to(device) for name, value in load_teacher(teacher_path).items()}
    targets = make_targets(teacher, device)
    student: nn.Module = BuiltinNetwork(nn.BatchNorm2d).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = torch.optim.swa_utils.AveragedModel(student, avg_fn=partial(_average, recipe.average), use_buffers=True)
    optimiser = torch.optim.AdamW(student.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    warmup = max(1, round(recipe.warmup * recipe.steps))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps - warmup),
        ],
        [warmup],
    )
    parts = {"student": student, "averaged": averaged, "optimiser": optimiser, "schedule": schedule}
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
        errors = feature_errors(averaged.module, teacher, targets, device)
        with log.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(time.monotonic() - began), "missed": errors}) + "\n")

    began = time.monotonic()
    batches = Batches(recipe.steps, recipe.seed)
    loader = DataLoader(batches, batch_size=None, sampler=range(start, recipe.steps), num_workers=1, prefetch_factor=4)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        bar = bars.add_task("training", total=recipe.steps, completed=start)
        for step, drawn in enumerate(loader, start + 1):
            pictures = drawn.to(device, non_blocking=True)
            wanted = targets(_taught(teacher, pictures))
            with torch.autocast(pictures.device.type, torch.bfloat16):
                given = student(_scaled(pictures))
            loss = torch.stack(_misses(given, wanted)).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            averaged.update_parameters(student)
            bars.update(bar, completed=step, description=f"training, loss {float(loss.detach()):.3f}")
            if step % 500 == 0 or step == recipe.steps:
                save(step)
            if time.monotonic() - began > limit_s:
                save(step)
                raise SystemExit(f"time is over at step {step} of {recipe.steps}; the same command goes on from here")
    return averaged.module


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
    parser.add_argument("--steps", type=int, default=12_000)
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
    print(f"{arguments.output}: {sum(value.numel() for value in load_file(arguments.output).values()):,} numbers")


if __name__ == "__main__":
    main()
