"""A laboratory for learning from contaminated folders: what an idea makes of every set, ratio and backbone, in minutes.

    python benchmarks/robust.py prepare DATASET... --cache FOLDER [--backbone builtin-v1 | NAME=FILE] [--seed 0]
    python benchmarks/robust.py judge --cache FOLDER -o rows.jsonl [--ideas NAME...] [--sets NAME...]
    python benchmarks/robust.py table -o rows.jsonl

`prepare` computes once, per set, backbone and seed, the patch embeddings of all training images, of those that 40 %
overlap adds and of the test images, and the distance of each of their patches to each training image. That is 2·P²·D
operations per pair of images: up to 13 minutes a set on two cores, and 0.6 GB of disk. `judge` runs ideas on them;
rows that are in the file are not measured again. An idea is a function from a `Case` to image and patch scores: to try
another, write one and enter it in `IDEAS`.

`table` prints the mean and the worst gap to the bound, which is PatchCore with all patches of the clean folder, and
what leaving sets out would choose: the best idea on the mean of five sets, read on the sixth. Pixels are judged on
every fourth row and column of the maps.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from weight_rule import embed, read

from softpatch.bench.mutual import mean_of_nearest, mean_over_memories
from softpatch.config import preset_settings
from softpatch.data.contamination import contaminate
from softpatch.data.framing import Framing
from softpatch.data.layouts import open_dataset
from softpatch.features.backbone import load_backbone
from softpatch.memory.agreement import concentrate, image_distances
from softpatch.memory.projection import project
from softpatch.patch_detector import PatchDetector
from softpatch.scoring.anomaly_map import anomaly_maps

LARGEST = 0.4
CONDITIONS = (
    ("clean", 0.0),
    *(("overlap", ratio) for ratio in (0.05, 0.1, 0.2, 0.3, LARGEST)),
    ("no-overlap", 0.1),
)
"""Protocol and noise ratio."""
EVERY = 4  # rows and columns of the maps that are judged
AUDITED = 8  # of an image's patches, the most anomalous ones, whose mean is its audit score: 1 % of 784
STEP = 0.05  # of the images are dropped at once by `concentrate`


@dataclass(frozen=True, eq=False)
class Case:
    """A set under one contamination: what an idea may look at, and `truth` and `masks`, which it may not.

    `train` (N, P, D) and `test` (T, P, D) are float16 embeddings; `among` (N, P, N) float16 are the distances of
    training patches to training images, infinite to their own, and `across` (T, P, N) those of test patches to them.
    """

    train: Tensor
    test: Tensor
    among: Tensor
    across: Tensor
    injected: np.ndarray
    truth: np.ndarray
    masks: np.ndarray | None

    @cached_property
    def order(self) -> dict[float, Tensor]:
        """The images (n,) that are trusted when so large a share of them is: see `concentrate`."""
        count = len(self.among)
        rounds = concentrate(self.among, torch.arange(count), AUDITED, rounds=9)
        left = {1.0: torch.arange(count)}
        for step, scores in enumerate(rounds[:-1], start=1):
            share = round(1 - step * STEP, 2)
            left[share] = scores.argsort(stable=True)[: round(share * count)].sort().values
        return left


# Ideas, each a function from a case to image scores (T,) and patch scores (T, P)

Scores = tuple[Tensor, Tensor]


def kth_image(k: int) -> Callable[[Case], Scores]:
    """The distance to the k-th nearest training image: how far one must look for k images that agree."""
    return lambda case: largest(nearest(case.across, k))


def trusted(share: float) -> Callable[[Case], Scores]:
    """PatchCore on the share of the images that is trusted."""
    return lambda case: largest(nearest(case.across[:, :, case.order[share]], 1))


def trusted_or_several(share: float, k: int) -> Callable[[Case], Scores]:
    """One trusted image, or k of any, must know a patch."""
    return lambda case: largest(
        torch.minimum(nearest(case.across[:, :, case.order[share]], 1), nearest(case.across, k))
    )


def detector(preset: str, share: float = 1.0) -> Callable[[Case], Scores]:
    """A preset with its coreset, without copies of images, fitted on the share that is trusted."""

    def fit(case: Case) -> Scores:
        settings = preset_settings(preset, {"symmetries": "none"})
        fitted = PatchDetector.fit(case.train[case.order[share]], settings)
        found = [fitted.score(batch) for batch in torch.split(case.test, 16)]
        return torch.cat([image for image, _, _ in found]), torch.cat([patches for _, _, patches in found])

    return fit


IDEAS: dict[str, Callable[[Case], Scores]] = {
    "all patches": kth_image(1),
    **{f"k = {k}": kth_image(k) for k in (2, 3, 5)},
    **{f"trusted {share:.0%}": trusted(share) for share in (0.9, 0.75, 0.6)},
    **{f"trusted 60%, or {k}": trusted_or_several(0.6, k) for k in (3, 4, 6)},
    "musc": lambda case: largest(mean_of_nearest(case.across.float())),
    "meds": lambda case: largest(mean_over_memories(case.across.float())),
    "softpatch+": detector("softpatch+"),
    "softpatch+ of trusted 75%": detector("softpatch+", 0.75),
    "agreement": detector("agreement"),
}


def largest(patch_scores: Tensor) -> Scores:
    return patch_scores.amax(dim=1), patch_scores


def nearest(distances: Tensor, k: int) -> Tensor:
    """The k-th smallest along the last dimension, float32."""
    k = min(k, distances.shape[2])
    return torch.stack([each.float().kthvalue(k, dim=1).values for each in distances])


# Preparing, judging, and the table


def prepare(path: Path, backbone_name: str, weights: str, seed: int, cache: Path) -> None:
    """Write what a set's cases are made of."""
    dataset, settings = open_dataset(path), preset_settings("softpatch+", {})
    name = f"{dataset.category}-{backbone_name}-{seed}"
    if (cache / f"{name}.npz").exists():
        return
    backbone = load_backbone(backbone_name, weights=weights or "pretrained")
    added = contaminate(dataset, protocol="overlap", noise_ratio=LARGEST, seed=seed).train[len(dataset.train) :]
    moved = contaminate(dataset, protocol="no-overlap", noise_ratio=0.1, seed=seed).injected
    parts = [[sample.ref for sample in dataset.train], list(added), [sample.ref for sample in dataset.test]]
    embeddings = torch.cat([embed(part, backbone, settings) for part in parts])
    first_test = len(parts[0]) + len(parts[1])
    places = {str(sample.path): first_test + i for i, sample in enumerate(dataset.test)}
    sources = torch.tensor([*range(first_test), *(places[path] for path in moved)])
    seen = project(embeddings, settings.projected_dim, settings.seed)
    distances = np.lib.format.open_memmap(
        cache / f"{name}-distances.npy", "w+", np.float16, (len(seen), seen.shape[1], len(sources))
    )
    for start in range(0, len(seen), 16):
        distances[start : start + 16] = image_distances(seen[start : start + 16], seen[sources]).numpy()
        print(f"{name}: {start + len(distances[start : start + 16])} of {len(seen)} images", flush=True)
    distances.flush()
    np.save(cache / f"{name}-embeddings.npy", embeddings.numpy())
    framing = Framing.of(settings)
    masks = [framing.apply_to_mask(sample.read_mask()).numpy() for sample in dataset.test]
    has_masks = all(sample.is_mask_known for sample in dataset.test if sample.is_anomalous)
    np.savez(
        cache / f"{name}.npz",  # written last: what says that all is there
        good=len(dataset.train),
        added=len(added),
        moved=[places[path] - first_test for path in moved],
        truth=[sample.is_anomalous for sample in dataset.test],
        masks=np.stack(masks)[:, EVERY // 2 :: EVERY, EVERY // 2 :: EVERY] if has_masks else np.zeros(0, bool),
    )


def cases(cache: Path, name: str, wanted: set[tuple[str, float]]) -> Iterator[tuple[str, float, Case]]:
    """The cases of a prepared set, each with its protocol and noise ratio."""
    about = np.load(cache / f"{name}.npz")
    distances = np.load(cache / f"{name}-distances.npy", mmap_mode="r")
    embeddings = np.load(cache / f"{name}-embeddings.npy", mmap_mode="r")
    good, added, moved, truth = int(about["good"]), int(about["added"]), about["moved"], about["truth"]
    first_test, masks = good + added, about["masks"]
    for protocol, ratio in CONDITIONS:
        if (protocol, ratio) not in wanted:
            continue
        more = np.arange(good, good + int(ratio * good + 1e-6))
        columns = np.append(np.arange(good), more)
        rows, test = columns, np.arange(len(truth))
        if protocol == "no-overlap":
            columns = np.append(np.arange(good), first_test + np.arange(len(moved)))
            rows, test = np.append(np.arange(good), first_test + moved), np.setdiff1d(test, moved)
        among = torch.stack([torch.from_numpy(distances[row][:, columns]) for row in rows])
        among.diagonal(dim1=0, dim2=2).fill_(torch.inf)
        yield (
            protocol,
            ratio,
            Case(
                train=torch.from_numpy(embeddings[rows]),
                test=torch.from_numpy(embeddings[first_test + test]),
                among=among,
                across=torch.stack([torch.from_numpy(distances[row][:, columns]) for row in first_test + test]),
                injected=np.arange(len(rows)) >= good,
                truth=truth[test],
                masks=masks[test] if len(masks) else None,
            ),
        )


def measure(case: Case, image_scores: Tensor, patch_scores: Tensor) -> dict[str, float | None]:
    pixel = None
    if case.masks is not None:
        side = int(patch_scores.shape[1] ** 0.5)
        maps = anomaly_maps(patch_scores.view(-1, side, side), (224, 224), 4.0)
        maps = maps[:, EVERY // 2 :: EVERY, EVERY // 2 :: EVERY]
        pixel = round(float(roc_auc_score(case.masks.ravel(), maps.flatten().numpy())), 5)
    return {"image_auroc": round(float(roc_auc_score(case.truth, image_scores.numpy())), 5), "pixel_auroc": pixel}


def judge(cache: Path, names: list[str], ideas: list[str], output: Path) -> None:
    done = {(row["set"], row["protocol"], row["noise_ratio"], row["idea"]) for row in read(output)}
    for name in names:
        missing = {
            condition: [idea for idea in ("bound", *ideas) if (name, *condition, idea) not in done]
            for condition in CONDITIONS
        }
        wanted = {condition for condition in CONDITIONS if missing[condition]}
        for protocol, ratio, case in cases(cache, name, wanted):
            clean = torch.from_numpy(~case.injected).nonzero()[:, 0]
            for idea in missing[protocol, ratio]:
                scores = largest(nearest(case.across[:, :, clean], 1)) if idea == "bound" else IDEAS[idea](case)
                row = {"set": name, "protocol": protocol, "noise_ratio": ratio, "idea": idea, **measure(case, *scores)}
                print(row, flush=True)
                with output.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def table(rows: list[dict]) -> str:
    """Markdown: the gap to the bound of each idea, mean and worst over sets, and the choice by leaving sets out."""
    sets, ideas = sorted({row["set"] for row in rows}), list(dict.fromkeys(row["idea"] for row in rows))
    ideas.remove("bound")
    heads = [
        f"{ratio:.0%}" if protocol != "no-overlap" else f"{ratio:.0%} no-overlap" for protocol, ratio in CONDITIONS
    ]
    lines = []
    for metric in ("image_auroc", "pixel_auroc"):
        lines += ["", f"Gap in {metric.replace('_', ' ')}, mean / worst over {len(sets)} sets", ""]
        lines += [f"| idea | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
        found = gaps(rows, metric)
        for idea in ideas:
            known = [[found[idea, name, each] for name in sets if (idea, name, each) in found] for each in CONDITIONS]
            cells = [f"{np.mean(row):.3f} / {max(row):.3f}" if row else "-" for row in known]
            lines.append(f"| {idea} | {' | '.join(cells)} |")
    if len(sets) > 1:
        lines += ["", "Chosen on the other sets, read on this one: mean gap in image AUROC", ""]
        lines += ["| set | chosen | gap | smallest possible |", "|---|---|---|---|"]
        lines += [left_out(name, sets, ideas, gaps(rows, "image_auroc")) for name in sets]
    return "\n".join(lines[1:])


Gaps = dict[tuple[str, str, tuple[str, float]], float]


def gaps(rows: list[dict], metric: str) -> Gaps:
    """How far below the bound each row is, by idea, set and condition."""
    values = {
        (row["idea"], row["set"], (row["protocol"], row["noise_ratio"])): row[metric]
        for row in rows
        if row[metric] is not None
    }
    return {key: values["bound", *key[1:]] - value for key, value in values.items()}


def left_out(name: str, sets: list[str], ideas: list[str], found: Gaps) -> str:
    """A line: what the other sets would choose of the ideas measured everywhere, and what that gives on this one."""

    def mean_gap(idea: str, names: list[str]) -> float:
        return float(
            np.mean([found.get((idea, each, condition), np.inf) for each in names for condition in CONDITIONS])
        )

    chosen = min(ideas, key=lambda idea: mean_gap(idea, [other for other in sets if other != name]))
    best = min(mean_gap(idea, [name]) for idea in ideas)
    return f"| {name} | {chosen} | {mean_gap(chosen, [name]):.3f} | {best:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "judge", "table"))
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("robust-cache"))
    parser.add_argument("--backbone", default="builtin-v1", help="NAME or NAME=FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="*", help="prepared sets, such as bottle-builtin-v1-0; all without")
    parser.add_argument("--ideas", nargs="*", choices=IDEAS, default=list(IDEAS))
    parser.add_argument("-o", "--output", type=Path, default=Path("robust.jsonl"))
    arguments = parser.parse_args()
    if arguments.what == "table":
        print(table(read(arguments.output)))
        return
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if arguments.what == "prepare":
        name, _, weights = arguments.backbone.partition("=")
        for path in arguments.datasets:
            prepare(path, name, weights, arguments.seed, arguments.cache)
    else:
        names = arguments.sets or sorted(path.stem for path in arguments.cache.glob("*.npz"))
        judge(arguments.cache, names, arguments.ideas, arguments.output)


if __name__ == "__main__":
    main()
