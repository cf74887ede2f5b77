"""Measure how the cost of a fit grows with the number of images: `python benchmarks/growth.py FOLDER -o growth.json`.

FOLDER has images of one product; as many as are asked for are made of them by turning, shifting and dimming. Every fit
runs in a process of its own. Printed are seconds per stage, the process's peak memory in each and its slope per image;
a picture of both, on logarithmic axes, is written beside the JSON file. `--backbone` is any, with random weights if it
is not the built-in one. Memory is read from Linux's /proc.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageEnhance

from softpatch.config import Runtime, preset_settings
from softpatch.data.images import file_ref, image_files
from softpatch.data.inputs import choose_images
from softpatch.detector import Detector
from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.discriminators import NoiseSettings, noise_scores
from softpatch.memory.neighbours import nearest_neighbours, search_index

THREADS = 2
COUNTS = (100, 200, 500, 1000, 2000, 5000)


def make_images(sources: list[Path], count: int, folder: Path) -> None:
    """Write `count` variants of the source images, 256 px, every one different."""
    for number in range(count):
        random = torch.Generator().manual_seed(number)
        angle, x, y, light = (torch.rand(4, generator=random) * 2 - 1).tolist()
        with Image.open(sources[number % len(sources)]) as source:
            image = source.convert("RGB").resize((256, 256))
        image = image.rotate(3 * angle, translate=(round(6 * x), round(6 * y)), resample=Image.Resampling.BILINEAR)
        ImageEnhance.Brightness(image).enhance(1 + 0.05 * light).save(folder / f"{number:06}.png")


def fit(folder: Path, count: int, backbone: str, budget: str) -> dict[str, Any]:
    """Fit the first `count` images: seconds per stage, and the peak memory of this process in each, in bytes."""
    torch.set_num_threads(THREADS)
    refs = [file_ref(path) for path in image_files(folder)[:count]]
    overrides = {"backbone": backbone, "weights": None if backbone == "builtin-v1" else "random"}
    began = time.perf_counter()
    compile_all()
    compilation = time.perf_counter() - began
    peaks, settings, ended = {"compilation": peak_memory()}, preset_settings("softpatch+", overrides), {}
    began = time.perf_counter()

    def progress(stage: str, *_: int) -> None:
        ended[stage] = time.perf_counter() - began
        peaks[stage] = max(peak_memory(), peaks.get(stage, 0))

    Detector.fit(refs, settings, Runtime("cpu", workers=THREADS, memory_budget=budget), progress=progress)
    ended["whole"] = time.perf_counter() - began
    stages, before = {"compilation": compilation}, 0.0
    for stage, after in ended.items():
        stages[stage], before = after - before, after
    stages["whole"] = ended["whole"]
    peaks["whole"] = max(peak_memory(), *peaks.values())
    return {"images": count, "seconds": stages, "peaks": peaks}


def peak_memory() -> int:
    """The most memory that this process has held since it was asked before, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")  # begin anew
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """The most memory of this process's own, without pages of files, that was seen ten times a second: one number."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            most[0] = max(most[0], int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) * 1024)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        ended.set()
        looking.join()


def compile_all() -> None:
    """Call what numba compiles at its first call in a process."""
    points = torch.rand(100, 32).half()
    list(noise_scores(points[:, None], ("nearest",), NoiseSettings()))
    index = search_index(points[greedy_coreset(points, torch.arange(100), 50)])
    nearest_neighbours(points, index)


def slope(xs: list[float], ys: list[float]) -> float:
    """Of the straight line with least squares."""
    x, y = (torch.tensor(values, dtype=torch.float64) for values in (xs, ys))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and bytes against images, with the slope of each line on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    counts = [row["images"] for row in rows]
    logs = [math.log(count) for count in counts]
    for stage in rows[-1]["seconds"]:
        for axes, values in (
            (left, [max(1e-3, row["seconds"].get(stage, 1e-3)) for row in rows]),
            (right, [row["peaks"].get(stage, math.nan) / 1e9 for row in rows]),
        ):
            power = slope(logs[-3:], [math.log(value) for value in values[-3:]])
            axes.plot(
                counts, values, marker="o", label=f"{stage} ({power:.2f})", linewidth=2 if stage == "whole" else 1
            )
    left.set(xlabel="training images", ylabel="seconds", xscale="log", yscale="log")
    right.set(xlabel="training images", ylabel="peak memory of the process, GB", xscale="log", yscale="log")
    for axes in (left, right):
        axes.legend(title="stage (slope at the end)", fontsize=8)
    figure.savefig(path, dpi=110)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: seconds and peak memory per stage, a line per number of images, and the slope of the memory."""
    stages = list(rows[-1]["seconds"])
    parts = []
    for kind, unit, scale, digits in (("seconds", "s", 1.0, 1), ("peaks", "GB", 1e9, 2)):
        head = f"| images | {' | '.join(f'{stage}, {unit}' for stage in stages)} |\n|" + "---|" * (len(stages) + 1)
        lines = []
        for row in rows:
            values = " | ".join(f"{row[kind].get(stage, 0) / scale:.{digits}f}" for stage in stages)
            lines.append(f"| {row['images']:,} | {values} |")
        parts.append("\n".join([head, *lines]))
    if len(rows) > 1:
        peaks = [row["peaks"]["whole"] for row in rows]
        parts.append(f"{slope([row['images'] for row in rows], peaks) / 1e6:.2f} MB per image")
    return "\n\n".join(parts)


def main() -> None:
    """Run one process per count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--backbone", default="builtin-v1")
    parser.add_argument("--memory-budget", default="3GB")
    parser.add_argument("--one", action="store_true", help="fit the first of --counts images of the folder itself")
    parser.add_argument("-o", "--output", type=Path, default=Path("growth.json"))
    arguments = parser.parse_args()
    backbone, budget = arguments.backbone, arguments.memory_budget
    if arguments.one:
        print(json.dumps(fit(arguments.folder, arguments.counts[0], backbone, budget)))
        return
    refs = choose_images(arguments.folder, "train").refs
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_images([ref.path for ref in refs if ref.path], max(arguments.counts), Path(folder))
        for count in arguments.counts:
            command = [sys.executable, __file__, folder, "--one", "--counts", str(count), "--backbone", backbone]
            ended = subprocess.run([*command, "--memory-budget", budget], check=True, capture_output=True, text=True)
            rows.append(json.loads(ended.stdout.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    print(f"\n{tables(rows)}")
    arguments.output.write_text(json.dumps({"backbone": backbone, "memory_budget": budget, "rows": rows}) + "\n")
    draw(rows, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
