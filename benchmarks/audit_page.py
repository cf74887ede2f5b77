"""How long the page of an audit takes to show, and what it holds in memory: `python benchmarks/audit_page.py`.

The audit is made up, of one picture under many names, so that it costs little. `--picture FILE` draws instead what the
page of a small contaminated folder of the demo's product looks like, with heat maps of where its defects are.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from browser import running_browser
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter, label
from torch import Tensor

from softpatch.data.demo import RECURRING
from softpatch.data.flange import Defect, photograph
from softpatch.data.framing import Framing
from softpatch.memory.belief import Hypotheses, believe
from softpatch.results import Prediction
from softpatch.review.audit import AuditedImage, AuditedRegion, Counterpart, FolderAudit
from softpatch.review.audit_page import PAGE, write_audit_page
from softpatch.review.groups import ImageGroup

if TYPE_CHECKING:
    from playwright.sync_api import Page

HYPOTHESES = Hypotheses(np.arange(0.0, 6.0, 0.5), np.full(12, 2.0), np.full(12, 1 / 12))
_EXACT = ("--enable-precise-memory-info", "--js-flags=--expose-gc")
_SCROLL = "(place) => new Promise((done) => { scrollTo(0, place); requestAnimationFrame(done); })"
_ANSWER = "(() => { const from = performance.now(); toggle(0, 'reject'); return performance.now() - from; })()"
SIDE = 64  # of a made-up picture


def made_up_audit(names: list[str], *, anomalous: int) -> FolderAudit:
    """An audit of images of 64 pixels, of which the first `anomalous` have evidence, a region and a heat map."""
    x = np.concatenate([np.linspace(5, 2, anomalous), np.linspace(1.5, -1, len(names) - anomalous)])
    belief = believe(x, HYPOTHESES, {})
    heat = np.zeros((32, 32), dtype=np.float32)
    heat[8:16, 8:16] = 2
    images = []
    for number, name in enumerate(names):
        is_anomalous = number < anomalous
        counterpart = Counterpart(names[-1], (16, 16, 32, 32))
        region = AuditedRegion((16, 16, 32, 32), 256, 2.0, 1.5, number % 3, counterpart)
        answer = prediction(name, float(np.exp(x[number] / 2)), heat if is_anomalous else 0 * heat, SIDE)
        regions = (region,) if is_anomalous else ()
        images.append(AuditedImage(name, float(belief.suspicion[number]), float(x[number]), answer, regions))
    return FolderAudit(tuple(images), (), belief, HYPOTHESES)


def prediction(name: str, score: float, anomaly_map: NDArray[np.float32], side: int) -> Prediction:
    """An answer about a square image that is looked at whole; thresholds are 2 and, on the map, 1."""
    framing = Framing(anomaly_map.shape[0], anomaly_map.shape[0])
    return Prediction(name, score, 2.0, 1.5, side / 2, side / 2, side, side, anomaly_map, 1.0, False, framing)


def one_picture(_: str) -> Tensor:
    """The picture of every made-up image: a grey square with a bright one in it."""
    image = torch.full((3, SIDE, SIDE), 0.4)
    image[:, 16:32, 16:32] = 0.9
    return image


def product_audit(seed: int = 0, *, good: int = 66, defective: int = 14) -> tuple[FolderAudit, dict[str, Tensor]]:
    """An audit of photographs of the demo's product and the photographs by path, with what a perfect detector says.

    Defects recur where the demo's faulty machine hits, so that they form groups.
    """
    rng = np.random.default_rng(seed)
    kinds = [kind for kind, _ in zip(sorted(RECURRING) * defective, range(defective), strict=False)]
    defects = [None] * good + [_defect(kind, rng) for kind in kinds]
    names = [f"line-3/{number:04d}.png" for number in rng.permutation(len(defects)) + 120]
    evidence = np.concatenate([rng.normal(0.2, 0.7, good), rng.normal(4.0, 1.0, defective)])
    order = np.argsort(-evidence)
    pictures, images = {}, []
    belief = believe(evidence[order], HYPOTHESES, {})
    for place, number in enumerate(order):
        pixels, mask = photograph(rng, 320, defects[number])
        pictures[names[number]] = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        heat = gaussian_filter(mask.astype(np.float32), 5) * 1.9 + gaussian_filter(rng.random(mask.shape), 8) * 0.5
        answer = prediction(names[number], float(np.exp(evidence[number] / 4)), heat.astype(np.float32), 320)
        agreeing = kinds.count(kinds[number - good]) - 1 if number >= good else 0
        like = names[int(rng.integers(good))]
        regions = tuple(
            AuditedRegion(box, 400, float(heat.max()), float(heat.mean()), agreeing, Counterpart(like, box))
            for box in _boxes(mask)
        )
        suspicion = float(belief.suspicion[place])
        images.append(AuditedImage(names[number], suspicion, float(evidence[number]), answer, regions))
    groups = []
    for kind in sorted(RECURRING):
        members = tuple(place for place, number in enumerate(order) if number >= good and kinds[number - good] == kind)
        said = f"{len(members)} images show the same at the same place"
        groups.append(ImageGroup("repeated defect", members, said))
    return FolderAudit(tuple(images), tuple(groups), belief, HYPOTHESES), pictures


def _defect(kind: str, rng: np.random.Generator) -> Defect:
    bearing, radius, direction, shape = RECURRING[kind]
    angle = np.radians(bearing + rng.normal(0, 1))
    x, y = float(radius * np.cos(angle)), float(radius * np.sin(angle))
    return Defect(kind, x, y, float(np.radians(direction)), float(rng.normal(1, 0.05)), 1.0, shape)


def _boxes(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """The two largest pieces of a mask."""
    pieces = sorted(
        find_objects(label(gaussian_filter(mask.astype(float), 2) > 0.1)[0]), key=lambda at: -mask[at].sum()
    )
    return [(across.start, down.start, across.stop, down.stop) for down, across in pieces[:2]]


def draw(picture: Path) -> None:
    """Draw the page of `product_audit` with an image open, as PNG."""
    audit, pictures = product_audit()
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        write_audit_page(audit, Path(folder), pictures.__getitem__)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto((Path(folder) / PAGE).as_uri())
        for key in ("r", "ArrowRight", "r", "n", "k", "Home", "Enter"):
            page.keyboard.press(key)
        page.wait_for_function("[...document.images].every((each) => each.complete)")
        page.screenshot(path=picture)


def measured(images: int) -> list[tuple[str, str]]:
    """What it costs to write, open, scroll through and answer on the page of so many images: lines of a table."""
    audit = made_up_audit([f"{number:05d}.png" for number in range(images)], anomalous=images // 10)
    with tempfile.TemporaryDirectory() as folder, running_browser(*_EXACT) as browser:
        start = time.perf_counter()
        write_audit_page(audit, Path(folder), one_picture)
        rows = [("writing all", f"{time.perf_counter() - start:.1f} s")]
        rows.append(("the page alone", f"{(Path(folder) / PAGE).stat().st_size / 1e6:.1f} MB"))
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto((Path(folder) / PAGE).as_uri())
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        rows.append(("first paint with content", f"{paint:.0f} ms"))
        rows.append(("JavaScript heap, cards: at first", _held(page)))
        height = page.evaluate("document.body.scrollHeight")
        for place in range(0, height, max(600, height // 200)):
            page.evaluate(
                "(place) => new Promise((done) => { scrollTo(0, place); requestAnimationFrame(done); })", place
            )
        rows.append(("scrolled to the end", _held(page)))
        page.evaluate("goToNextQuestion()")
        answer = page.evaluate(
            "(() => { const from = performance.now(); toggle(0, 'reject'); return performance.now() - from; })()"
        )
        rows.append(("one answer, and what is believed then", f"{answer:.0f} ms"))
    return rows


def _held(page: "Page") -> str:
    page.evaluate("window.gc?.()")
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    return f"{heap:.1f} MB, {page.locator('.card').count()} cards"


def main() -> None:
    """Measure and print, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 10_000])
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if given.picture:
        draw(given.picture)
        return
    for images in given.images:
        print(f"{images:,} images")
        for what, value in measured(images):
            print(f"  {what:40} {value}")


if __name__ == "__main__":
    main()
