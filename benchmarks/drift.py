"""How soon changed images and more defects are told, how often by the right name, and how often for nothing.

    python benchmarks/drift.py DATA [--products NAME...] [--streams 20] [-o ROWS]
    python benchmarks/drift.py --picture

DATA holds the products of `PRODUCTS`. Of each a model is learned from half of its good training images and 5 %
defective ones. Streams are drawn with replacement from good images that it has not seen, held out of the training
folder or from the test folder, and 5 % defective test images; of leather tiles not from the test folder, which shows
other pictures. False alarms are counted in streams in which nothing changes. Then good images are made lighter or
darker, blurred, shifted by pixels of 256 with borders continued, or are another product's, or more images are
defective, from the first image on or after 900 as before; told is what the first alarm says within 400 images.

The quartile of the map, the bets and the level were chosen by the first three products; that good images are placed
among good ones, and when others count, after castings, leather tiles and screws had been seen too. With --picture the
picture of the documentation is drawn instead, of drawn flanges in a light that is dimmed for a while, and then more
defects.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from softpatch.data.demo import write_demo_dataset
from softpatch.data.images import ImageRef
from softpatch.data.layouts import open_dataset
from softpatch.estimator import SoftPatch
from softpatch.review.drift import drift_in_words, write_drift
from softpatch.scoring.drift import Drift

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "docs/lab/drift.json"
PICTURE = ROOT / "docs/images/drift.png"
PRODUCTS = ("mvtec_ad/bottle", "metal_plate", "magnetic_tile", "casting", "leather_tiles", "mvtec_ad/screw")
_SIDE, _SHARE, _IMAGES, _WITHIN, _BEFORE = 256, 0.05, 60, 400, 900
_CHOSEN_BY = 3  # products
_IN_CONTROL = (10, 10_000)  # streams of so many images
Pixels = NDArray[np.uint8]
Judged = NDArray[np.float64]  # (n, 2): map quartile, and 1 where the verdict is good


def _lighter(percent: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.clip(pixels * (1 + percent / 100), 0, 255).round().astype(np.uint8)


def _blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: ndimage.gaussian_filter(pixels.astype(float), (sigma, sigma, 0)).round().astype(np.uint8)


def _shifted(count: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: ndimage.shift(pixels, (count, count, 0), order=0, mode="nearest")


CHANGES = {
    **{f"brightness {percent:+d} %": _lighter(percent) for percent in (-20, -10, -5, 5, 10, 20)},
    **{f"blur, sigma {sigma} px": _blurred(sigma) for sigma in (0.5, 1, 2)},
    **{f"shift by {count} px": _shifted(count) for count in (2, 5, 10)},
}
OTHER = "another product"
RATES = {f"{100 * rate:.0f} % defective": rate for rate in (0.1, 0.2, 0.4)}


@dataclass(frozen=True)
class Measured:
    """What a model says: the drift of before the first image, and images judged, by what was done to them."""

    drift: Drift
    good: Judged
    defective: Judged
    changed: dict[str, Judged]


def pixels_of(ref: ImageRef) -> Pixels:
    """An image squeezed to 256 x 256 RGB."""
    found = (255 * ref.read().numpy().transpose(1, 2, 0)).round().astype(np.uint8)
    return np.asarray(Image.fromarray(found).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


def measure(data: Path, product: str) -> Measured:
    """Learn one product and judge its other images, as they are and changed."""
    rng, dataset = np.random.default_rng(0), open_dataset(data / product)
    train = [pixels_of(dataset.train[n].ref) for n in rng.permutation(len(dataset.train))]
    defective = [pixels_of(sample.ref) for sample in dataset.test if sample.is_anomalous]
    defective = [defective[n] for n in rng.permutation(len(defective))]
    learned = len(train) // 2 if len(train) > 120 else round(0.6 * len(train))
    bad = max(1, round(_SHARE / (1 - _SHARE) * learned))
    estimator = SoftPatch(device="cpu").fit(np.stack(train[:learned] + defective[:bad]))
    good = train[learned:]
    if product != "leather_tiles":
        good += [pixels_of(sample.ref) for sample in dataset.test if not sample.is_anomalous]

    def judge(images: Sequence[Pixels]) -> Judged:
        answers = estimator.predict_each(np.stack(images))
        return np.array([(answer.map_quartile, answer.verdict == "good") for answer in answers])

    some = [good[n] for n in rng.permutation(len(good))[:_IMAGES]]
    changed = {name: judge([change(image) for image in some]) for name, change in CHANGES.items()}
    next_one = PRODUCTS[(PRODUCTS.index(product) + 1) % len(PRODUCTS)]
    others = [pixels_of(sample.ref) for sample in open_dataset(data / next_one).train[:20]]
    changed[OTHER] = judge(others)
    return Measured(estimator.drift(), judge(good), judge(defective[bad:]), changed)


def stream(rng: np.random.Generator, good: Judged, defective: Judged, rate: float, count: int) -> list[list[float]]:
    """Images drawn with replacement, each defective at a rate."""
    drawn = good[rng.integers(len(good), size=count)]
    bad = rng.random(count) < rate
    drawn[bad] = defective[rng.integers(len(defective), size=int(bad.sum()))]
    return drawn.tolist()


def false_alarms(measured: Measured, rng: np.random.Generator) -> dict[str, int]:
    """Alarms by their names in streams in which nothing changes."""
    found = {"images changed": 0, "more defects": 0}
    streams, count = _IN_CONTROL
    for _ in range(streams):
        drift = measured.drift
        for quartile, is_good in stream(rng, measured.good, measured.defective, _SHARE, count):
            before, drift = drift.alarm, drift.after(quartile, is_good=bool(is_good))
            if drift.alarm is not None and drift.alarm != before:
                found[drift.alarm.kind] += 1
    return found


def settled(measured: Measured, rng: np.random.Generator) -> Drift:
    """The drift after images as before, of a stream without an alarm."""
    while True:
        drift = measured.drift
        for quartile, is_good in stream(rng, measured.good, measured.defective, _SHARE, _BEFORE):
            drift = drift.after(quartile, is_good=bool(is_good))
        if drift.alarm is None:
            return drift


def told(drift: Drift, images: list[list[float]]) -> tuple[str, int] | None:
    """The name of the first alarm and how many images it took; None where there is none."""
    for number, (quartile, is_good) in enumerate(images, 1):
        drift = drift.after(quartile, is_good=bool(is_good))
        if drift.alarm is not None:
            return drift.alarm.kind, number
    return None


def row_of(product: str, what: str, before: int, found: Sequence[tuple[str, int] | None]) -> dict[str, Any]:
    """What streams with one change came to."""
    alarms = [each for each in found if each is not None]
    right = "more defects" if what in RATES else "images changed"
    return {
        "product": Path(product).name,
        "change": what,
        "images_before": before,
        "streams": len(found),
        "told": len(alarms),
        "rightly_named": sum(name == right for name, _ in alarms),
        "median_images": median(number for _, number in alarms) if alarms else None,
    }


def rows_of(measured: Measured, product: str, streams: int) -> list[dict[str, Any]]:
    """All rows of one product."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = [
        {
            "product": Path(product).name,
            "change": "none",
            "images": _IN_CONTROL[0] * _IN_CONTROL[1],
            "usual_images": len(measured.drift.usual) + len(measured.drift.usual_others),
            **false_alarms(measured, rng),
        }
    ]
    changes = {what: (good, _SHARE) for what, good in measured.changed.items()}
    changes |= {what: (measured.good, rate) for what, rate in RATES.items()}
    for before in (0, _BEFORE):
        for what, (good, rate) in changes.items():
            starts = [settled(measured, rng) for _ in range(4)] if before else [measured.drift]
            found = [
                told(starts[n % len(starts)], stream(rng, good, measured.defective, rate, _WITHIN))
                for n in range(streams)
            ]
            rows.append(row_of(product, what, before, found))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: images until the alarm after 900 as before, by product, and its name."""
    products = list(dict.fromkeys(row["product"] for row in rows))
    lines = [f"| from image 901 on | {' | '.join(products)} |", "|---|" + "---|" * len(products)]
    changes = dict.fromkeys(row["change"] for row in rows if row["change"] != "none")
    for what in changes:
        cells = [
            _cell(row)
            for name in products
            for row in rows
            if (row["product"], row["change"], row.get("images_before")) == (name, what, _BEFORE)
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    if not row["told"]:
        return "-"
    share = "" if row["told"] == row["streams"] else f", {row['told'] / row['streams']:.0%} told"
    name = "" if row["rightly_named"] == row["told"] else f", {row['rightly_named'] / row['told']:.0%} by its name"
    return f"{row['median_images']:.0f}{share}{name}"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A sentence on false alarms, and one on what is told and by which name."""
    calm = [row for row in rows if row["change"] == "none"]
    images = sum(row["images"] for row in calm)
    alarms = {name: sum(row[name] for row in calm) for name in ("images changed", "more defects")}
    chosen = [Path(name).name for name in PRODUCTS[:_CHOSEN_BY]]
    later = [row for row in rows if row.get("images_before") == _BEFORE]
    (told, named), (told_chosen, named_chosen), (told_first, named_first) = (
        _shares(some)
        for some in (
            [row for row in later if row["product"] not in chosen],
            [row for row in later if row["product"] in chosen],
            [row for row in rows if row.get("images_before") == 0],
        )
    )
    return (
        f"In {images:,} images of streams in which nothing changed there were {sum(alarms.values())} alarms, "
        f"{alarms['images changed']} of changed images and {alarms['more defects']} of more defects: "
        f"{10_000 * sum(alarms.values()) / images:.1f} in 10,000 images. Of all changes of the table {told:.0%} were "
        f"told within {_WITHIN} images, and {named:.0%} of these by the right name, on the last three products, and "
        f"{told_chosen:.0%} and {named_chosen:.0%} on the first three. Where the change is there from the "
        f"first image on, {told_first:.0%} and {named_first:.0%} on all."
    )


