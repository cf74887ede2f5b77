"""Audits of small folders whose truth is known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch import SoftPatch
from softpatch.data.images import SkippedImage, file_ref
from softpatch.errors import InputError
from softpatch.review.audit import FolderAudit, audit_folder
from softpatch.review.audit_tables import COLUMNS, write_audit_tables
from test_cli import run

GOOD, BAD = 24, 4
TINY = ["--resize", "64", "--crop", "64", "--device", "cpu", "--symmetries", "none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plates, some with a blot; two with the same cut at the same place, and one saved twice."""
    root = tmp_path_factory.mktemp("photographs")
    for seed in range(GOOD):
        Image.fromarray(plate(seed)).save(root / f"good{seed:02d}.png")
    for seed in range(BAD):
        Image.fromarray(plate(100 + seed, defective=True)).save(root / f"bad{seed}.png")
    for seed in (300, 301):
        cut = plate(seed)
        cut[30:34, 10:40] = (200, 30, 30)
        Image.fromarray(cut).save(root / f"cut{seed}.png")
    Image.fromarray(plate(0)).save(root / "good00 again.png")
    return root


@pytest.fixture(scope="module")
def fitted_on_folder(folder: Path) -> SoftPatch:
    return tiny_softpatch(backbone="builtin-v1", weights="pretrained", symmetries="none").fit(folder)


@pytest.fixture(scope="module")
def audit(folder: Path, fitted_on_folder: SoftPatch) -> FolderAudit:
    refs = [file_ref(path) for path in sorted(folder.iterdir())]
    return audit_folder(fitted_on_folder.detector, refs, on_skip=lambda _: None)


def names(audit: FolderAudit, numbers: tuple[int, ...]) -> list[str]:
    return sorted(Path(audit.images[number].path).name for number in numbers)


def test_what_is_defective_comes_first(audit: FolderAudit) -> None:
    first = names(audit, tuple(range(BAD + 2)))
    assert not any(name.startswith("good") for name in first)
    assert len(audit.images) == GOOD + BAD + 2  # without the copy
    suspicion = [image.suspicion for image in audit.images]
    assert suspicion == sorted(suspicion, reverse=True)
    assert suspicion[0] > 0.9
    assert audit.belief.low <= (BAD + 2) / len(audit.images) <= audit.belief.high


def test_regions_lie_on_the_defect_and_have_a_counterpart(audit: FolderAudit) -> None:
    for image in audit.images[: BAD + 2]:
        region = image.regions[0]
        pixels = np.asarray(Image.open(image.path)).astype(int)
        spread = pixels.max(axis=2) - pixels.min(axis=2) > 60  # plates are grey, defects are not
        left, top, right, bottom = region.box
        assert spread[top:bottom, left:right].any()
        assert region.counterpart is not None
        assert Path(region.counterpart.path).name.startswith("good")
        assert region.agreeing <= 1
        x, y, to_x, to_y = region.counterpart.box
        assert 0 <= x < to_x <= 64
        assert 0 <= y < to_y <= 64


def test_groups_are_found(audit: FolderAudit) -> None:
    repeated = [names(audit, group.images) for group in audit.groups if group.kind == "repeated defect"]
    assert ["cut300.png", "cut301.png"] in repeated
    (group,) = [group for group in audit.groups if names(audit, group.images) == ["cut300.png", "cut301.png"]]
    assert group.evidence == "2 images show the same at the same place, and hardly any other image does"
    copies = [group for group in audit.groups if group.kind == "copies"]
    assert [names(audit, group.images) for group in copies] == [["good00 again.png"]]
    assert "good00.png" in copies[0].evidence


def test_training_images_are_judged_without_themselves(folder: Path, fitted_on_folder: SoftPatch) -> None:
    refs = [file_ref(folder / "bad0.png"), file_ref(folder / "good01.png"), file_ref(folder / "good02.png")]
    found = audit_folder(fitted_on_folder.detector, refs)
    by_name = {Path(image.path).name: image.prediction.image_score for image in found.images}
    assert by_name["bad0.png"] > fitted_on_folder.threshold
    seen = {Path(each.path).name: each.image_score for each in fitted_on_folder.predict([ref.path for ref in refs])}
    assert by_name["good01.png"] >= seen["good01.png"]


