"""A run of predict is whole or unfinished, goes on where it was stopped, and takes the place of an earlier one."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softpatch.config import Verdict
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.data.inputs import choose_images
from softpatch.errors import ImageError, InputError
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction
from softpatch.review.outputs import write_outputs
from softpatch.review.region_tables import region_lines
from softpatch.review.run import RECORD, UNFINISHED, Earlier, Run, running


def judged(
    predictions: Iterable[Prediction],
    refs: Sequence[ImageRef],
    folder: Path,
    *,
    earlier: Earlier = "refuse",
    skipped: list[SkippedImage] | None = None,
    **options: object,
) -> tuple[Counter[Verdict], int]:
    """Write predictions of `refs`, of which those with a row already are passed over."""
    run = Run.of(refs, **options)  # type: ignore[arg-type]
    with running(folder, run, refs, earlier) as unfinished:
        names = {ref.name for ref in unfinished.remaining(refs)}
        return write_outputs(
            (each for each in predictions if each.path in names), refs, run, unfinished, skipped=skipped
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refs(good_images: np.ndarray, defective_images: np.ndarray, tmp_path: Path) -> tuple[ImageRef, ...]:
    for number, image in enumerate([*defective_images, *good_images[:4]]):
        path = tmp_path / f"images/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return choose_images(tmp_path / "images", "predict").refs


def stopped_after(count: int, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    for number, prediction in enumerate(predictions):
        if number == count:
            raise KeyboardInterrupt
        yield prediction


ALL = {"maps": True, "overlays": "side-by-side", "min_area": 2}


@pytest.mark.parametrize("count", [1, 5, 7])
def test_a_stopped_run_goes_on_and_ends_as_if_it_was_not(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, count: int
) -> None:
    answers = list(fitted.detector.predict(refs))
    judged(answers, refs, tmp_path / "whole", **ALL)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        judged(stopped_after(count, answers), refs, out, **ALL)
    assert [path.name for path in out.iterdir()] == [UNFINISHED]
    table, regions = out / UNFINISHED / "predictions.jsonl", out / UNFINISHED / "regions.jsonl"
    assert len(table.read_text().splitlines()) == count
    with regions.open("a") as file:  # of an image whose row is missing
        file.write(region_lines(answers[count], 2))
    for path in (table, regions):
        with path.open("a") as file:
            file.write('{"path": "cut sho')
    with pytest.raises(InputError, match="continue it with `resume`, or remove that folder"):
        judged(answers, refs, out, **ALL)
    assert judged(answers, refs, out, earlier="resume", **ALL)[0].total() == 8
    assert contents(out) == contents(tmp_path / "whole")
    with pytest.raises(InputError, match="nothing to continue"):
        judged(answers, refs, out, earlier="resume", **ALL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("where", ["judging", "moving"])
def test_a_killed_run_goes_on(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = list(fitted.detector.predict(refs))
    judged(answers, refs, tmp_path / "whole", **ALL)
    out = tmp_path / "out"
    judged(answers[:3], refs[:3], out, maps=True)  # an earlier run
    before = contents(out)

    def kill_at(number: int) -> None:
        if number == 4:
            os._exit(9)

    def killing() -> Iterator[Prediction]:
        for number, answer in enumerate(answers):
            kill_at(number)
            yield answer

    def replace(path: Path, target: Path) -> Path:
        if path.suffix == ".tiff" and UNFINISHED in path.parts and UNFINISHED not in Path(target).parts:
            kill_at(next(moves))
        return really_replace(path, target)

    child = os.fork()
    if child == 0:
        really_replace, moves = Path.replace, iter(range(100))
        if where == "moving":
            monkeypatch.setattr(Path, "replace", replace)
        judged(killing() if where == "judging" else answers, refs, out, **ALL)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    if where == "judging":
        assert {name: content for name, content in contents(out).items() if UNFINISHED not in name} == before
    judged(answers, refs, out, earlier="resume" if where == "judging" else "refuse", **ALL)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_run_takes_the_place_of_an_earlier_one_whole(fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path) -> None:
    answers = list(fitted.detector.predict(refs))
    out = tmp_path / "out"
    judged(answers, refs, out, **ALL)
    (out / "maps/mine.txt").write_text("of the user")
    judged(answers[:1], refs[:1], out, overlays="plain")
    assert set(contents(out)) == {
        *("predictions.csv", "predictions.jsonl", "skipped.csv", RECORD, "maps/mine.txt"),
        f"overlays/{Path(answers[0].path).name}.png",
    }


def test_results_of_unknown_files_are_not_mixed_with(fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path) -> None:
    answers = list(fitted.detector.predict(refs))
    out = tmp_path / "out"
    judged(answers, refs, out, maps=True)
    (out / RECORD).unlink()
    before = contents(out)
    with pytest.raises(InputError, match=r"holds maps of an earlier run and no run\.json"):
        judged(answers, refs, out, maps=True)
    assert contents(out) == before


def test_a_record_leads_to_no_file_elsewhere(fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path) -> None:
    answers = list(fitted.detector.predict(refs))
    out = tmp_path / "out"
    judged(answers, refs, out, maps=True)
    victim = tmp_path / "victim.tiff"
    victim.write_text("keep me")
    record = json.loads((out / RECORD).read_text())
    (out / RECORD).write_text(json.dumps({**record, "root": "/a/b/c"}))
    (out / "predictions.jsonl").write_text(json.dumps({"path": "/a/victim"}) + "\n")
    judged(answers, refs, out)
    assert victim.read_text() == "keep me"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 3.0}, "at another threshold"),
        ({"maps": False}, "with other maps or overlays"),
        ({"overlays": "plain"}, "with other maps or overlays"),
        ({"model": "model"}, "of another model"),
        ({"min_area": None}, "with other regions"),
        ({"min_area": 3}, "with other regions"),
    ],
)
def test_only_the_same_run_is_continued(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    answers = list(fitted.detector.predict(refs))
    out = tmp_path / "out"
    (tmp_path / "model").write_bytes(b"another")
    if "model" in changes:
        changes = {"model": tmp_path / "model"}
    with pytest.raises(KeyboardInterrupt):
        judged(stopped_after(2, answers), refs, out, **ALL)
    with pytest.raises(InputError, match=message):
        judged(answers, refs, out, earlier="resume", **{**ALL, **changes})
    with pytest.raises(InputError, match="of other images"):
        judged(answers, refs[:5], out, earlier="resume", **ALL)
    assert len((out / UNFINISHED / "predictions.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("row", ['{"path": "a.png"}', '{"path": "elsewhere", "verdict": 3}'])
def test_rows_that_are_none_of_this_run_are_refused(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, row: str
) -> None:
    answers = list(fitted.detector.predict(refs))
    with pytest.raises(KeyboardInterrupt):
        judged(stopped_after(2, answers), refs, tmp_path / "out")
    (tmp_path / "out" / UNFINISHED / "predictions.jsonl").write_text(row + "\n")
    with pytest.raises(InputError, match="cannot have written; remove that folder to begin anew"):
        judged(answers, refs, tmp_path / "out", earlier="resume")


@pytest.mark.parametrize(
    "change", [{"image_score": math.nan}, {"threshold": None}, {"margin": "1"}, {"verdict": "bad"}]
)
def test_rows_that_were_tampered_with_are_refused(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, change: dict[str, object]
) -> None:
    answers = list(fitted.detector.predict(refs))
    with pytest.raises(KeyboardInterrupt):
        judged(stopped_after(2, answers), refs, tmp_path / "out", report=True)
    row = json.dumps({**answers[0].as_dict(), **change})
    (tmp_path / "out" / UNFINISHED / "predictions.jsonl").write_text(row + "\n")
    with pytest.raises(InputError, match="cannot have written; remove that folder to begin anew"):
        judged(answers, refs, tmp_path / "out", earlier="resume", report=True)


def test_a_picture_that_cannot_be_written_costs_its_row(fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path) -> None:
    answers = list(fitted.detector.predict(refs))
    out = tmp_path / "out"

    def in_the_way() -> Iterator[Prediction]:
        yield answers[0]
        name = Path(answers[1].path)
        (out / UNFINISHED / "overlays" / name.parent.name / f"{name.name}.png").mkdir(parents=True)
        yield from answers[1:]

    skipped: list[SkippedImage] = []
    judged(in_the_way(), refs, out, skipped=skipped, **ALL)
    assert [each.name for each in skipped] == [answers[1].path]
    assert "cannot write" in skipped[0].reason
    assert answers[1].path in (out / "skipped.csv").read_text()
    rows = [json.loads(line)["path"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert rows == [each.path for each in answers if each is not answers[1]]
    assert len(list((out / "maps").rglob("*.tiff"))) == len(list((out / "overlays").rglob("*.png"))) == 7


def test_a_full_disk_ends_a_run_that_can_go_on(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = list(fitted.detector.predict(refs))
    judged(answers, refs, tmp_path / "whole", maps=True)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def filling() -> Iterator[Prediction]:
        yield from answers[:3]
        monkeypatch.setattr("tifffile.imwrite", no_space)
        yield from answers[3:]

    with pytest.raises(InputError, match="No space left on device"):
        judged(filling(), refs, tmp_path / "out", skipped=[], maps=True)
    monkeypatch.undo()
    judged(answers, refs, tmp_path / "out", earlier="resume", maps=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_was_left_out_is_tried_again_and_comes_in_order(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path
) -> None:
    answers = list(fitted.detector.predict(refs))
    judged(answers, refs, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        judged(stopped_after(4, answers[1:]), refs, tmp_path / "out")
    judged(answers, refs, tmp_path / "out", earlier="resume")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_overlays_are_not_drawn_on_images_that_were_replaced(
    fitted: SoftPatch, refs: Sequence[ImageRef], tmp_path: Path
) -> None:
    def replaced() -> Iterator[Prediction]:
        for prediction in fitted.detector.predict(refs):
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(prediction.path)
            yield prediction

    with pytest.raises(ImageError, match="was changed while it was judged"):
        judged(replaced(), refs, tmp_path / "out", **ALL)
    assert list((tmp_path / "out").iterdir()) == []