def _shares(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    streams, told, named = (sum(row[name] for row in rows) for name in ("streams", "told", "rightly_named"))
    return told / max(1, streams), named / max(1, told)


def draw(path: Path) -> None:
    """Draw 500 flanges in sequence, of which 151 to 230 are dimmed by 10 % and from 351 on a third is defective."""
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_demo_dataset(folder / "images", test_good=500, test_anomalous=120)
        estimator = SoftPatch(device="cpu").fit(images / "train")
        good = sorted((images / "test/good").glob("*.png"))
        bad = [each for each in sorted((images / "test").rglob("*.png")) if each.parent.name != "good"]
        bad = [bad[n] for n in rng.permutation(len(bad))]
        line = [bad.pop() if rng.random() < (0.33 if n >= 350 else 0.04) else each for n, each in enumerate(good)]
        shown = [np.asarray(Image.open(each).convert("RGB")) for each in line]
        shown[150:230] = [_lighter(-10)(pixels) for pixels in shown[150:230]]
        answers = estimator.predict_each(shown)
        rows = [{**answer.as_dict(), "path": f"{n:03d}.png"} for n, answer in enumerate(answers)]
        write_drift(rows, estimator.drift(), folder)
        shutil.copyfile(folder / "drift.png", path)
        print("\n".join(drift_in_words(folder)))


def main() -> None:
    """Measure, and write rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--picture", action="store_true", help="draw the picture of the documentation")
    parser.add_argument("--products", nargs="+", default=PRODUCTS)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.picture or arguments.data is None:
        draw(PICTURE)
        return
    rows: list[dict[str, Any]] = []
    for product in arguments.products:
        rows += rows_of(measure(arguments.data, product), product, arguments.streams)
        print(json.dumps(rows[-1]), flush=True)
    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows) + "\n\n" + summary(rows))


if __name__ == "__main__":
    main()
