"""Reports: their figures are those of evaluate and of the tables, and no name breaks out of its place."""

import json
import os
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import plate
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import open_dataset
from softpatch.errors import ImageError, InputError
from softpatch.estimator import SoftPatch
from softpatch.review import run_report
from softpatch.review.evaluation import evaluate
from softpatch.review.evaluation_report import operating_points, report_evaluation
from softpatch.review.page import check_can_replace_page
from softpatch.scoring.labelled import confusion
from test_run import contents, judged, stopped_after

VOID = {"meta", "img", "input", "rect", "line", "path", "polyline", "circle"}
HOSTILE = (
    '"><img src=x onerror=alert(1)>.png',
    "'; alert(1) '.png",
    "<script>alert(1)<!--.png",
    "a\nb\tc.png",
    "a\u202egnp.exe.png",
    "{{ 7 * 7 }}{% raw %}.png",
    os.fsdecode(b"\xff\xfe.png"),
)


class Page(HTMLParser):
    """A page taken apart: `elements` are (tag, attributes, text), closed properly or it is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.elements[number][2].append(data)

    def find(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of the elements that have a tag and all of these attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            (found, " ".join("".join(text).split()))
            for name, found, text in self.elements
            if name == tag and wanted.items() <= found.items()
        ]

    def count(self, name: str) -> str:
        """What is shown as one of the figures that go with the threshold."""
        (shown,) = {text for tag, found, text in self._texts() if found.get("data-count") == name}
        return shown

    def _texts(self) -> list[tuple[str, dict[str, str | None], str]]:
        return [(tag, found, "".join(text)) for tag, found, text in self.elements]


@pytest.fixture
def model(fitted: SoftPatch, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def report(fitted: SoftPatch, model: Path, tmp_path: Path) -> Callable[..., Page]:
    """Report on a dataset at a threshold."""

    def made(folder: Path, threshold: float | None = None) -> Page:
        detector = fitted.detector if threshold is None else fitted.detector.with_threshold(threshold)
        report_evaluation(detector, open_dataset(folder), tmp_path / "report.html", model=model, on_skip=lambda _: None)
        return Page(tmp_path / "report.html")

    return made


def test_figures_are_those_of_evaluate(fitted: SoftPatch, plate_folder: Path, report) -> None:
    dataset = open_dataset(plate_folder)
    scores = sorted(answer.image_score for answer in fitted.detector.predict([each.ref for each in dataset.test]))
    detector = fitted.detector.with_threshold(scores[5])  # the two highest of eight are above it
    expected = evaluate(detector, dataset.test)
    page = report(plate_folder, scores[5])
    shown = {page.count(name) for name in ("missed",)}
    assert shown == {str(expected.missed)}
    assert page.count("false_alarms") == str(expected.false_alarms)
    figures = [text for _, text in page.find("dd")]
    assert f"{expected.metrics.image_auroc:.3f}" in figures
    assert f"{expected.metrics.aupro:.3f}" in figures
    kinds = {kind.kind: number for number, kind in enumerate(expected.kinds)}
    for kind in expected.kinds:
        assert page.count(f"kind_{kinds[kind.kind]}") == str(kind.called_anomalous)
    verdicts = [int(page.count(f"defective_{verdict}")) for verdict in ("good", "check", "anomalous")]
    assert sum(verdicts) == expected.anomalous_images == 4
    assert verdicts[2] == 4 - expected.missed
    cases = [found for found, _ in page.find("article") if "hidden" not in found]
    assert len(cases) == expected.missed + expected.false_alarms + 4 + 4  # and the clearest of either label
    missed = [float(found["data-score"] or 0) for found, text in page.find("article") if "blot" in text]
    assert missed[:4] == sorted(missed[:4])


def test_the_script_gets_every_score_as_it_was_compared(fitted: SoftPatch, plate_folder: Path, report) -> None:
    test = open_dataset(plate_folder).test
    answers = list(fitted.detector.predict([sample.ref for sample in test]))
    data = json.loads(report(plate_folder).find("script", id="data")[0][1])
    assert data["scores"] == [answer.image_score for answer in answers]
    assert data["defective"] == [sample.is_anomalous for sample in test]
    assert data["threshold"] == fitted.threshold
    assert data["check_threshold"] == fitted.detector.check_threshold


def test_operating_points_say_what_each_threshold_makes() -> None:
    truth = np.array([False] * 20 + [True] * 20)
    scores = np.concatenate([np.arange(20), np.arange(15, 35) + 0.5]).astype(np.float32)
    model, *others = operating_points(truth, scores, 30.0)
    assert (model.reason, model.counts.missed, model.counts.false_alarms, model.precision) == ("the model's", 15, 0, 1)
    assert [point.threshold for point in others] == sorted((each.threshold for each in others), reverse=True)
    assert all(point.counts == confusion(truth, scores, point.threshold) for point in others)
    by_reason = {reason: point for point in others for reason in point.reason.split(", ")}
    assert by_reason["no false alarm"].counts.false_alarms == 0
    assert by_reason["none missed"].counts.missed == 0
    assert by_reason["at most 5 % missed"].counts.missed == 1
    assert by_reason["at most 5 % false alarms"].counts.false_alarms == 1
    best = by_reason["F1 is largest"]
    assert best.f1 == pytest.approx(2 * best.precision * best.recall / (best.precision + best.recall))
    assert best.f1 == max(point.f1 for point in (model, *others))


def test_of_one_label_alone_there_are_no_curves(plate_folder: Path, report) -> None:
    for path in (plate_folder / "test/blot").iterdir():
        path.unlink()
    (plate_folder / "test/blot").rmdir()
    page = report(plate_folder)
    assert page.find("polyline") == []
    assert [text for _, text in page.find("dd")].count("not defined here") == 6
    assert len(page.find("tr")) > 3
    assert page.count("recall") == "\N{EN DASH}"


def test_what_was_left_out_is_listed(plate_folder: Path, fitted: SoftPatch, model: Path, report, tmp_path) -> None:
    (plate_folder / "test/good/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    page = report(plate_folder)
    assert [text for _, text in page.find("td") if "broken.png" in text]
    with pytest.raises(ImageError, match=r"broken\.png"):
        report_evaluation(fitted.detector, open_dataset(plate_folder), tmp_path / "r.html", model=model)
    assert not (tmp_path / "r.html").exists()


def test_only_an_earlier_page_is_replaced(plate_folder: Path, report, tmp_path: Path) -> None:
    check_can_replace_page(tmp_path / "report.html")
    report(plate_folder)
    check_can_replace_page(tmp_path / "report.html")
    (tmp_path / "report.html").write_text("<!doctype html><title>Mine</title>")
    with pytest.raises(InputError, match="is no page that softpatch wrote"):
        check_can_replace_page(tmp_path / "report.html")


def is_harmless(page: Page, names: Sequence[str]) -> bool:
    """Whether a page has only elements and attributes of its own, and shows all names."""
    scripts = [found for tag, found, _ in page.elements if tag == "script"]
    pictures = [found.get("src") or "" for tag, found, _ in page.elements if tag == "img"]
    handlers = [name for _, found, _ in page.elements for name in found if name.startswith("on")]
    text = "".join("".join(each) for _, _, each in page.elements)
    shown = [each if each.isprintable() else each.encode("unicode_escape").decode() for each in names]
    return (
        len(scripts) == 2
        and all(source.startswith("data:image/jpeg;base64,") for source in pictures)
        and not handlers
        and all(each in text for each in shown)
        and "\u202e" not in text
    )


def hostile_names() -> list[str]:
    """Those of the hostile names that a file system takes."""
    return [name for name in HOSTILE if os.name != "nt"]


def test_a_hostile_dataset_breaks_nothing(plate_folder: Path, report) -> None:
    kind = plate_folder / 'test/"><svg onload=alert(1)>'
    kind.mkdir()
    for number, name in enumerate(hostile_names()):
        Image.fromarray(plate(300 + number, defective=True)).save(kind / "plain.png")
        (kind / "plain.png").rename(kind / name)
    (kind / "<b>broken<b>.png").write_bytes(b"no picture")
    page = report(plate_folder)
    assert is_harmless(page, [*hostile_names(), kind.name, "<b>broken<b>.png"])


@pytest.fixture
def refs(tmp_path: Path) -> tuple[ImageRef, ...]:
    for number in range(8):
        path = tmp_path / f"images/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plate(number, defective=number < 4)).save(path)
    return choose_images(tmp_path / "images", "predict").refs


def test_a_run_is_reported_with_the_most_anomalous_first(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run_report", "outputs"):
        monkeypatch.setattr(f"softpatch.review.{module}.MOST_PICTURES", 5)
    monkeypatch.setattr(run_report, "MOST_ROWS", 2)
    answers = list(fitted.detector.predict(refs))
    left_out = [SkippedImage("broken.png", "cannot be read")]
    judged(answers, refs, tmp_path / "out", report=True, skipped=left_out)
    page = Page(tmp_path / "out/report.html")
    ranked = sorted(answers, key=lambda each: -each.image_score)
    assert [float(found["data-score"] or 0) for found, _ in page.find("article")] == [
        round(answer.image_score, 6) for answer in ranked[:5]
    ]
    assert all(ranked[number].path in text for number, (_, text) in enumerate(page.find("article")))
    rows = [text for found, text in page.find("tr") if "data-verdict" in found]
    assert len(rows) == 2
    assert all(answer.path in text for answer, text in zip(ranked[5:7], rows, strict=True))
    assert any("1 more, lower still" in text for _, text in page.find("p"))
    assert [text for _, text in page.find("td") if "cannot be read" in text]
    counts = {found["data-filter"]: text.split()[-1] for found, text in page.find("button")}
    for verdict in ("good", "check", "anomalous"):
        assert counts[verdict] == str(sum(answer.verdict == verdict for answer in answers))
    assert counts["all"] == "8"
    assert counts["unlike"] == str(sum(answer.is_unlike_training for answer in answers))


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("is_broken", [False, True])
def test_a_run_that_goes_on_has_the_same_report(
    fitted: SoftPatch,
    refs: Sequence[ImageRef],
    tmp_path: Path,
    count: int,
    is_broken: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("softpatch.review.outputs.MOST_PICTURES", 3)
    answers = list(fitted.detector.predict(refs))
    judged(answers, refs, tmp_path / "whole", report=True)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        judged(stopped_after(count, answers), refs, out, report=True)
    with pytest.raises(InputError, match="is with or without a report; give the same"):
        judged(answers, refs, out, earlier="resume")
    if is_broken:
        next((out / "unfinished/pictures").iterdir()).write_text("{}")
    judged(answers, refs, out, earlier="resume", report=True)
    assert set(contents(out)) == {"predictions.csv", "predictions.jsonl", "skipped.csv", "run.json", "report.html"}
    whole, resumed = ((folder / "report.html").read_text() for folder in (tmp_path / "whole", out))
    if is_broken:  # its image is listed without a picture
        assert len(Page(out / "report.html").find("article")) <= 3
        assert all(answer.path in resumed for answer in answers)
    else:
        assert re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?", "", resumed) == re.sub(
            r"\d{4}-\d\d-\d\d( \d\d:\d\d)?", "", whole
        )
    judged(answers, refs, out)
    assert not (out / "report.html").exists()


def test_a_hostile_folder_breaks_no_report_of_a_run(fitted: SoftPatch, tmp_path: Path) -> None:
    names = hostile_names()
    folder = tmp_path / "<i>a folder"
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(plate(number, defective=number < 3)).save(folder / "plain.png")
        (folder / "plain.png").rename(folder / name)
    refs = choose_images(folder, "predict").refs
    assert len(refs) == len(names)
    left_out = [SkippedImage("</td><script>alert(1)</script>", "<b>because</b>")]
    judged(list(fitted.detector.predict(refs)), refs, tmp_path / "out", report=True, skipped=left_out)
    page = Page(tmp_path / "out/report.html")
    assert is_harmless(page, [*names, left_out[0].name, left_out[0].reason])
    assert len(page.find("article")) == len(names)
