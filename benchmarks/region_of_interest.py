"""What a region of interest does for the demo's product, in numbers and in the picture of the documentation.

    python benchmarks/region_of_interest.py [-o PICTURE]

Only the flange's face is looked at, without the ground and the hole in its middle. On the ground of a tenth of the
training images and of half of the test images lies a disc, as dark or bright and as large as it happens to be.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from softpatch.data.demo import write_demo_dataset
from softpatch.data.images import file_ref
from softpatch.data.layouts import open_dataset
from softpatch.estimator import SoftPatch
from softpatch.review.pictures import save_overlay

PICTURE = Path(__file__).parent.parent / "docs/images/region-of-interest.png"
_FACE, _HOLE = 0.82, 0.17  # diameters, in widths of the image
_LITTERED = {"train": 0.1, "test": 0.5}


def draw_mask(image: Path, path: Path) -> None:
    """Write a mask of the size of an image, white where the ring is that is looked at."""
    with Image.open(image) as shown:
        mask = Image.new("L", shown.size)
    draw = ImageDraw.Draw(mask)
    for diameter, colour in ((_FACE, "white"), (_HOLE, "black")):
        x, y, reach = mask.width / 2, mask.height / 2, diameter * mask.width / 2
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    mask.save(path)


def litter(images: Path, seed: int) -> None:
    """Draw a disc on the ground of some of the images, in their files."""
    rng = np.random.default_rng(seed)
    for part, share in _LITTERED.items():
        for path in sorted((images / part).rglob("*.png")):
            if rng.random() < share:
                with Image.open(path) as image:
                    drawn = image.convert("RGB")
                reach, grey = drawn.width * rng.uniform(0.03, 0.06), int(rng.integers(60, 256))
                angle, away = rng.choice([1, 3, 5, 7]) * np.pi / 4, 0.58 * drawn.width  # a corner
                x, y = drawn.width / 2 + away * np.cos(angle), drawn.height / 2 + away * np.sin(angle)
                ImageDraw.Draw(drawn).ellipse((x - reach, y - reach, x + reach, y + reach), fill=(grey, grey, grey))
                drawn.save(path)


def measured(images: Path, mask: Path) -> Iterator[str]:
    """Rows of a table: image AUROC, false alarms and misses with and without the region."""
    dataset = open_dataset(images)
    truth = np.array([sample.is_anomalous for sample in dataset.test])
    for name, roi in (("all", None), ("the face", mask)):
        detector = SoftPatch(roi=roi, crop=256).fit([sample.path for sample in dataset.train])
        scores = np.array([answer.image_score for answer in detector.predict([each.path for each in dataset.test])])
        called = scores > detector.threshold
        shares = f"{called[~truth].mean():.0%} | {(~called[truth]).mean():.0%}"
        yield f"| {name} | {roc_auc_score(truth, scores):.3f} | {shares} |"


def main() -> None:
    """Draw, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=PICTURE)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        images, mask = Path(folder, "images"), Path(folder, "face.png")
        write_demo_dataset(images)
        dented = min((images / "test/dent").iterdir())
        draw_mask(dented, mask)
        answer = SoftPatch(roi=mask, crop=256).fit(images / "train").predict(dented)
        save_overlay(file_ref(dented).read(), answer, output)
        litter(images, seed=0)
        print("| looked at | image AUROC | false alarms | missed |\n|---|---|---|---|")
        for row in measured(images, mask):
            print(row, flush=True)


if __name__ == "__main__":
    main()
