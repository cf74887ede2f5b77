"""Which defects of a large image are found, by their size and by how the image is looked at.

    python benchmarks/small_defects.py [-o ROWS] [--picture PICTURE]

Flanges are drawn at 1,024 pixels a side: 54 good ones to learn from among 6 with a small defect, then 30 good ones, and
16 with a stain, dent or scratch of each size, anywhere on the face. A drawing is no photograph; what it shows is how
size and resolution go together. Rows are JSON; `make docs` makes the table of the documentation.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from softpatch.atomic import replacing
from softpatch.data.flange import Defect, photograph
from softpatch.data.pixels import pixels_tensor
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction
from softpatch.review.pictures import under_heat

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "docs/lab/small_defects.json"
PICTURE = ROOT / "docs/images/small-defect.png"
SIDE = 1024
SIZES = (6, 10, 16, 24, 40, 64)
WAYS: dict[str, dict[str, Any]] = {
    "as it is by default": {},
    "`--resize 512 --crop 512`": {"resize": 512, "crop": 512},
    "`--tile auto --smallest-defect 40px`": {"tile": "auto", "smallest_defect": 40.0},
    "`--tile auto --smallest-defect 24px`": {"tile": "auto", "smallest_defect": 24.0},
    "`--tile auto`": {"tile": "auto"},
}
_LONG = {"stain": 0.27, "dent": 0.25, "scratch": 0.60}  # of a defect of the usual extent, in half widths of the image
_FACE = 0.25, 0.72  # distances from the axis between which a defect lies
_SHOWN = 160  # pixels of the original
_PANEL, _GAP = 300, 12  # pixels of the picture

Pixels = NDArray[np.uint8]


def drawn(rng: np.random.Generator, pixels: int | None = None) -> Pixels:
    """A photograph of a flange, good or with a defect of so many pixels."""
    while True:
        defect = None if pixels is None else _defect(rng, pixels)
        image, mask = photograph(rng, SIDE, defect)
        if defect is None or mask.sum() > 3:  # not in a hole
            return image


def _defect(rng: np.random.Generator, pixels: int) -> Defect:
    kind = str(rng.choice(list(_LONG)))
    away, angle = rng.uniform(*_FACE), rng.uniform(0, 2 * np.pi)
    strength = min(1.0, max(0.15, pixels / 40)) if kind == "scratch" else 1.0  # a short scratch is a thin one
    extent = pixels / (SIDE / 2) / _LONG[kind]
    x, y = away * np.cos(angle), away * np.sin(angle)
    return Defect(kind, x, y, rng.uniform(0, np.pi), extent, strength, int(rng.integers(2**31)))


def measure(seed: int = 0) -> tuple[list[dict[str, Any]], tuple[Pixels, dict[str, Prediction]]]:
    """A row for each way of looking, and an image with a defect of 16 pixels with what each way says of it."""
    rng = np.random.default_rng(seed)
    training = [drawn(rng) for _ in range(54)] + [drawn(rng, int(rng.choice(SIZES))) for _ in range(6)]
    good = [drawn(rng) for _ in range(30)]
    defective = {pixels: [drawn(rng, pixels) for _ in range(16)] for pixels in SIZES}
    shown = defective[16][0]
    rows, said = [], {}
    for name, settings in WAYS.items():
        began = time.perf_counter()
        estimator = SoftPatch(**settings).fit(training)
        fitted = time.perf_counter()
        scores = [answer.image_score for answer in estimator.predict_each(good)]
        each = (time.perf_counter() - fitted) / len(good)
        found, aurocs = {}, []
        for pixels, images in defective.items():
            theirs = [answer.image_score for answer in estimator.predict_each(images)]
            found[pixels] = float(np.mean(np.array(theirs) > estimator.threshold))
            aurocs.append(roc_auc_score([False] * len(scores) + [True] * len(theirs), scores + theirs))
        said[name] = estimator.predict(shown)
        seen = estimator.detector.settings
        rows.append(
            {
                "way": name,
                "side": seen.size[0] if seen.size else seen.resize,
                "fit_s": round(fitted - began, 1),
                "predict_s": round(each, 3),
                "found": found,
                "image_auroc": round(float(np.mean(aurocs)), 3),
                "false_alarms": float(np.mean(np.array(scores) > estimator.threshold)),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows, (shown, said)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table: what is found of each size, and what it takes."""
    head = [
        "an image is",
        "pixels a side",
        "s per image",
        *(f"{pixels} px" for pixels in SIZES),
        "false alarms",
        "AUROC",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        found = [f"{row['found'][str(pixels)]:.0%}" for pixels in SIZES]
        cells = [row["way"], row["side"], f"{row['predict_s']:.2f}", *found, f"{row['false_alarms']:.0%}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['image_auroc']:.3f} |")
    return "\n".join(lines)


def draw(image: Pixels, said: dict[str, Prediction], path: Path) -> None:
    """Write the defect's surroundings, alone and under the heat map of the first and of the last way."""
    first, *_, last = said.values()
    left, top = (int(min(max(place - _SHOWN / 2, 0), SIDE - _SHOWN)) for place in (last.peak_x, last.peak_y))
    views = [image, *(under_heat(pixels_tensor(image), answer) for answer in (first, last))]
    picture = Image.new("RGB", (3 * _PANEL + 2 * _GAP, _PANEL), "white")
    for number, view in enumerate(views):
        shown = Image.fromarray(view).crop((left, top, left + _SHOWN, top + _SHOWN))
        picture.paste(shown.resize((_PANEL, _PANEL), Image.Resampling.BICUBIC), (number * (_PANEL + _GAP), 0))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def main() -> None:
    """Measure, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    rows, shown = measure()
    given.output.write_text(json.dumps(rows, indent=1) + "\n")
    draw(*shown, given.picture)
    print(table(json.loads(given.output.read_text())))


if __name__ == "__main__":
    main()
