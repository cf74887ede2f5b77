"""Compare backbones: speed on this machine, and accuracy on labelled datasets under overlap contamination.

    python benchmarks/backbones.py speed
    python benchmarks/backbones.py accuracy DATASET... --backbones builtin-v1 resnet18=FILE -o rows.jsonl
    python benchmarks/backbones.py table -o rows.jsonl

`NAME=FILE` gives a backbone's weights. Rows that are already in the file are not measured again. Accuracy is that of
SoftPatch+ and PatchCore on the same images, coreset and seeds. `--leave-out 0.02` leaves out two per cent of the
training images, others at every seed, and so tells how far a figure depends on which images there happen to be.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median

import torch
from weight_rule import contaminated, measure, prepare, read, spread

from softpatch.config import preset_settings
from softpatch.data.layouts import Dataset, open_dataset
from softpatch.features.backbone import Backbone, _import_timm, load_backbone
from softpatch.patch_detector import PatchDetector

METHODS = ("softpatch+", "patchcore")
KEY = ("dataset", "backbone", "coreset_ratio", "left_out", "noise_ratio", "seed", "method")
THREADS, BATCH, SIDE, ROUNDS = 2, 16, 224, 9


def measure_speed() -> None:
    """Print milliseconds per image of each network, as medians of rounds in which all take turns."""
    torch.set_num_threads(THREADS)
    began = time.perf_counter()
    builtin = load_backbone("builtin-v1")
    loading = time.perf_counter() - began
    plain = _import_timm().create_model("resnet18", pretrained=False, features_only=True, out_indices=(2, 3)).eval()
    networks = {
        "builtin-v1": builtin.feature_maps,
        "timm resnet18, stem to layer3": plain,
        "resnet18": load_backbone("resnet18", weights="random").feature_maps,
        "wide_resnet50_2": load_backbone("wide_resnet50_2", weights="random").feature_maps,
    }
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, network in networks.items():
                began = time.perf_counter()
                network(images)
                times[name].append((time.perf_counter() - began) * 1000 / BATCH)
    found = {name: median(values[1:]) for name, values in times.items()}
    print(f"loaded in {loading:.3f} s; {THREADS} threads, batches of {BATCH} images of {SIDE} px\n")
    print("| network | ms per image | times faster |\n|---|---|---|")
    reference = found["timm resnet18, stem to layer3"]
    for name, value in found.items():
        print(f"| {name} | {value:.1f} | {reference / value:.2f} |")


def measure_accuracy(
    dataset: Dataset,
    name: str,
    backbone: Backbone,
    ratios: list[float],
    seeds: list[int],
    methods: list[str],
    coreset: float,
    left_out: float,
    rows: Path,
) -> None:
    """Add a row per noise ratio, seed and method to `rows`."""
    done = {tuple(row[part] for part in KEY) for row in read(rows)}
    base = preset_settings("softpatch+", {})
    clean, test, truth, masks = prepare(dataset, backbone, base)
    for ratio in ratios:
        for seed in seeds:
            training = contaminated(dataset, clean, ratio, seed, backbone, base)
            shuffled = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
            training = training[shuffled[round(left_out * len(training)) :].sort().values]
            for method in methods:
                row = dict(zip(KEY, (dataset.category, name, coreset, left_out, ratio, seed, method), strict=True))
                if tuple(row.values()) in done:
                    continue
                settings = preset_settings(method, {"coreset_ratio": coreset, "seed": seed})
                image_scores, _, map_scores = PatchDetector.fit(training, settings).score(test)
                row |= measure(image_scores, map_scores, truth, masks)
                print(row, flush=True)
                with rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def table(rows: list[dict]) -> str:
    """Markdown: image / pixel AUROC per coreset ratio, method, dataset and noise ratio, a column per backbone."""
    backbones = sorted({row["backbone"] for row in rows})
    lines = []
    kinds = ("method", "coreset_ratio", "left_out")
    for kind in sorted({tuple(row[name] for name in kinds) for row in rows}, reverse=True):
        method, coreset, left_out = kind
        mine = [row for row in rows if tuple(row[name] for name in kinds) == kind]
        without = f", {left_out:.0%} of the images left out" if left_out else ""
        lines += [
            "",
            f"**{method}, coreset {coreset:.0%}{without}**",
            "",
            "| product | noise | " + " | ".join(backbones) + " |",
        ]
        lines += ["|---|---|" + "---|" * len(backbones)]
        for dataset, ratio in sorted({(row["dataset"], row["noise_ratio"]) for row in mine}):
            here = [row for row in mine if (row["dataset"], row["noise_ratio"]) == (dataset, ratio)]
            cells = [cell([row for row in here if row["backbone"] == name], spread) for name in backbones]
            lines.append(f"| {dataset} | {ratio:.0%} | " + " | ".join(cells) + " |")
        held = [{(row["dataset"], row["noise_ratio"]) for row in mine if row["backbone"] == name} for name in backbones]
        fair = sorted(set.intersection(*held))
        averages = [cell(cell_means([row for row in mine if row["backbone"] == name], fair), lambda v: f"{mean(v):.3f}")
                    for name in backbones]  # fmt: skip
        lines.append("| mean of what all have | | " + " | ".join(averages) + " |")
    return "\n".join(lines)


def cell_means(rows: list[dict], places: list[tuple[str, float]]) -> list[dict]:
    """The mean over seeds of each place, a dataset and noise ratio, so that places count alike."""
    by_place = [[row for row in rows if (row["dataset"], row["noise_ratio"]) == place] for place in places]
    return [{name: mean(row[name] for row in place) for name in ("image_auroc", "pixel_auroc")} for place in by_place]


def cell(rows: list[dict], say) -> str:
    return " / ".join(say([row[name] for row in rows]) for name in ("image_auroc", "pixel_auroc")) if rows else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy", "table"))
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--backbones", nargs="*", default=["builtin-v1"], help="NAME or NAME=FILE")
    parser.add_argument("-o", "--output", type=Path, default=Path("rows.jsonl"))
    parser.add_argument("--noise", nargs="*", type=float, default=[0.0, 0.1, 0.4])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--coreset-ratio", type=float, default=0.1)
    parser.add_argument("--leave-out", type=float, default=0.0, help="a share of the training images")
    arguments = parser.parse_args()
    if arguments.what == "speed":
        measure_speed()
    elif arguments.what == "table":
        print(table(read(arguments.output)))
    else:
        for path in arguments.datasets:
            for name, _, weights in (given.partition("=") for given in arguments.backbones):
                backbone = load_backbone(name, weights=weights or "pretrained")
                measure_accuracy(
                    open_dataset(path),
                    name,
                    backbone,
                    arguments.noise,
                    arguments.seeds,
                    arguments.methods,
                    arguments.coreset_ratio,
                    arguments.leave_out,
                    arguments.output,
                )


if __name__ == "__main__":
    main()
