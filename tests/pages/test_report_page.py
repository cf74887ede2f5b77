"""Reports in a real browser: the threshold is moved, images are filtered, and nothing is fetched or complained of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from conftest import plate
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import open_dataset
from softpatch.estimator import SoftPatch
from softpatch.review.evaluation_report import operating_points, report_evaluation
from softpatch.scoring.labelled import confusion
from test_run import judged

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]


@pytest.fixture
def scores(fitted: SoftPatch, plate_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of the test images."""
    test = open_dataset(plate_folder).test
    answers = fitted.detector.predict([sample.ref for sample in test])
    return np.array([sample.is_anomalous for sample in test]), np.array([each.image_score for each in answers])


@pytest.fixture
def report(fitted: SoftPatch, plate_folder: Path, scores: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """A report at a threshold that divides the scores in two halves."""
    fitted.save(tmp_path / "model.safetensors")
    detector = fitted.detector.with_threshold(float(np.median(scores[1])))
    path = tmp_path / "report.html"
    report_evaluation(detector, open_dataset(plate_folder), path, model=tmp_path / "model.safetensors")
    return path


SHOWN = """() => {
  const visible = (element) => element.checkVisibility();
  const cases = [...document.querySelectorAll("[data-cases]")].map((each) => [each.dataset.cases, {
    verdicts: [...each.children].filter(visible).map((card) => card.querySelector(".verdict").textContent),
    none: visible(document.querySelector(`[data-none=${each.dataset.cases}]`)),
  }]);
  const counts = [...document.querySelectorAll("[data-count]")].map((each) => [each.dataset.count, each.textContent]);
  return { counts: Object.fromEntries(counts), cases: Object.fromEntries(cases),
           threshold: Number(document.getElementById("exact").value) };
}"""


def check_counts(page: "Page", truth: np.ndarray, scores: np.ndarray) -> dict[str, str]:
    """Check that what the page shows is what Python counts at the same threshold, and give the counts."""
    shown = page.evaluate(SHOWN)
    counts, threshold = shown["counts"], shown["threshold"]
    expected = confusion(truth, scores, threshold)
    assert (counts["missed"], counts["false_alarms"]) == (str(expected.missed), str(expected.false_alarms))
    point = next(operating_points(truth, scores, threshold))
    for name, value in (("precision", point.precision), ("recall", point.recall), ("f1", point.f1)):
        assert counts[name] == ("\N{EN DASH}" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%")
    called = scores > threshold
    assert counts["kind_0"] == str((called & ~truth).sum())
    assert counts["kind_1"] == str((called & truth).sum())
    row = [int(counts[f"defective_{verdict}"]) for verdict in ("good", "check", "anomalous")]
    assert (sum(row), row[2]) == (truth.sum(), (called & truth).sum())
    for name, total in (("missed", expected.missed), ("false_alarms", expected.false_alarms)):
        verdicts = shown["cases"][name]["verdicts"]
        assert (len(verdicts), shown["cases"][name]["none"]) == (total, total == 0)
        assert all((verdict == "anomalous") == (name == "false_alarms") for verdict in verdicts)
    return counts


def moved_to(page: "Page") -> float:
    return float(page.locator("#exact").input_value())


def test_the_threshold_is_moved_by_keys_and_all_is_counted_anew(open_page: Open, report: Path, scores) -> None:
    page = open_page(report)
    truth, values = scores
    check_counts(page, truth, values)
    start, outcomes = moved_to(page), set()
    page.locator("#slider").focus()
    for key in ("ArrowRight", "ArrowRight", "PageDown", "PageDown", "PageDown", "PageUp", "Home", "End"):
        page.keyboard.press(key)
        assert moved_to(page) != start
        counts = check_counts(page, truth, values)
        outcomes.add((counts["missed"], counts["false_alarms"]))
    assert len(outcomes) > 2
    assert page.locator("#slider").get_attribute("aria-valuetext") == counts["threshold"]
    page.get_by_role("button", name="Back to the model's").press("Enter")
    assert moved_to(page) == start
    check_counts(page, truth, values)
    assert page.locator("#reset").is_disabled()
    assert page.evaluate("document.activeElement.id") == "slider"


def test_a_threshold_is_typed_or_taken_from_the_table(open_page: Open, report: Path, scores) -> None:
    page = open_page(report)
    truth, values = scores
    start = moved_to(page)
    page.get_by_label("Threshold", exact=True).nth(1).fill(str(float(values.max()) + 1))
    page.keyboard.press("Enter")
    counts = check_counts(page, truth, values)
    assert (counts["missed"], counts["precision"]) == ("4", "\N{EN DASH}")
    page.locator("#exact").fill("")
    page.keyboard.press("Enter")
    assert moved_to(page) == start
    for button in page.locator("button[data-threshold]").all():
        button.click()
        check_counts(page, truth, values)
    page.get_by_role("button", name="none missed").click()
    assert check_counts(page, truth, values)["missed"] == "0"


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 700}}])
def test_no_page_is_wider_than_its_window(open_page: Open, report: Path, options: dict[str, object]) -> None:
    page = open_page(report, **options)
    page.locator("summary").first.click()
    width = page.viewport_size["width"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="print")
    assert not page.locator("#slider").is_visible()


@pytest.fixture
def refs(tmp_path: Path) -> Sequence[ImageRef]:
    (tmp_path / "images").mkdir()
    for number in range(8):
        image = Image.fromarray(plate(number, defective=number < 3))
        image.save(tmp_path / f"images/{number}\"'><script>alert(1)<!--.png")
    return choose_images(tmp_path / "images", "predict").refs


def test_a_run_is_filtered_by_verdict(
    open_page: Open, fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softpatch.review.outputs.MOST_PICTURES", 5)
    middle = float(np.median([answer.image_score for answer in fitted.detector.predict(refs)]))
    answers = list(fitted.detector.with_threshold(middle).predict(refs))
    judged(answers, refs, tmp_path / "out", report=True, skipped=[SkippedImage("<b>a", "it is broken")])
    page = open_page(tmp_path / "out/report.html")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    images = page.locator("[data-verdict]:visible")
    lowest = sorted(answers, key=lambda answer: answer.image_score)[:3]
    assert images.count() == 8
    for verdict in ("anomalous", "check", "good", "all"):
        button = page.locator(f"[data-filter={verdict}]")
        expected = sum(verdict in (answer.verdict, "all") for answer in answers)
        if not expected:
            assert button.is_disabled()
            continue
        button.focus()
        page.keyboard.press("Space")
        assert images.count() == expected
        assert button.get_attribute("aria-pressed") == "true"
        assert page.locator("[aria-pressed=true]").count() == 1
        assert page.get_by_role("status").inner_text() == f"{expected} shown"
        assert page.locator("#listed").is_visible() == any(verdict in (each.verdict, "all") for each in lowest)
    assert page.get_by_role("heading", name="Left out: 1").is_visible()
    loaded = page.evaluate("[...document.images].map(each => each.naturalWidth)")
    assert loaded == [64] * 10
    assert dialogs == []
