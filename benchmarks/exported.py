"""What exported graphs take, beside Python: `python benchmarks/exported.py DATASET [-o ROWS]`.

A model is fitted from the dataset's training images and exported in every format and precision. Each graph and Python
then judge the same test images, a process each, one image at a time: median seconds, and the most memory that the
process took. How scores and image AUROC differ is what `softpatch export --check` found. Processes take turns,
`--turns` of them, so that a machine that gets slower slows all. Rows are JSON; `make docs` makes the table of the
documentation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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


def loaded(case: str, model: Path) -> Callable[[Any], Any]:
    """What judges an image (1, H, W, 3); nothing else is imported."""
    if case == "python":
        import torch

        from softpatch import SoftPatch

        torch.set_num_threads(THREADS)
        estimator = SoftPatch.load(model, device="cpu")
        return lambda image: estimator.predict(image[0])
    if case.startswith("onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = THREADS, 3
        session = onnxruntime.InferenceSession(model, options)
        return lambda image: session.run(None, {"image": image})
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    return lambda image: compiled({"image": image})


def judge(case: str, model: Path, images: list[Path]) -> dict[str, float]:
    """The median time of an image in seconds, and the peak memory of this process in bytes."""
    run = loaded(case, model)
    pixels = [np.asarray(Image.open(path).convert("RGB"))[None] for path in images]
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


def measure(dataset: Path, turns: int) -> dict[str, Any]:
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
        name = "Python" if case == "python" else f"{_NAMES[CASES[case][0]]}, {CASES[case][1]}"
        cells = [name, f"{1000 * seconds:.0f}", f"{seconds / python:.2f}"]
        cells += [f"{row['peak_memory'] / 1e6:.0f} MB", f"{row['bytes'] / 1e6:.1f} MB"]
        if case != "python":
            lost = f"{row['auroc_lost']:+.3f}"
            cells += [f"{row['score_deviation']:.1g}", f"{row['changed_verdicts']} of {kept['images']}", lost]
        lines.append("| " + " | ".join([*cells, *[""] * (8 - len(cells))]) + " |")
    return "\n".join(lines) + f"\n\nThe bank has {rows['python']['bank']:,} patches."


def main() -> None:
    """Measure everything, or in a process of its own one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(judge(given.case, given.model, given.paths)))
        return
    kept = measure(given.paths[0], given.turns)
    given.output.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(kept))


if __name__ == "__main__":
    main()
