"""What bounded memory costs in accuracy, on labelled datasets: half precision, and a cap on the bank's size.

    python benchmarks/bounds.py half DATASET... -o bounds.jsonl
    python benchmarks/bounds.py caps DATASET... [--images 1000] [--caps 12500 25000 50000] -o bounds.jsonl

half: SoftPatch+ with the built-in backbone as it is, and with queries and the chosen patches in single precision, all
distances computed. caps: its accuracy with banks of each size, and of the tenth of all patches that no cap would
leave, for as many training images as are asked for, made of the dataset's by turning, shifting and dimming.
Rows that are already in the file are not measured again; a table is printed of all.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from growth import make_images
from torch import Tensor
from weight_rule import embed, measure, prepare, read

from softpatch.config import Settings, preset_settings
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, file_ref, image_files, read_in_batches
from softpatch.data.layouts import Dataset, open_dataset
from softpatch.features.backbone import Backbone, load_backbone
from softpatch.patch_detector import Learned, PatchDetector, choose_banks

Scores = tuple[Tensor, Tensor]


def as_it_is(detector: PatchDetector, test: Tensor) -> Scores:
    """Image scores (N,) and patch scores (N, P) of the maps, a few images at a time."""
    parts = [detector.score(batch) for batch in test.split(8)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[2] for part in parts])


def embed_singly(refs: Sequence[ImageRef], backbone: Backbone, settings: Settings) -> Tensor:
    """Patch embeddings (N, P, D) float32 of a backbone of one layer."""
    found = []
    for _, _, images in read_in_batches(refs, Framing.of(settings).apply, batch_size=16, workers=2):
        (maps,) = backbone.feature_maps(images)
        smooth = F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
        found.append(smooth.flatten(2).mT * sqrt(settings.embedding_dim / maps.shape[1]))
    return torch.cat(found)


def in_single_precision(chosen: Learned, training: Tensor, test: Tensor) -> Scores:
    """The same for float32 embeddings, by computing all distances."""
    banks = [(training.flatten(0, 1)[bank.indices], bank.weights) for bank in (chosen.for_image, chosen.for_map)]
    found: list[list[Tensor]] = [[], []]
    for image in test:
        for scores, (patches, weights) in zip(found, banks, strict=True):
            nearest = torch.cdist(image, patches).argmin(dim=1)
            scores.append(weights[nearest] * (image - patches[nearest]).norm(dim=1))
    return torch.stack(found[0]).amax(dim=1), torch.stack(found[1])


def half_rows(dataset: Dataset, backbone: Backbone) -> list[dict[str, object]]:
    """A row for each precision."""
    settings = Settings()
    halves, test, truth, masks = prepare(dataset, backbone, settings)
    train_refs, test_refs = ([sample.ref for sample in part] for part in (dataset.train, dataset.test))
    singles, single_test = (embed_singly(refs, backbone, settings) for refs in (train_refs, test_refs))
    if not torch.allclose(singles, halves.float(), rtol=1e-3, atol=1e-3):
        raise SystemExit("the embeddings in single precision are others than those in half precision")
    scores = {
        "half": as_it_is(PatchDetector.fit(halves, settings), test),
        "single": in_single_precision(choose_banks(halves, settings), singles, single_test),
    }
    return [{"precision": name} | measure(*found, truth, masks) for name, found in scores.items()]


def cap_rows(dataset: Dataset, backbone: Backbone, images: int, caps: list[int]) -> list[dict[str, object]]:
    """A row for each size of the bank."""
    _, test, truth, masks = prepare(dataset, backbone, Settings())
    with tempfile.TemporaryDirectory() as folder:
        make_images([sample.ref.path for sample in dataset.train if sample.ref.path], images, Path(folder))
        training = embed([file_ref(path) for path in image_files(Path(folder))], backbone, Settings())
    everything = training.shape[0] * training.shape[1] // 10
    rows = []
    for cap in [*caps, everything]:
        settings = preset_settings("softpatch+", {"max_bank_size": cap})
        found = measure(*as_it_is(PatchDetector.fit(training, settings), test), truth, masks)
        rows.append({"images": images, "bank": min(cap, everything)} | found)
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Add rows to the file and print all as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("half", "caps"))
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--caps", type=int, nargs="+", default=[6250, 12500, 25000, 50000])
    parser.add_argument("-o", "--output", type=Path, default=Path("bounds.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    backbone = load_backbone("builtin-v1")
    for path in arguments.datasets:
        dataset = open_dataset(path)
        if any((row["what"], row["dataset"]) == (arguments.what, dataset.category) for row in read(arguments.output)):
            continue
        if arguments.what == "half":
            rows = half_rows(dataset, backbone)
        else:
            rows = cap_rows(dataset, backbone, arguments.images, arguments.caps)
        with arguments.output.open("a") as file:
            for row in rows:
                file.write(json.dumps({"what": arguments.what, "dataset": dataset.category, **row}) + "\n")
    print("| dataset | | image AUROC | pixel AUROC |\n|---|---|---|---|")
    for row in read(arguments.output):
        if row["what"] == arguments.what:
            way = row.get("precision") or f"{row['images']:,} images, bank {row['bank']:,}"
            print(f"| {row['dataset']} | {way} | {row['image_auroc']:.4f} | {row['pixel_auroc']:.4f} |")


if __name__ == "__main__":
    main()
