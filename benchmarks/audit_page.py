"""How long the page of an audit takes to show, and what it holds in memory: `python benchmarks/audit_page.py`.

The audit is made up, of one picture under many names, so that it costs little. `--draw IMAGES FOLDER` audits a folder
of images instead, and draws its page into another.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from browser import running_browser, wait_until
from numpy.typing import NDArray
from torch import Tensor

from softpatch.data.framing import Framing
from softpatch.data.inputs import choose_images
from softpatch.estimator import SoftPatch
from softpatch.memory.belief import believe, first_hypotheses
from softpatch.memory.estimate import Contamination
from softpatch.results import Prediction
from softpatch.review.audit import AuditedImage, AuditedRegion, Counterpart, FolderAudit, audit_folder
from softpatch.review.audit_page import PAGE, write_audit_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

_EXACT = ("--enable-precise-memory-info", "--js-flags=--expose-gc")
_SCROLL = "(place) => new Promise((done) => { scrollTo(0, place); requestAnimationFrame(done); })"
_ANSWER = "(() => { const from = performance.now(); toggle(0, 'reject'); return performance.now() - from; })()"
SIDE = 64  # of a made-up picture


def made_up_audit(names: list[str], *, anomalous: int) -> FolderAudit:
    """An audit of images of 64 pixels, of which the first `anomalous` have evidence, a region and a heat map."""
    x = np.concatenate([np.linspace(5, 2, anomalous), np.linspace(1.5, -1, len(names) - anomalous)])
    hypotheses = first_hypotheses(x, Contamination(0.2, 0.05, 0.4))
    belief = believe(x, hypotheses, {})
    heat = np.zeros((32, 32), dtype=np.float32)
    heat[8:16, 8:16] = 2
    images = []
    for number, name in enumerate(names):
        is_anomalous = number < anomalous
        counterpart = Counterpart(names[-1], (16, 16, 32, 32))
        corners = ((16, 16), (32, 16), (32, 32), (16, 32))
        region = AuditedRegion((16, 16, 32, 32), 256, (corners,), 2.0, 1.5, 20, 20, number % 3, counterpart)
        answer = prediction(name, float(np.exp(x[number] / 2)), heat if is_anomalous else 0 * heat, SIDE)
        regions = (region,) if is_anomalous else ()
        images.append(AuditedImage(name, float(belief.suspicion[number]), float(x[number]), answer, regions))
    return FolderAudit(tuple(images), (), belief, hypotheses)


def prediction(name: str, score: float, anomaly_map: NDArray[np.float32], side: int) -> Prediction:
    """An answer about a square image that is looked at whole; thresholds are 2 and, on the map, 1."""
    framing = Framing.square(anomaly_map.shape[0], anomaly_map.shape[0])
    return Prediction(name, score, 2.0, 1.5, side / 2, side / 2, side, side, anomaly_map, 1.0, False, 0.0, framing)


def one_picture(_: str) -> Tensor:
    """The picture of every made-up image: a grey square with a bright one in it."""
    image = torch.full((3, SIDE, SIDE), 0.4)
    image[:, 16:32, 16:32] = 0.9
    return image


def draw(images: Path, folder: Path) -> None:
    """Audit a folder of images, and draw the page and an image opened on it: `audit-page.png`, `audit-detail.png`."""
    refs = choose_images([images], "train").refs
    by_name = {ref.name: ref for ref in refs}
    audit = audit_folder(SoftPatch().fit(refs).detector, refs)
    with tempfile.TemporaryDirectory() as pages, running_browser() as browser:
        write_audit_page(audit, Path(pages), lambda name: by_name[name].read())
        page = browser.new_page(viewport={"width": 1120, "height": 720})
        page.goto((Path(pages) / PAGE).as_uri())
        for keys, name in (("r ArrowRight r h ArrowRight", "audit-page.png"), ("h Enter", "audit-detail.png")):
            for key in keys.split():
                page.keyboard.press(key)
            wait_until(page, "[...document.images].every((each) => each.complete)")
            page.screenshot(path=folder / name, animations="disabled")


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
        paint = wait_until(page, "performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        rows.append(("first paint with content", f"{paint:.0f} ms"))
        rows.append(("JavaScript heap, cards: at first", _held(page)))
        height = page.evaluate("document.body.scrollHeight")
        for place in range(0, height, max(600, height // 200)):
            page.evaluate(_SCROLL, place)
        rows.append(("scrolled to the end", _held(page)))
        page.evaluate("goToNextQuestion()")
        rows.append(("one answer, and what is believed then", f"{page.evaluate(_ANSWER):.0f} ms"))
    return rows


def _held(page: "Page") -> str:
    page.evaluate("window.gc?.()")
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    return f"{heap:.1f} MB, {page.locator('.card').count()} cards"


def main() -> None:
    """Measure and print, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 10_000])
    parser.add_argument("--draw", type=Path, nargs=2, metavar=("IMAGES", "FOLDER"))
    given = parser.parse_args()
    if given.draw:
        draw(*given.draw)
        return
    for images in given.images:
        print(f"{images:,} images")
        for what, value in measured(images):
            print(f"  {what:40} {value}")


if __name__ == "__main__":
    main()
