"""Make the numbers and pictures of README.md and docs/ from the rows that are kept: `make docs`, or

    python benchmarks/make_docs.py [--demo FOLDER]

A page says by `<!-- NAME:begin -->` and `<!-- NAME:end -->` what is made and where it stands; `parts` makes it. With
--demo the demo runs into FOLDER first: its picture becomes the README's, its figures are kept in docs/lab/demo.json.
Then its training images are audited, for pictures of that page.
"""

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import audit
import audit_page
import drift
import exported
import growth
import large_images
import performance
import serve_load
import small_defects
import startup
from browser import chromium

from softpatch.atomic import replacing
from softpatch.bench.figures import draw_figures
from softpatch.bench.rows import Row, read_rows
from softpatch.bench.summary import as_csv, as_markdown, beside_paper, tables
from softpatch.review.demo import run_demo

ROOT = Path(__file__).parent.parent
LAB = ROOT / "docs/lab"
PICTURES = {"why-noise-matters.png": "why-noise-matters.png", "overlays/dent/000.png.png": "overlay.png"}
"""What becomes of the demo's pictures in docs/images."""
PAGES = (
    ROOT / "README.md",
    LAB / "performance.md",
    LAB / "products.md",
    LAB / "audit.md",
    LAB / "defaults.md",
    ROOT / "docs/how-to/small-defects.md",
    ROOT / "docs/how-to/when-images-change.md",
)
PRODUCTS = ("bottle", "metal_plate", "leather_tiles", "casting", "screw", "magnetic_tile")
METHODS = {"patchcore": "PatchCore", "softpatch+": "SoftPatch+", "agreement": "**softpatch**"}
SHOWN_RATIOS = {0.0: "clean folder", 0.1: "10 %", 0.4: "40 %"}


def product_rows() -> list[Row]:
    """Rows of six products with the built-in backbone, seed 0, by the methods of the README and the upper bound.

    Where a task was measured twice the later file counts: `masks` has magnetic tiles again, with masks as read now, and
    `whole` the default as it looks at the whole image.
    """
    names = ("default", "agreement", "patchcore", "masks", "whole")
    rows = [row for name in names for row in read_rows(LAB / f"{name}_rows.jsonl") if row.get("crop") is None]
    kept = {_place(row): row for row in rows if row["error"] is None and row["backbone"] == "builtin-v1"}
    # PatchCore on a clean folder is the upper bound of that folder
    clean = [{**row, "method": "patchcore"} for row in kept.values()
             if (row["method"], row["protocol"]) == ("upper-bound", "clean")]  # fmt: skip
    found = {_place(row): row for row in clean} | kept
    return [{**row, "data": "six products", "task_key": str(place)} for place, row in found.items()]


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("category", "method", "protocol", "noise_ratio", "seed"))


def auroc(rows: list[Row], method: str, ratio: float, metric: str, category: str | None = None) -> float | None:
    """Of one product, or the mean over all that have the metric; overlap, or the clean folder where the ratio is 0."""
    values = [
        row[metric]
        for row in rows
        if (row["method"], row["noise_ratio"]) == (method, ratio)
        and row["protocol"] in ("clean", "overlap")
        and category in (None, row["category"])
        and row[metric] is not None
    ]
    return mean(values) if values else None


def accuracy(rows: list[Row]) -> str:
    """The README's table, and what is said of its means."""
    lines = [f"| product | method | {' | '.join(SHOWN_RATIOS.values())} |", "|---|---|" + "---|" * len(SHOWN_RATIOS)]
    for product in (*PRODUCTS, None):
        for method, shown in METHODS.items():
            cells = []
            for ratio in SHOWN_RATIOS:
                pair = [auroc(rows, method, ratio, metric, product) for metric in ("image_auroc", "pixel_auroc")]
                cells.append(" / ".join(f"{value:.3f}" for value in pair if value is not None))
            lines.append(f"| {product or '**mean**'} | {shown} | {' | '.join(cells)} |")
    bound = _image([row for row in read_rows(LAB / "whole_rows.jsonl") if row.get("crop")], "upper-bound", 0)
    against_bound = {ratio: _image(rows, "agreement", ratio) - bound for ratio in SHOWN_RATIOS}
    against_plus = {ratio: _image(rows, "agreement", ratio) - _image(rows, "softpatch+", ratio) for ratio in (0.2, 0.3)}
    said = (
        f"Mean image AUROC of the default beside PatchCore on a clean folder that looks at the whole image, too "
        f"({bound:.3f}): {against_bound[0.0]:+.3f} when its own folder is clean, {against_bound[0.1]:+.3f} at 10 % and "
        f"{against_bound[0.4]:+.3f} at 40 %; beside the paper's method {against_plus[0.2]:+.3f} at 20 % and "
        f"{against_plus[0.3]:+.3f} at 30 %."
    )
    return "\n".join(lines) + f"\n\n{said}"


