"""How well an audit finds what is anomalous in contaminated folders: `python benchmarks/audit.py DATASET... -o ROWS`.

Every DATASET is a folder of one product with labelled test images. Its training folder is contaminated by the overlap
protocol at each ratio and audited as `softpatch audit` does, without copies for symmetries. A row says how much of the
first 10, 20 and as many as there are is anomalous, the average precision of the ranking, whether the interval of the
contamination holds the truth, before an answer and after ten of a person who knows it, and of the images that were
injected several times how many are found in one group. Rows that are there are not measured again.
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from softpatch.bench.oracle import ask
from softpatch.config import Runtime, preset_settings
from softpatch.data.contamination import ContaminatedSplit, contaminate
from softpatch.data.layouts import open_dataset
from softpatch.detector import Detector
from softpatch.review.audit import FolderAudit, audit_folder

ANSWERS = 10


def measured(split: ContaminatedSplit, seed: int) -> dict[str, Any]:
    """Fit a contaminated folder, audit it, and compare that with the truth."""
    settings = preset_settings("agreement", {"symmetries": "none", "seed": seed})
    began = time.perf_counter()
    detector = Detector.fit(split.train, settings, Runtime(), on_skip=lambda _: None)
    fitted = time.perf_counter()
    audit = audit_folder(detector, split.train, on_skip=lambda _: None)
    ended = time.perf_counter()
    known = {ref.name: truth for ref, truth in zip(split.train, split.train_is_anomalous, strict=True)}
    truth = np.array([known[image.path] for image in audit.images])
    count = int(truth.sum())
    evidence = np.array([image.evidence for image in audit.images])
    _, asked = ask(evidence, audit.hypotheses, truth.tolist(), ANSWERS)
    several, together = repeated(audit)
    return {
        "images": len(truth),
        "anomalous": count,
        **{f"precision_{first}": round(float(truth[:first].mean()), 4) for first in (10, 20)},
        "precision_all": round(float(truth[:count].mean()), 4) if count else None,
        "average_precision": round(float(average_precision_score(truth, evidence)), 4) if count else None,
        "contamination": round(float(truth.mean()), 4),
        "interval": [round(audit.belief.low, 4), round(audit.belief.high, 4)],
        "interval_asked": [round(asked.low, 4), round(asked.high, 4)],
        "brier": round(float(((audit.belief.suspicion - truth) ** 2).mean()), 4),
        "suspicion": [round(float(each), 3) for each in audit.belief.suspicion],
        "truth": [int(each) for each in truth],
        "several": several,
        "together": together,
        "fit_seconds": round(fitted - began, 1),
        "audit_seconds": round(ended - fitted, 1),
    }


def repeated(audit: FolderAudit) -> tuple[int, int]:
    """How many anomalous images were injected several times, and of how many two copies or more are in one group."""
    copies = defaultdict(set)
    for number, image in enumerate(audit.images):
        if " (copy " in image.path:
            copies[image.path.rpartition(" (copy ")[0]].add(number)
    several = [numbers for numbers in copies.values() if len(numbers) > 1]
    groups = [set(group.images) for group in audit.groups if group.kind in ("repeated defect", "variant")]
    return len(several), sum(any(len(numbers & group) > 1 for group in groups) for numbers in several)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, and a line that sums them up."""
    lines = [
        "| folder | anomalous | of the first 10 | 20 | all | average precision | interval | after ten answers "
        "| repeated ones found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        holds = ["" if low <= row["contamination"] <= high else " (misses)" for low, high in intervals(row)]
        spans = [f"{low:.0%} to {high:.0%}{hold}" for (low, high), hold in zip(intervals(row), holds, strict=True)]
        shares = [f"{row[name]:.2f}" if row["anomalous"] else "" for name in SHARES]
        found = f"{row['together']} of {row['several']}" if row["several"] else ""
        name = f"{row['dataset']}, {row['noise_ratio']:.0%}"
        counted = f"{row['anomalous']} of {row['images']}, {row['contamination']:.0%}"
        lines.append(f"| {' | '.join([name, counted, *shares, *spans, found])} |")
    contaminated = [row for row in rows if row["anomalous"]]
    means = [f"{np.mean([row[name] for row in contaminated]):.2f}" for name in SHARES]
    held = [sum(intervals(row)[n][0] <= row["contamination"] <= intervals(row)[n][1] for row in rows) for n in (0, 1)]
    widths = [np.mean([intervals(row)[n][1] - intervals(row)[n][0] for row in rows]) for n in (0, 1)]
    spans = [f"{held[n]} of {len(rows)} hold, {widths[n]:.0%} wide" for n in (0, 1)]
    together, several = (sum(row[name] for row in rows) for name in ("together", "several"))
    return "\n".join([*lines, f"| {' | '.join(['**all**', '', *means, *spans, f'{together} of {several}'])} |"])


SHARES = ("precision_10", "precision_20", "precision_all", "average_precision")


def intervals(row: dict[str, Any]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The interval of the contamination before and after answers."""
    return tuple(row["interval"]), tuple(row["interval_asked"])


def calibration(rows: list[dict[str, Any]]) -> str:
    """How many of the images of each suspicion are anomalous, in Markdown."""
    suspicion = np.concatenate([row["suspicion"] for row in rows])
    truth = np.concatenate([row["truth"] for row in rows])
    lines = ["| suspicion | images | mean suspicion | anomalous |", "|---|---|---|---|"]
    edges = (0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 1.001)
    for low, high in pairwise(edges):
        here = (suspicion >= low) & (suspicion < high)
        if here.any():
            shares = f"{suspicion[here].mean():.2f} | {truth[here].mean():.2f}"
            lines.append(f"| {low:.0%} to {min(high, 1):.0%} | {here.sum()} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, a row after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.output.read_text().splitlines()] if given.output.exists() else []
    done = {(row["dataset"], row["noise_ratio"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for folder in given.datasets:
            dataset = open_dataset(folder)
            for ratio in given.ratios:
                key = {"dataset": folder.name, "noise_ratio": ratio, "seed": seed}
                if tuple(key.values()) in done:
                    continue
                protocol = "overlap" if ratio else "clean"
                split = contaminate(dataset, protocol=protocol, noise_ratio=ratio, seed=seed)
                rows.append({**key, **measured(split, seed)})
                with given.output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))
    print()
    print(calibration(rows))


if __name__ == "__main__":
    main()
