"""Measure the decision threshold: false alarms and misses when a share of the training folder is defective.

    python benchmarks/threshold.py DATASET... --weights FILE [--rate 0.01] [--seeds 0 1]

Per dataset and share, at most half of the defective test images are mixed with good training images, 150 or as many as
the share allows; the detector is fitted on them and judges the test images that are left. Prints a Markdown row each.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from weight_rule import embed

from softpatch.config import preset_settings
from softpatch.data.layouts import open_dataset
from softpatch.detector import left_out_scores
from softpatch.features.backbone import load_backbone
from softpatch.patch_detector import PatchDetector, calibration_images
from softpatch.scoring.threshold import decision_threshold

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
GOOD = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--coreset-ratio", type=float, default=0.02)
    arguments = parser.parse_args()
    settings = preset_settings("softpatch+", {"coreset_ratio": arguments.coreset_ratio})
    backbone = load_backbone(arguments.backbone, weights=arguments.weights)
    print("| product | defective | training images | false alarms | missed |\n|---|---|---|---|---|")
    for path in arguments.datasets:
        dataset = open_dataset(path)
        good = embed([sample.ref for sample in dataset.train], backbone, settings)
        test = embed([sample.ref for sample in dataset.test], backbone, settings)
        truth = np.array([sample.is_anomalous for sample in dataset.test])
        for share in SHARES:
            alarms, missed, images = [], [], 0
            for seed in arguments.seeds:
                rng = np.random.default_rng(seed)
                defective = rng.permutation(np.flatnonzero(truth))
                added = defective[: round(min(len(defective) // 2, share / (1 - share) * GOOD))]
                count = round(len(added) * (1 - share) / share) if share else GOOD
                training = torch.cat([good[rng.permutation(len(good))[:count]], test[added]])
                detector = PatchDetector.fit(training, replace(settings, seed=seed))
                numbers = calibration_images(len(training))
                scores = left_out_scores(detector, [training[numbers]], numbers, (28, 28), settings).image_scores
                threshold = decision_threshold(scores, arguments.rate)
                left = np.setdiff1d(np.arange(len(truth)), added)
                called = (detector.score(test[left])[0] > threshold).numpy()
                alarms.append(called[~truth[left]].mean())
                missed.append((~called[truth[left]]).mean())
                images = len(training)
            shown = f"{images} | {np.mean(alarms):.2f} | {np.mean(missed):.2f}"
            print(f"| {dataset.category} | {share:.0%} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
