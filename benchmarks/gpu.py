"""Measure fit and predict on a GPU, beside what the card can do at most: `python benchmarks/gpu.py -o gpu.json`.

The images are drawn, and in memory, so that no disk is measured; the network's weights are random, which changes no
time. The roofline is measured in the same run: the fastest matrix product in half and in single precision, and the
fastest copy. Printed are images per second of the default, SoftPatch and SoftPatch+ (the paper, on a V100: 17 and 12),
of the network alone, as it is called and as a CUDA graph, the search, the coreset, and the peak of the card's memory.
Without a GPU it says so; `--device cpu` runs the same on a CPU, to try the script.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from softpatch.config import Runtime, preset_settings
from softpatch.data.images import ImageRef
from softpatch.data.inputs import choose_images
from softpatch.detector import Detector
from softpatch.features.backbone import Backbone, load_backbone
from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.neighbours import nearest_neighbours, search_index


@dataclass(frozen=True)
class Measured:
    """So much of a `unit` per second, and what share that is of the most that the card can do, where that is known."""

    what: str
    value: float
    unit: str
    share: float | None = None


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The shortest time of a few rounds, after one that warms up, until the device has done its work."""
    work()
    taken = []
    for _ in range(rounds):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def roofline(device: torch.device, side: int) -> list[Measured]:
    """The fastest products of square matrices, and the fastest copy."""
    found = []
    for name, dtype in (("half", torch.float16), ("single", torch.float32)):
        matrix = torch.rand(side, side, device=device, dtype=dtype)
        taken = seconds(lambda: matrix @ matrix, device)  # noqa: B023
        found.append(Measured(f"matrix product, {name} precision", 2 * side**3 / taken, "operations"))
    source = torch.rand(side, side, device=device)
    copy = torch.empty_like(source)
    found.append(Measured("copy, read and written", 8 * side**2 / seconds(lambda: copy.copy_(source), device), "bytes"))
    return found


def network_rows(backbone: Backbone, images: torch.Tensor, peak: float) -> list[Measured]:
    """A batch of images through the network, as it is called and as a CUDA graph."""
    with FlopCounterMode(display=False) as counter:
        backbone.feature_maps(images[:1])  # of several, a CPU's threads take some each, uncounted
    operations = counter.get_total_flops()
    ways: dict[str, Callable[[], object]] = {"as it is called": lambda: backbone.feature_maps(images)}
    if backbone.device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            backbone.feature_maps(images)
            with torch.cuda.graph(graph):
                backbone.feature_maps(images)
        ways["as a CUDA graph"] = graph.replay
    rates = {way: len(images) / seconds(work, backbone.device) for way, work in ways.items()}
    return [
        Measured(f"{backbone.name}, batches of {len(images)}, {way}", rate, "images", rate * operations / peak)
        for way, rate in rates.items()
    ]


def search_row(device: torch.device, queries: int, bank: int, dim: int, peak: float) -> Measured:
    """Nearest neighbours of random points; the share counts the distances alone."""
    generator = torch.Generator().manual_seed(0)
    points, asked = (torch.rand(count, dim, generator=generator).half().to(device) for count in (bank, queries))
    index = search_index(points)
    taken = seconds(lambda: nearest_neighbours(asked, index), device)
    what = f"search, {queries:,} x {bank:,} x {dim}"
    return Measured(what, queries / taken, "patches", 2 * queries * bank * dim / taken / peak)


def coreset_row(device: torch.device, count: int, dim: int, picks: int, bandwidth: float) -> Measured:
    """Picks of a coreset; the share counts that every pick must read all points once."""
    points = torch.rand(count, dim, generator=torch.Generator().manual_seed(0)).half().to(device)
    everything = torch.arange(count, device=device)
    taken = seconds(lambda: greedy_coreset(points, everything, picks), device, rounds=1)
    what = f"coreset, {picks:,} of {count:,} x {dim}, {taken:.2f} s"
    share = None if device.type == "cpu" else picks * count * dim * 4 / taken / bandwidth  # on a CPU it reads fewer
    return Measured(what, picks / taken, "picks", share)


def whole_rows(preset: str, backbone: str, device: torch.device, refs: list[ImageRef], batch: int) -> list[Measured]:
    """Fit and predict, whole."""
    weights = None if backbone == "builtin-v1" else "random"
    settings = preset_settings(preset, {"backbone": backbone, "weights": weights, "resize": 224})
    runtime = Runtime(device.type, batch_size=batch, memory_budget="16GB")
    began = time.perf_counter()
    detector = Detector.fit(refs, settings, runtime)
    wait(device)
    fitting = time.perf_counter() - began
    predicting = seconds(lambda: list(detector.predict(refs)), device, rounds=1)
    return [
        Measured(f"fit, {preset}, {backbone}, {len(refs)} images, {fitting:.1f} s", len(refs) / fitting, "images"),
        Measured(f"predict, {preset}, {backbone}, bank {len(detector.banks.classification.patches):,}",
                 len(refs) / predicting, "images"),
    ]  # fmt: skip


def measure(device: torch.device, backbone: str, images: int, batch: int, side: int) -> list[Measured]:
    """Everything, in an order in which each part knows the roofline."""
    roof = roofline(device, side)
    half, single, bandwidth = (row.value for row in roof)
    drawn = torch.rand(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    loaded = load_backbone(backbone, weights="pretrained" if backbone == "builtin-v1" else "random", device=device)
    peak = half if loaded.dtype == torch.float16 else single
    rows = [*roof, *network_rows(loaded, drawn[:batch].to(device), peak)]
    bank = images * 784 // 10
    rows.append(search_row(device, 784 * min(batch, images), bank, 1024, single))
    rows.append(coreset_row(device, images * 784, 128, bank, bandwidth))
    for preset in ("agreement", "softpatch", "softpatch+"):
        rows += whole_rows(preset, backbone, device, choose_images(drawn, "train").refs, batch)
    if device.type == "cuda":
        rows.append(Measured("peak memory of the card", torch.cuda.max_memory_allocated(device), "bytes in all"))
    return rows


def table(rows: list[Measured]) -> str:
    """Markdown."""
    lines = ["| what | a second | of the most possible |", "|---|---|---|"]
    for row in rows:
        share = "" if row.share is None else f"{row.share:.0%}"
        lines.append(f"| {row.what} | {row.value:.3g} {row.unit} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backbone", default="wide_resnet50_2")
    parser.add_argument("--images", type=int, default=209)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=8192, help="of the matrices of the roofline")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; run this where there is one, or try the script by --device cpu")
    device = torch.device(arguments.device)
    rows = measure(device, arguments.backbone, arguments.images, arguments.batch, arguments.side)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n{table(rows)}")
    found = {"device": name, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
