"""Draw the pictures of reports in the documentation, of the demo's product: `python benchmarks/report_pictures.py`.

The run is judged by the default, the labelled images by PatchCore, whose mistakes there is more to learn from.
"""

import argparse
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

from browser import running_browser

from softpatch.data.demo import write_demo_dataset
from softpatch.data.images import SkippedImage
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import open_dataset
from softpatch.estimator import SoftPatch
from softpatch.review.evaluation_report import report_evaluation
from softpatch.review.outputs import write_outputs
from softpatch.review.page import REPORT
from softpatch.review.run import Run, running

IMAGES = Path(__file__).parent.parent / "docs/images"
WIDTH, HEIGHT = 1280, 1060
_AT_BEST_F1 = "document.querySelector('button[aria-label*=\"F1\"]').click(); scrollTo(0, 150)"


def report_run() -> Path:
    """The report of a run of the default over the test images of the demo, defective or not, and a broken one."""
    model, new = Path("flange.safetensors"), Path("line-3")
    detector = SoftPatch().fit("images/train")
    detector.save(model)
    new.mkdir()
    for number, path in enumerate(sorted(Path("images/test").rglob("*.png"), key=lambda each: each.name)):
        shutil.copyfile(path, new / f"{number + 120:04d}.png")
    (new / "0200.png").write_bytes(b"\x89PNG\r\n\x1a\ncut short")
    refs = choose_images(new, "predict").refs
    run = Run.of(refs, model=model, report=True)
    skipped: list[SkippedImage] = []
    with running(Path("results"), run, refs, "refuse") as unfinished:
        predictions = detector.predict_each(refs, on_skip=skipped.append)
        write_outputs(predictions, refs, run, unfinished, skipped=skipped)
    return Path("results", REPORT)


def report_labelled() -> Path:
    """The report on PatchCore, fitted on the same contaminated folder."""
    model, page = Path("patchcore.safetensors"), Path("labelled.html")
    detector = SoftPatch(preset="patchcore").fit("images/train")
    detector.save(model)
    report_evaluation(detector.detector, open_dataset(Path("images")), page, model=model)
    return page


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=IMAGES, help="folder for the pictures")
    output = parser.parse_args().output.absolute()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), running_browser() as browser:
        write_demo_dataset(Path("images"))
        pages = {"report.png": (report_run(), ""), "evaluation-report.png": (report_labelled(), _AT_BEST_F1)}
        for picture, (path, script) in pages.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(path.absolute().as_uri())
            page.evaluate(script)
            page.screenshot(path=output / picture)


if __name__ == "__main__":
    main()
