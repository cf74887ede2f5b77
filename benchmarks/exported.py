"""What exported graphs take, beside Python: `python benchmarks/exported.py DATASET... [--anomalib PYTHON] [-o ROWS]`.

A model is fitted from the dataset's training images and exported in every format and precision. Each graph and Python
then judge the same test images, a process each, one image at a time: median seconds, and the most memory that the
process took. How scores and image AUROC differ is what `softpatch export --check` found. Processes take turns,
`--turns` of them, so that a machine that gets slower slows all. With `--anomalib`, an interpreter that has it, its
PatchCore with a ResNet-18 and as many patches takes turns too, in both runtimes; it is given images of its own size.
Of more datasets it is only told what 8 bits cost. Rows are JSON; `make docs` makes the tables of the documentation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

THREADS, IMAGES = 2, 40
ROWS = Path(__file__).parent.parent / "docs/lab/exported.json"
CASES = {
    f"{runtime}, {precision}": (runtime, precision)
    for runtime in ("onnx", "openvino")
    for precision in ("fp32", "fp16", "int8")
}
_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
ANOMALIB = {f"anomalib in {runtime}": runtime for runtime in _NAMES}
ANOMALIB_SIDE = 256


def loaded(case: str, model: Path) -> Callable[[Any], Any]:
    """What judges an image (1, H, W, 3); nothing else is imported."""
    if case == "python":
        import torch

        from softpatch import SoftPatch

        torch.set_num_threads(THREADS)
        estimator = SoftPatch.load(model, device="cpu")
        return lambda image: estimator.predict(image[0])
    if model.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = THREADS, 3
        session = onnxruntime.InferenceSession(model, options)
        name = session.get_inputs()[0].name
        return lambda image: session.run(None, {name: image})
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    return lambda image: compiled([image])


def as_graphs_take(path: Path) -> Any:
    """An image (1, H, W, 3), uint8."""
    return np.asarray(Image.open(path).convert("RGB"))[None]


def as_anomalib_takes(path: Path) -> Any:
    """An image (1, 3, 256, 256), float32 in [0, 1]."""
    resized = Image.open(path).convert("RGB").resize((ANOMALIB_SIDE, ANOMALIB_SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized, np.float32).transpose(2, 0, 1)[None] / 255)


def judge(case: str, model: Path, images: list[Path]) -> dict[str, float]:
    """The median time of an image in seconds, and the peak memory of this process in bytes."""
    run = loaded(case, model)
    pixels = [as_anomalib_takes(path) if case in ANOMALIB else as_graphs_take(path) for path in images]
    for image in pixels[:5]:
        run(image)
    each = []
    for image in pixels:
        began = time.perf_counter()
        run(image)
        each.append(time.perf_counter() - began)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    return {"seconds": median(each), "peak_memory": peak}


def export_anomalib(python: str, patches: int, folder: Path) -> dict[str, dict[str, Any]]:
    """The graphs of anomalib's PatchCore with a bank of so many patches."""
    script = Path(__file__).with_name("anomalib_exported.py")
    told = subprocess.run([python, script, str(patches), folder], check=True, stdout=subprocess.PIPE, text=True).stdout
    paths = [Path(line) for line in told.splitlines()[-2:]]
    sizes = [sum(each.stat().st_size for each in path.parent.glob(f"{path.stem}.*")) for path in paths]
    return {case: {"file": str(path), "bytes": size} for case, path, size in zip(ANOMALIB, paths, sizes, strict=True)}


def cost_of_8_bits(dataset: Path) -> dict[str, Any]:
    """How an int8 graph of a dataset's product differs from Python."""
    from softpatch import SoftPatch
    from softpatch.deploy.export.agreement import images_to_check
    from softpatch.deploy.export.export import export_detector

    images, labels = images_to_check(dataset, "auto", None)
    detector = SoftPatch(device="cpu").fit(dataset).detector
    with tempfile.TemporaryDirectory() as folder:
        notes: list[str] = []
        found = export_detector(
            detector, Path(folder), precision="int8", images=images, labels=labels, on_note=notes.append
        )
    return {**asdict(found), "notes": notes}


