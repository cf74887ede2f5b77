"""What alignment does for parts that lie turned: `python benchmarks/alignment.py [DATASET...] [--picture PICTURE]`.

Drawn are brackets, turned anyhow: 60 good ones and 6 dented ones to learn from, 40 good and 40 dented ones to judge. Of
each product, these and the datasets, image and pixel AUROC are told as images lie, with `align="find"`, and aligned
whether that is found to help or not.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from softpatch import alignment
from softpatch.atomic import replacing
from softpatch.data.images import file_ref
from softpatch.data.layouts import open_dataset
from softpatch.data.registration import moved
from softpatch.estimator import SoftPatch
from softpatch.passes import poses_of
from softpatch.review.evaluation import evaluate
from softpatch.review.pictures import under_heat

PICTURE = Path(__file__).parent.parent / "docs/images/parts-that-turn.png"
_SIDE = 256
_GAP = 8


def bracket(rng: np.random.Generator, *, dented: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A bright part in the shape of an L, turned and shifted anyhow: (256, 256, 3), and where it is dented."""
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-14, 14, 2)
    y, x = np.mgrid[:_SIDE, :_SIDE] - _SIDE / 2 - shift[::-1, None, None]
    along, down = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    arm, foot = (abs(along + 32) < 15) & (abs(down) < 72), (abs(along - 13) < 58) & (abs(down - 61) < 13)
    grey = 60.0 + 120 * (arm | foot) + 35 * (arm & (abs(down - 8) < 5)) + 12 * np.sin(along / 3) * foot
    for at, hole in ((-48, 8), (-10, 5)):
        grey -= 90 * (np.hypot(along + 32, down - at) < hole)
    dent = np.zeros_like(arm)
    if dented:
        place = rng.uniform(-35, 50), 61 + rng.uniform(-6, 6)
        if rng.random() < 0.5:
            place = -32 + rng.uniform(-7, 7), rng.uniform(20, 40)
        dent = np.hypot(along - place[0], down - place[1]) < rng.uniform(4, 8)
        grey = np.where(dent, grey - rng.uniform(40, 80), grey)
    grey = ndimage.gaussian_filter(grey, 1.2) * rng.normal(1, 0.03) + rng.normal(0, 4, grey.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2), dent


def write_brackets(folder: Path) -> Path:
    """Write the drawn product in MVTec AD's layout."""
    rng = np.random.default_rng(0)
    parts = (("train/good", 60, False), ("train/good", 6, True), ("test/good", 40, False), ("test/dent", 40, True))
    for part, count, dented in parts:
        for _ in range(count):
            pixels, mask = bracket(rng, dented=dented)
            number = len(list((folder / part).glob("*"))) if (folder / part).exists() else 0
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / part / f"{number:03d}.png")
            if part == "test/dent":
                (folder / "ground_truth/dent").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"ground_truth/dent/{number:03d}_mask.png")
    return folder


def measured(dataset: Path) -> Iterator[str]:
    """Rows of a table: how a product does, as images lie, aligned where that helps, and aligned in any case."""
    opened = open_dataset(dataset)
    for name, align, enough in (("as they lie", "none", None), ("`--align`", "find", None), ("aligned", "find", 9.0)):
        notes: list[str] = []
        with mock.patch.object(alignment, "_NEARER", alignment._NEARER if enough is None else enough):
            estimator = SoftPatch(align=align).fit([each.path for each in opened.train], on_note=notes.append)
        found = evaluate(estimator.detector, opened.test)
        pixel = "" if found.metrics.pixel_auroc is None else f"{found.metrics.pixel_auroc:.3f}"
        aligned = "yes" if estimator.detector.settings.align not in ("none", "find") else "no"
        said = next((note.split(" nearer")[0].split()[-1] for note in notes if "aligned" in note), "")
        yield f"| {dataset.name} | {name} | {aligned} | {said} | {found.metrics.image_auroc:.3f} | {pixel} |"


def draw(images: Path, path: Path) -> None:
    """Write some dented brackets as they lie, as they are seen, and with what is found."""
    estimator = SoftPatch(align="find").fit(images / "train")
    refs = [file_ref(each) for each in sorted((images / "test/dent").iterdir())[:5]]
    rows: list[Sequence[NDArray[np.uint8]]] = [[], [], []]
    for ref in refs:
        pixels = ref.read()[None]
        seen = moved(pixels, poses_of(pixels, [(_SIDE, _SIDE)], estimator.detector.settings.align))
        views = (_shown(pixels.numpy()), _shown(seen.numpy()), under_heat(pixels[0], estimator.predict(ref.path)))
        rows = [[*row, view] for row, view in zip(rows, views, strict=True)]
    step = _SIDE + _GAP
    canvas = Image.new("RGB", (len(refs) * step - _GAP, 3 * step - _GAP), "white")
    for number, row in enumerate(rows):
        for place, view in enumerate(row):
            canvas.paste(Image.fromarray(view), (place * step, number * step))
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG")


def _shown(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (images[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)


def main() -> None:
    """Draw, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="*")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        brackets = write_brackets(Path(folder, "brackets"))
        draw(brackets, given.picture)
        print("| product | | aligned | nearer by | image AUROC | pixel AUROC |\n|---|---|---|---|---|---|")
        for dataset in (brackets, *given.datasets):
            for row in measured(dataset):
                print(row, flush=True)


if __name__ == "__main__":
    main()