def test_decisions_are_believed(folder: Path, fitted_on_folder: SoftPatch, audit: FolderAudit) -> None:
    refs = [file_ref(path) for path in sorted(folder.iterdir())]
    worst, next_worst = (image.path for image in audit.images[:2])
    decisions = {worst: "keep", next_worst: "reject"}
    again = audit_folder(fitted_on_folder.detector, refs, decisions=decisions, on_skip=print)
    suspicion = {image.path: image.suspicion for image in again.images}
    assert suspicion[worst] == pytest.approx(0)
    assert suspicion[next_worst] == pytest.approx(1)
    assert again.decisions[worst] == "keep"


def test_few_images_are_refused(folder: Path, fitted_on_folder: SoftPatch) -> None:
    with pytest.raises(InputError, match="2 usable images are too few to audit"):
        audit_folder(fitted_on_folder.detector, [file_ref(folder / f"good0{n}.png") for n in (1, 2)])


def test_what_cannot_be_read_is_left_out(folder: Path, fitted_on_folder: SoftPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    skipped: list[SkippedImage] = []
    refs = [file_ref(broken), *(file_ref(folder / f"good0{n}.png") for n in range(1, 5))]
    found = audit_folder(fitted_on_folder.detector, refs, on_skip=skipped.append)
    assert [image.name for image in skipped] == [str(broken)]
    assert len(found.images) == 4


def test_tables_hold_every_image(audit: FolderAudit, tmp_path: Path) -> None:
    write_audit_tables(audit, tmp_path)
    with (tmp_path / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == [line["path"] for line in lines] == [image.path for image in audit.images]
    assert float(rows[0]["suspicion"]) == lines[0]["suspicion"] == round(audit.images[0].suspicion, 4)
    box = [int(rows[0][name]) for name in ("box_left", "box_top", "box_right", "box_bottom")]
    assert box == lines[0]["regions"][0]["box"]
    cut = next(line for line in lines if line["path"].endswith("cut300.png"))
    assert ("repeated defect", 2) in [(group["kind"], group["images"]) for group in cut["groups"]]


def test_audit_answer_fit(capsys, folder: Path, fitted_on_folder: SoftPatch, tmp_path: Path) -> None:
    """The loop: look, answer, learn again; what was rejected is known to be bad from then on."""
    model, out = tmp_path / "model.safetensors", tmp_path / "audit"
    fitted_on_folder.save(model)
    code, said, notes = run(capsys, "audit", folder, "--model", model, "-o", out, "--fiftyone")
    assert code == 0
    assert f"{out / 'index.html'}: 30 images; " in said
    assert "Repeated defect: 2 images show the same" in notes
    assert {"index.html", "audit.csv", "audit.jsonl", "suspects.json", "crops", "fiftyone"} <= {
        path.name for path in out.iterdir()
    }
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"path,decision\n{folder / 'bad0.png'},reject\n{folder / 'good03.png'},keep\n")
    code, said, notes = run(capsys, "fit", folder, "--decisions", decisions, "-o", model, *TINY)
    assert code == 0
    assert "Decisions: 1 images rejected, 1 kept." in notes
    assert "learned from 29 images" in said
    learned = SoftPatch.load(model).detector
    assert learned.record is not None
    assert "bad0.png" not in learned.record.names
    assert learned.record.rejected == ("bad0.png",)
    assert [learned.record.names[number] for number in learned.record.kept] == ["good03.png"]
    code, said, _ = run(capsys, "audit", folder, "--model", model, "--decisions", decisions, "-o", out)
    assert code == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path,decision\nother.png,reject\n", "other.png"),
        ("path,decision\ngood01.png,maybe\n", "maybe"),
        ("name\ngood01.png\n", "decision"),
    ],
)
def test_decisions_that_do_not_fit(capsys, folder: Path, tmp_path: Path, rows: str, message: str) -> None:
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(rows)
    for command in (("fit", folder, "-o", tmp_path / "m"), ("audit", folder, "-o", tmp_path / "a")):
        code, _, said = run(capsys, *command, "--decisions", decisions)
        assert code == 2
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["audit.csv", "index.html", "suspects.json"])
def test_an_audit_does_not_replace_another_file(capsys, folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("my own")
    code, _, said = run(capsys, "audit", folder, "-o", tmp_path)
    assert code == 2
    assert f"{tmp_path / name} exists and is no" in said
    assert (tmp_path / name).read_text() == "my own"
