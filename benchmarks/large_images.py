"""What images in tiles take, by their size: `python benchmarks/large_images.py [-o ROWS]`.

Images are trays of drawn flanges, 1,000 pixels each, as JPEG. From as many as fill a memory bank of 50,000 patches a
model is fitted, with tiles of 512 pixels, and five other images are judged: seconds from file to prediction (median),
beside those of the network alone on the same tiles in the same run. Then a model is fitted from 100 trays of 12
megapixels, and its peak memory told. Every case runs in a process of its own. Rows are JSON; `make docs` makes
the table of the documentation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from growth import own_memory, peak_memory
from PIL import Image

from softpatch.data.flange import photograph
from softpatch.estimator import SoftPatch
from softpatch.features.backbone import load_backbone
from softpatch.features.tiles import tile_starts

ROWS = Path(__file__).parent.parent / "docs/lab/large_images.json"
TRAYS = {"1 MP": (1, 1), "4 MP": (2, 2), "12 MP": (4, 3), "strip, 8 MP": (1, 8)}
_SIDE, _POOL, _JUDGED = 1000, 40, 5
_PATCHES = (_SIDE // 16) ** 2  # of a flange
_TILE, _OVERLAP = 512, 64


def write_trays(folder: Path, columns: int, rows: int, count: int) -> list[Path]:
    """Write trays of flanges, columns x rows each, drawn anew from a pool."""
    rng = np.random.default_rng(0)
    pool = [photograph(rng, _SIDE)[0] for _ in range(_POOL)]
    paths = []
    for number in range(count):
        chosen = rng.integers(len(pool), size=(rows, columns))
        tray = np.concatenate([np.concatenate([pool[k] for k in row], axis=1) for row in chosen])
        tray = np.clip(tray * rng.normal(1, 0.02), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:03d}.jpg")
        Image.fromarray(tray).save(paths[-1], quality=95)
    return paths


def judge(columns: int, rows: int, smallest_defect: float | None) -> dict[str, Any]:
    """Seconds that an image of this size takes, and the network's share of them."""
    patches = _PATCHES * columns * rows
    with tempfile.TemporaryDirectory() as folder:
        paths = write_trays(Path(folder), columns, rows, max(8, -(-500_000 // patches)) + _JUDGED)
        estimator = SoftPatch(
            tile=_TILE, tile_overlap=_OVERLAP, smallest_defect=smallest_defect, device="cpu", symmetries="none"
        ).fit(paths[:-_JUDGED])
        estimator.predict(paths[0])
        each = []
        for path in paths[-_JUDGED:]:
            began = time.perf_counter()
            estimator.predict(path)
            each.append(time.perf_counter() - began)
        memory = peak_memory()
    width, height = estimator.detector.settings.size or (0, 0)
    tiles = len(tile_starts(width, _TILE, _OVERLAP, 8)) * len(tile_starts(height, _TILE, _OVERLAP, 8))
    backbone, some = load_backbone("builtin-v1"), torch.rand(16, 3, _TILE, _TILE)
    backbone.feature_maps(some)
    began = time.perf_counter()
    backbone.feature_maps(some)
    network = (time.perf_counter() - began) / len(some) * tiles
    bank = len(estimator.detector.banks.classification.patches)
    return {
        "pixels": columns * rows * _SIDE**2,
        "seen": width * height,
        "predict_s": round(median(each), 3),
        "network_s": round(network, 3),
        "bank": bank,
        "peak_memory": memory,
    }


def fit(count: int) -> dict[str, Any]:
    """Seconds and peak memory of a fit of so many images of 12 megapixels."""
    with tempfile.TemporaryDirectory() as folder:
        write_trays(Path(folder), 4, 3, count)
        peak_memory()
        began = time.perf_counter()
        with own_memory() as own:
            SoftPatch(tile=_TILE, tile_overlap=_OVERLAP, device="cpu").fit(folder)
        seconds = round(time.perf_counter() - began)
        return {"images": count, "fit_s": seconds, "peak_memory": peak_memory(), "own_memory": own[0]}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as a table, and a sentence on the fit."""
    lines = [
        "| image | looked at | s per image | of these the network | s per megapixel looked at | memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "predict_s" in row:
            seen = row["seen"] / 1e6
            cells = f"{seen:.1f} MP | {row['predict_s']:.2f} | {row['network_s']:.2f} | {row['predict_s'] / seen:.2f}"
            lines.append(f"| {name} | {cells} | {row['peak_memory'] / 1e9:.1f} GB |")
    whole = rows["fit"]
    return "\n".join(lines) + (
        f"\n\nTo learn from {whole['images']} images of 12 MP took {whole['fit_s'] / 60:.0f} minutes and "
        f"{whole['own_memory'] / 1e9:.1f} GB of memory, {whole['peak_memory'] / 1e9:.1f} GB with the pages of a file "
        "that the system can take back; the default `--memory-budget` is 4 GB."
    )


def main() -> None:
    """Run every case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases: dict[str, list[Any]] = {name: [*tray, None] for name, tray in TRAYS.items()}
    cases["12 MP, `--smallest-defect 32px`"] = [4, 3, 32.0]
    if given.case:
        print(json.dumps(fit(100) if given.case == "fit" else judge(*cases[given.case])))
        return
    rows = {}
    for name in [*cases, "fit"]:
        told = subprocess.run([sys.executable, __file__, "--case", name], check=True, stdout=subprocess.PIPE, text=True)
        rows[name] = json.loads(told.stdout.splitlines()[-1])
        print(name, rows[name], flush=True)
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
