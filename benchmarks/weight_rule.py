"""Measure the methods and weight rules on labelled datasets under overlap contamination.

    python benchmarks/weight_rule.py DATASET... --weights FILE -o rows.jsonl [--noise 0 0.1 0.2 0.4] [--seeds 0 1 2]

One row per dataset, noise ratio, seed, method and weight rule: image and pixel AUROC. Rows that are already in the
file are not measured again. `--table` prints the rows as the Markdown tables of docs/lab/defaults.md.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from softpatch.config import Settings, preset_settings
from softpatch.data.contamination import contaminate
from softpatch.data.framing import Framing
from softpatch.data.images import read_in_batches
from softpatch.data.layouts import Dataset, open_dataset
from softpatch.features.backbone import Backbone, load_backbone
from softpatch.features.embedding import patch_embeddings
from softpatch.memory.neighbours import nearest_neighbours
from softpatch.memory.projection import project
from softpatch.memory.selection import judge_patches
from softpatch.patch_detector import PatchDetector
from softpatch.scoring.anomaly_map import anomaly_maps

METHODS = {
    "patchcore": ("patchcore", {}),
    "softpatch": ("softpatch", {}),
    "softpatch+": ("softpatch+", {}),
    "softpatch+, fixed share": ("softpatch+", {"discard_rule": "fixed"}),
    "softpatch+, fixed share, ranks of image set": ("softpatch+", {"discard_rule": "fixed", "rank_scope": "image set"}),
}
"""Each method as a preset and what differs from it."""
RULES = {"patchcore": ("none",), "softpatch": ("clipped",), "softpatch+": ("clipped", "literal", "none")}
"""The weight rules measured for each preset."""


def embed(refs, backbone: Backbone, settings: Settings) -> Tensor:
    framing = Framing.of(settings)
    batches = read_in_batches(refs, framing.apply, batch_size=16, workers=2)
    return torch.cat(
        [patch_embeddings(backbone.feature_maps(batch), settings.embedding_dim).clone() for _, _, batch in batches]
    )


def prepare(
    dataset: Dataset, backbone: Backbone, settings: Settings
) -> tuple[Tensor, Tensor, np.ndarray, list[np.ndarray]]:
    """Embeddings (N, P, D) of the training and the test images, and the labels and masks of these."""
    framing = Framing.of(settings)
    truth = np.array([sample.is_anomalous for sample in dataset.test])
    masks = [framing.apply_to_mask(sample.read_mask()).numpy() for sample in dataset.test]
    clean, test = (embed([sample.ref for sample in part], backbone, settings) for part in (dataset.train, dataset.test))
    return clean, test, truth, masks


def contaminated(
    dataset: Dataset, clean: Tensor, ratio: float, seed: int, backbone: Backbone, settings: Settings
) -> Tensor:
    """The embeddings of the training images with those that overlap contamination mixes in."""
    split = contaminate(dataset, protocol="overlap" if ratio else "clean", noise_ratio=ratio, seed=seed)
    injected = split.train[len(dataset.train) :]
    return torch.cat([clean, embed(injected, backbone, settings)]) if injected else clean


def measure(image_scores: Tensor, map_scores: Tensor, truth: np.ndarray, masks: list[np.ndarray]) -> dict[str, float]:
    side = int(map_scores.shape[1] ** 0.5)
    maps = anomaly_maps(map_scores.view(-1, side, side), (224, 224), 4.0).numpy()
    return {
        "image_auroc": round(float(roc_auc_score(truth, image_scores.numpy())), 5),
        "pixel_auroc": round(float(roc_auc_score(np.stack(masks).ravel(), maps.ravel())), 5),
    }


def weighted_scores(
    training: Tensor, test: Tensor, rules: tuple[str, ...], settings: Settings
) -> dict[str, tuple[Tensor, Tensor]]:
    """Image scores (N,) and the map's patch scores (N, P) under every weight rule of a method.

    The banks and the search serve all rules.
    """
    with_raw_weights = replace(settings, weight_rule="none" if rules == ("none",) else "literal")
    detector = PatchDetector.fit(training, with_raw_weights)
    limit = torch.inf
    if "clipped" in rules:
        projected = project(training, settings.projected_dim, settings.seed)
        limit = float(judge_patches(projected, replace(settings, weight_rule="clipped")).weights.max())
    banks = [detector.classification]
    if detector.segmentation is not detector.classification:
        banks.append(detector.segmentation)
    found = [nearest_neighbours(test.flatten(0, 1), bank.index) for bank in banks]
    scores = {}
    for rule in rules:
        ceiling = {"none": 0.0, "literal": torch.inf, "clipped": limit}[rule]
        per_bank = []
        for bank, (distances, indices) in zip(banks, found, strict=True):
            weights = bank.weights.clamp_max(ceiling) if ceiling else torch.ones_like(bank.weights)
            per_bank.append((weights[indices] * distances).view(test.shape[:2]))
        scores[rule] = (per_bank[0].amax(dim=1), per_bank[-1])
    return scores


def run(
    dataset: Dataset,
    backbone: Backbone,
    ratios: list[float],
    seeds: list[int],
    coreset: float,
    methods: list[str],
    rows: Path,
) -> None:
    done = {key(row) for row in read(rows)}
    base = preset_settings("softpatch+", {})
    clean, test, truth, masks = prepare(dataset, backbone, base)
    for ratio in ratios:
        for seed in seeds:
            missing = [m for m in methods if (dataset.category, coreset, ratio, seed, m) not in done]
            if not missing:
                continue
            training = contaminated(dataset, clean, ratio, seed, backbone, base)
            for method in missing:
                preset, different = METHODS[method]
                settings = preset_settings(preset, {"coreset_ratio": coreset, "seed": seed, **different})
                for rule, scores in weighted_scores(training, test, RULES[preset], settings).items():
                    row = {
                        "dataset": dataset.category,
                        "coreset_ratio": coreset,
                        "noise_ratio": ratio,
                        "seed": seed,
                        "method": method,
                        "weight_rule": rule,
                        **measure(*scores, truth, masks),
                    }
                    print(row, flush=True)
                    with rows.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def read(rows: Path) -> list[dict]:
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def key(row: dict) -> tuple:
    return tuple(row[name] for name in ("dataset", "coreset_ratio", "noise_ratio", "seed", "method"))


def table(rows: list[dict]) -> str:
    """Markdown: a table per dataset, image / pixel AUROC as mean ± deviation over seeds."""
    lines: list[str] = []
    for dataset, coreset in sorted({(row["dataset"], row["coreset_ratio"]) for row in rows}):
        mine = [row for row in rows if (row["dataset"], row["coreset_ratio"]) == (dataset, coreset)]
        ratios = sorted({row["noise_ratio"] for row in mine})
        lines += ["", f"**{dataset}**, coreset {coreset:.0%}", ""]
        lines += ["| method | weights | " + " | ".join(f"{ratio:.0%} noise" for ratio in ratios) + " |"]
        lines += ["|---|---|" + "---|" * len(ratios)]
        for variant in [(method, rule) for method, (preset, _) in METHODS.items() for rule in RULES[preset]]:
            cells = []
            for ratio in ratios:
                chosen = [r for r in mine if (r["noise_ratio"], r["method"], r["weight_rule"]) == (ratio, *variant)]
                cells.append(" / ".join(spread([r[name] for r in chosen]) for name in ("image_auroc", "pixel_auroc")))
            if set(cells) == {"- / -"}:
                continue
            lines.append("| " + " | ".join((*variant, *cells)) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("-o", "--output", type=Path, default=Path("rows.jsonl"))
    parser.add_argument("--noise", nargs="*", type=float, default=[0.0, 0.1, 0.2, 0.4])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--coreset-ratio", type=float, default=0.1)
    parser.add_argument("--methods", nargs="*", default=list(METHODS)[:3], choices=list(METHODS))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.datasets:
        backbone = load_backbone(arguments.backbone, weights=arguments.weights)
    for path in arguments.datasets:
        run(
            open_dataset(path),
            backbone,
            arguments.noise,
            arguments.seeds,
            arguments.coreset_ratio,
            arguments.methods,
            arguments.output,
        )
    if arguments.table:
        print(table(read(arguments.output)))


if __name__ == "__main__":
    main()