def framing(centre: list[Row], whole: list[Row]) -> str:
    """The table of what looking at the whole image does to the default, beside looking at its centre."""
    lines = ["| product | looked at | " + " | ".join(SHOWN_RATIOS.values()) + " |", "|---|---|" + "---|" * 3]
    for product in (*PRODUCTS, None):
        for shown, rows in (("centre", centre), ("whole", whole)):
            cells = []
            for ratio in SHOWN_RATIOS:
                pair = [auroc(rows, "agreement", ratio, metric, product) for metric in ("image_auroc", "pixel_auroc")]
                cells.append(" / ".join(f"{value:.3f}" for value in pair if value is not None))
            lines.append(f"| {product or '**mean**'} | {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _image(rows: list[Row], method: str, ratio: float) -> float:
    found = auroc(rows, method, ratio, "image_auroc")
    assert found is not None, (method, ratio)
    return found


def speed(kept: dict[str, Any], grown: dict[str, Any]) -> str:
    """The README's sentence on speed and memory."""
    rows = {f"{row['what']}; {row['reference']}": row for row in kept["rows"]}
    fit = rows["fit, 209 images, softpatch+; anomalib PatchCore, resnet18"]
    predict = rows["predict, per image, softpatch+; the same"]
    default_fit = rows["fit, 209 images, the default; softpatch+ of 224 pixels"]
    default_predict = rows["predict, per image, the default; the same"]
    largest = max(grown["rows"], key=lambda row: row["images"])
    return (
        f"On two cores without a GPU the paper's method (`--preset softpatch+`) learned from 209 images in "
        f"{fit['ours_s']:.1f} s and judged one in {1000 * predict['ours_s']:.0f} ms; anomalib's PatchCore with a "
        f"ResNet-18 and a bank of the same size took {fit['ratio']:.0f} (extrapolated from 500 picks) and "
        f"{predict['ratio']:.1f} times as long in the same run. In another run the default took "
        f"{1 / default_fit['ratio']:.1f} times as long as the paper's method to learn and "
        f"{1 / default_predict['ratio']:.2f} times as long to judge. {largest['images']:,} images took "
        f"{largest['peaks']['whole'] / 1e9:.1f} GB of memory in all ([performance](docs/lab/performance.md))."
    )


def demo(figures: dict[str, Any]) -> str:
    """The README's sentence below the demo's picture."""
    ours, plain = figures["softpatch"], figures["PatchCore"]
    return (
        f"*What `softpatch demo` draws. Of {ours['anomalous_images']} defective test images PatchCore misses "
        f"{plain['missed']} and softpatch {ours['missed']}; of {ours['nominal_images']} good ones they call "
        f"{plain['false_alarms']} and {ours['false_alarms']} anomalous; image AUROC {plain['image_auroc']:.3f} and "
        f"{ours['image_auroc']:.3f}, pixel AUROC {plain['pixel_auroc']:.3f} and {ours['pixel_auroc']:.3f}.*"
    )


def answers(rows: list[Row]) -> str:
    """What answers of a person who knows the truth buy: a line per folder, number of answers and order."""
    bounds = {row["category"]: row for row in product_rows() if (row["method"], row["noise_ratio"]) == ("patchcore", 0)}
    lines = [
        "| folder | answers | image AUROC | beside the clean bound | missed at 1 % false alarms | interval |",
        "|---|---|---|---|---|---|",
    ]
    means: dict[tuple[float, int, str], list[list[float]]] = {}
    for row in sorted(rows, key=lambda row: (row["category"], row["noise_ratio"], _asked(row))):
        count, order = _asked(row)
        gap = row["image_auroc"] - bounds[row["category"]]["image_auroc"]
        width = row[f"high_after_{count}"] - row[f"low_after_{count}"] if count else None
        figures = [row["image_auroc"], gap, row["missed_at_1"]]
        means.setdefault((row["noise_ratio"], count, order), []).append(figures)
        lines.append(_answered(f"{row['category']}, {row['noise_ratio']:.0%}", count, order, *figures, width))
    for (ratio, count, order), found in sorted(means.items()):
        values = [mean(column) for column in zip(*found, strict=True)]
        lines.append(_answered(f"**mean of {len(found)}**, {ratio:.0%}", count, order, *values, None))
    return "\n".join(lines)


def _asked(row: Row) -> tuple[int, str]:
    return row.get("answers", 0), row.get("asked", "")


def _answered(folder: str, count: int, order: str, auroc: float, gap: float, missed: float, width: float | None) -> str:
    asked = f"{count}, at random" if order == "random" else f"{count}"
    shown = "" if width is None else f"{width:.0%} wide"
    return f"| {folder} | {asked} | {auroc:.3f} | {gap:+.3f} | {missed:.0%} | {shown} |"


def parts() -> dict[str, str]:
    """All that is made, by name."""
    names = ("performance", "growth", "demo", "startup")
    kept, grown, figures, begun = (json.loads((LAB / f"{name}.json").read_text()) for name in names)
    rows = product_rows()
    drifted = json.loads(drift.ROWS.read_text())
    audited = [json.loads(line) for line in (LAB / "audit_rows.jsonl").read_text().splitlines()]
    return {
        "accuracy": accuracy(rows),
        "speed": speed(kept, grown),
        "demo": demo(figures["figures"]),
        "performance": performance.table(kept["rows"]),
        "growth": growth.tables(grown["rows"]),
        "startup": startup.table([startup.Row(**row) for row in begun]),
        "products": as_markdown(tables(rows)),
        "audit": audit.table(audited),
        "calibration": audit.calibration(audited),
        "small_defects": small_defects.table(json.loads(small_defects.ROWS.read_text())),
        "exported": exported.table(json.loads(exported.ROWS.read_text())),
        "exported_cost": exported.cost_table(json.loads(exported.ROWS.read_text())),
        "serve": serve_load.table([json.loads(path.read_text()) for path in serve_load.ROWS]),
        "tiles": large_images.table(json.loads(large_images.ROWS.read_text())),
        "drift": drift.table(drifted),
        "drift_summary": drift.summary(drifted),
        "framing": framing(read_rows(LAB / "agreement_rows.jsonl"), read_rows(LAB / "whole_rows.jsonl")),
        "answers": answers(read_rows(LAB / "answers_rows.jsonl")),
    }


def method_tables() -> dict[str, str]:
    """The tables in docs/lab/results, by the name of their file: what `softpatch bench summary --paper` writes."""
    found = tables(read_rows(LAB / "results/shared.jsonl"))
    texts = {"summary.md": as_markdown(found), "summary.csv": as_csv(found), "paper.md": beside_paper(found)}
    return {name: text.rstrip("\n") + "\n" for name, text in texts.items()}


def filled(page: str, made: dict[str, str]) -> str:
    """The page with what is made in place of what stands between its marks."""

    def put(found: re.Match[str]) -> str:
        return f"{found[1]}\n{made[found[2]]}\n{found[3]}"

    return re.sub(r"(<!-- (\w+):begin -->)\n.*?\n?(<!-- \2:end -->)", put, page, flags=re.DOTALL)


def demo_figures(lines: list[str]) -> dict[str, dict[str, float]]:
    """What `softpatch demo` measured, by method, read from the lines that it prints."""
    pattern = (
        r"^  (\w+) +image AUROC ([\d.]+)  pixel AUROC ([\d.]+)  missed (\d+) of (\d+) defective  "
        r"false alarms (\d+) of (\d+) good$"
    )
    names = ("image_auroc", "pixel_auroc", "missed", "anomalous_images", "false_alarms", "nominal_images")
    found = re.findall(pattern, "\n".join(lines), flags=re.MULTILINE)
    return {
        method: {name: float(text) if "." in text else int(text) for name, text in zip(names, values, strict=True)}
        for method, *values in found
    }


def write(path: Path, text: str) -> None:
    """Write a page whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="run the demo into this folder; take its pictures and figures")
    arguments = parser.parse_args()
    if arguments.demo:
        kept = demo_figures(run_demo(arguments.demo))
        for source, name in PICTURES.items():
            shutil.copyfile(arguments.demo / source, ROOT / "docs/images" / name)
        if chromium() is None:
            print("There is no Chromium or Chrome; the pictures of the audit's page stay as they are.")
        else:
            audit_page.draw(arguments.demo / "images/train", ROOT / "docs/images")
        digest = hashlib.sha256((ROOT / "docs/images/why-noise-matters.png").read_bytes()).hexdigest()
        write(LAB / "demo.json", json.dumps({"figures": kept, "picture_sha256": digest}, indent=1) + "\n")
    made = parts()
    for page in PAGES:
        write(page, filled(page.read_text(encoding="utf-8"), made))
    for name, text in method_tables().items():
        write(LAB / "results" / name, text)
    draw_figures(read_rows(LAB / "results/shared.jsonl"), LAB / "results")


if __name__ == "__main__":
    main()