def measure(dataset: Path, anomalib: str | None, turns: int) -> dict[str, Any]:
    """Fit, export everything, and let all of it judge in turns."""
    from softpatch import SoftPatch
    from softpatch.data.layouts import open_dataset
    from softpatch.deploy.export.agreement import images_to_check
    from softpatch.deploy.export.export import export_detector
    from softpatch.deploy.export.graph_file import FILES

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "product.safetensors"
        estimator = SoftPatch(device="cpu").fit(dataset)
        estimator.save(model)
        images, labels = images_to_check(dataset, "auto", None)
        bank = len(estimator.detector.banks.classification.patches)
        rows["python"] = {"file": str(model), "bytes": model.stat().st_size, "bank": bank}
        for case, (file_format, precision) in CASES.items():
            place = Path(folder) / case
            found = export_detector(
                estimator.detector, place, file_format=file_format, precision=precision, images=images, labels=labels
            )
            size = sum((place / name).stat().st_size for name in FILES[file_format])
            rows[case] = {
                "file": str(place / FILES[file_format][0]),
                "bytes": size,
                "score_deviation": found.score_deviation,
                "changed_verdicts": found.changed_verdicts,
                "auroc_lost": (found.image_auroc or 0) - (found.exported_image_auroc or 0),
            }
            print(case, rows[case], flush=True)
        if anomalib:
            rows |= export_anomalib(anomalib, bank, Path(folder) / "anomalib")
        test = [str(sample.path) for sample in open_dataset(dataset).test][::2][:IMAGES]
        for _ in range(turns):
            for case, row in rows.items():
                command = [sys.executable, __file__, *test, "--case", case, "--model", row["file"]]
                told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                row.setdefault("turns", []).append(told["seconds"])
                row["peak_memory"] = max(told["peak_memory"], row.get("peak_memory", 0))
    for row in rows.values():
        del row["file"]
    return {"images": len(images), "rows": rows}


def table(kept: dict[str, Any]) -> str:
    """The rows in Markdown."""
    rows = kept["rows"]
    python = median(rows["python"]["turns"])
    lines = [
        "| what runs it | ms an image | times Python | memory | file | scores off by | verdicts changed | AUROC lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, row in rows.items():
        seconds = median(row["turns"])
        name = _name(case)
        cells = [name, f"{1000 * seconds:.0f}", f"{seconds / python:.2f}"]
        cells += [f"{row['peak_memory'] / 1e6:.0f} MB", f"{row['bytes'] / 1e6:.1f} MB"]
        if case in CASES:
            lost = f"{row['auroc_lost']:+.3f}"
            cells += [f"{row['score_deviation']:.1g}", f"{row['changed_verdicts']} of {kept['images']}", lost]
        lines.append("| " + " | ".join([*cells, *[""] * (8 - len(cells))]) + " |")
    return "\n".join(lines) + f"\n\nThe bank has {rows['python']['bank']:,} patches."


def _name(case: str) -> str:
    if case in ANOMALIB:
        return f"anomalib's PatchCore, {_NAMES[ANOMALIB[case]]}"
    return f"{_NAMES[CASES[case][0]]}, {CASES[case][1]}" if case in CASES else "Python"


def cost_table(kept: dict[str, Any]) -> str:
    """What 8 bits cost, in Markdown."""
    lines = ["| product | image AUROC | in 8 bits | verdicts changed | scores off by |", "|---|---|---|---|---|"]
    for name, row in kept["products"].items():
        scores = f"{row['image_auroc']:.4f} | {row['exported_image_auroc']:.4f}"
        changed = f"{row['changed_verdicts']} of {row['images']}"
        lines.append(f"| {name} | {scores} | {changed} | {row['score_deviation']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure everything, or in a process of its own one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    parser.add_argument("--anomalib", help="an interpreter that has anomalib")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(judge(given.case, given.model, given.paths)))
        return
    kept = measure(given.paths[0], given.anomalib, given.turns)
    kept["products"] = {path.name: cost_of_8_bits(path) for path in given.paths}
    given.output.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(kept), cost_table(kept), sep="\n\n")


if __name__ == "__main__":
    main()
