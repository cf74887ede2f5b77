"""Measure how near a detector that is changed comes to one that learns anew.

    python benchmarks/changes.py DATASET... [--preset agreement softpatch+ patchcore] [--ratio 0.1] [--seed 0]

Defective test images are mixed into the training folder, by the given ratio to the good ones. Then a quarter of the
folder is added to a detector of the rest, a quarter is removed from a detector of all, and the defective images are
removed, and added to a detector of the good ones. Prints a Markdown row each: image AUROC, false alarms and misses on
the test images before, after, and of a fit of the same images; correlation of the last two's scores; and seconds.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from softpatch.changes import add_images, remove_images
from softpatch.config import Runtime, preset_settings
from softpatch.data.contamination import ContaminatedSplit, contaminate
from softpatch.data.images import ImageRef
from softpatch.data.layouts import open_dataset
from softpatch.detector import Detector

HEADER = """\
| product | preset | change | AUROC before, after, of a fit | false alarms | missed | correlation | seconds, of a fit |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Answers:
    """What a detector makes of the test images: AUROC, shares of false alarms and misses, and scores (n,)."""

    auroc: float
    false_alarms: float
    missed: float
    scores: NDArray[np.float32]


def answers(detector: Detector, split: ContaminatedSplit) -> Answers:
    """Judge the test images."""
    truth = np.array([sample.is_anomalous for sample in split.test])
    scores = np.array([each.image_score for each in detector.predict([sample.ref for sample in split.test])])
    called = scores > detector.threshold
    return Answers(float(roc_auc_score(truth, scores)), called[~truth].mean(), (~called[truth]).mean(), scores)


def timed(work: Callable[[], Detector]) -> tuple[Detector, float]:
    """What is made, and the seconds it took."""
    start = perf_counter()
    made = work()
    return made, perf_counter() - start


def without(detector: Detector, leaving: NDArray[np.bool_]) -> Detector:
    """The detector without images of its training set."""
    return remove_images(detector, np.flatnonzero(leaving).tolist())


def changes(split: ContaminatedSplit, fit: Callable[[Sequence[ImageRef]], Detector], seed: int) -> list[str]:
    """A row for each change, without product and preset."""
    refs = np.array(split.train, dtype=object)
    bad = np.array(split.train_is_anomalous)
    quarter = np.zeros(len(refs), dtype=bool)
    quarter[np.random.default_rng(seed).permutation(len(refs))[: len(refs) // 4]] = True
    whole, of_whole = timed(lambda: fit(refs))
    part, of_part = timed(lambda: fit(refs[~quarter]))
    rows = [
        row("a quarter added", split, part, whole, of_whole, lambda: add_images(part, refs[quarter])),
        row(
            "a quarter removed",
            split,
            whole,
            part,
            of_part,
            lambda: without(whole, quarter),
        ),
    ]
    if bad.any():
        good, of_good = timed(lambda: fit(refs[~bad]))
        rows += [
            row(
                "defects removed",
                split,
                whole,
                good,
                of_good,
                lambda: without(whole, bad),
            ),
            row("defects added", split, good, whole, of_whole, lambda: add_images(good, refs[bad])),
        ]
    return rows


def row(
    name: str, split: ContaminatedSplit, old: Detector, fitted: Detector, of_fit: float, change: Callable[[], Detector]
) -> str:
    """One change beside a fit of the same images."""
    changed, seconds = timed(change)
    three = [answers(detector, split) for detector in (old, changed, fitted)]
    both = np.corrcoef(np.log([three[1].scores, three[2].scores]))[0, 1]
    shown = [", ".join(f"{getattr(each, of):.3f}" for each in three) for of in ("auroc", "false_alarms", "missed")]
    return f"{name} | {' | '.join(shown)} | {both:.3f} | {seconds:.1f}, {of_fit:.1f} |"


def main() -> None:
    """Measure every product by every preset, and print a row a change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--preset", nargs="+", default=["agreement", "softpatch+", "patchcore"])
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(HEADER)
    for path in arguments.datasets:
        dataset = open_dataset(path)
        split = contaminate(dataset, protocol="no-overlap", noise_ratio=arguments.ratio, seed=arguments.seed)
        for preset in arguments.preset:
            settings = preset_settings(preset, {"seed": arguments.seed})
            for line in changes(split, lambda refs, s=settings: Detector.fit(refs, s, Runtime()), arguments.seed):
                print(f"| {dataset.category} | {preset} | {line}", flush=True)


if __name__ == "__main__":
    main()
