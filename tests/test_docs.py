"""README.md and docs/ say what the kept rows say; their commands run; every page is one click from the start."""

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softpatch import cli
from softpatch.data.demo import write_demo_dataset
from softpatch.review.demo import run_demo

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
HOW_TO = (
    "learn-from-a-folder",
    "clean-a-folder",
    "change-a-model",
    "when-images-change",
    "set-the-threshold",
    "read-the-pictures",
    "read-a-report",
    "when-it-misses",
    "from-anomalib",
    "coming-from-lookout-for-vision",
)
sys.path.insert(0, str(ROOT / "benchmarks"))

import make_docs  # noqa: E402


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return make_docs.parts()


@pytest.mark.parametrize("page", make_docs.PAGES, ids=lambda page: page.name)
def test_numbers_are_those_of_the_kept_rows(page: Path, made: dict[str, str]) -> None:
    text = page.read_text()
    assert "begin -->" in text
    assert text == make_docs.filled(text, made), "run `make docs`"


def test_everything_that_is_made_stands_somewhere(made: dict[str, str]) -> None:
    names = [name for page in make_docs.PAGES for name in re.findall(r"<!-- (\w+):begin -->", page.read_text())]
    assert sorted(names) == sorted(made)


def test_a_changed_number_is_noticed(made: dict[str, str]) -> None:
    text = (ROOT / "README.md").read_text()
    ratio = next(row["ratio"] for row in json.loads((make_docs.LAB / "performance.json").read_text())["rows"]
                 if "anomalib" in row["reference"])  # fmt: skip
    changed = text.replace(f"took {ratio:.0f} ", "took 191 ")
    assert changed != text
    assert make_docs.filled(changed, made) == text


def test_figures_of_the_demo_are_read_from_what_it_prints() -> None:
    lines = [
        "100 training images, of which nobody knows which are defective.",
        "  PatchCore   image AUROC 0.769  pixel AUROC 0.866  missed 18 of 24 defective  false alarms 1 of 20 good",
    ]
    expected = {"image_auroc": 0.769, "pixel_auroc": 0.866, "missed": 18, "anomalous_images": 24, "false_alarms": 1}
    assert make_docs.demo_figures(lines) == {"PatchCore": {**expected, "nominal_images": 20}}


@pytest.mark.parametrize("name", ["summary.md", "summary.csv", "paper.md"])
def test_tables_of_methods_are_those_of_the_kept_rows(name: str) -> None:
    assert (make_docs.LAB / "results" / name).read_text() == make_docs.method_tables()[name], "run `make docs`"


def test_every_page_is_one_click_from_the_start() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - {"index.md"}
    linked = set(re.findall(r"\]\(([^)#]+\.md)\)", (DOCS / "index.md").read_text()))
    assert pages == linked
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert pages | {"index.md"} == listed


def test_the_picture_of_the_readme_is_of_the_same_run_as_its_figures() -> None:
    kept = json.loads((make_docs.LAB / "demo.json").read_text())
    picture = (DOCS / "images/why-noise-matters.png").read_bytes()
    assert hashlib.sha256(picture).hexdigest() == kept["picture_sha256"], "run `make docs`"


@pytest.mark.skipif(not os.environ.get("SOFTPATCH_WHOLE_DEMO"), reason="takes a minute; SOFTPATCH_WHOLE_DEMO=1 runs it")
def test_the_demo_makes_the_picture_and_figures_of_the_readme(tmp_path: Path) -> None:
    found = make_docs.demo_figures(run_demo(tmp_path / "demo"))
    kept = json.loads((make_docs.LAB / "demo.json").read_text())["figures"]
    assert found.keys() == kept.keys()
    for method, figures in kept.items():
        assert found[method] == pytest.approx(figures, abs=0.002), method
    for source, name in make_docs.PICTURES.items():
        with Image.open(tmp_path / "demo" / source) as new, Image.open(DOCS / "images" / name) as old:
            assert new.size == old.size
            difference = np.abs(np.asarray(new.convert("RGB"), int) - np.asarray(old.convert("RGB"), int))
        assert difference.mean() < 1, name  # grey levels of 255


def write_manifests(labelled: Path, root: Path) -> None:
    """The images of the demo as a folder that was copied from S3, with a manifest for each part."""
    defective = [
        line.split(",")[0] for line in (labelled / "train_truth.csv").read_text().split() if line.endswith("1")
    ]
    for part in ("train", "test"):
        shutil.copytree(labelled / part, root / part)
        lines = []
        for path in sorted((root / part).rglob("*.png")):
            place = path.relative_to(root).as_posix()
            is_good = path.parent.name == "good" or (part == "train" and place not in defective)
            metadata = {"class-name": "normal" if is_good else "anomaly", "type": "groundtruth/image-classification"}
            name = f"s3://my-bucket/{root.name}/{place}"
            lines.append(json.dumps({"source-ref": name, "label": int(not is_good), "label-metadata": metadata}))
        (root / f"{part}.manifest").write_text("\n".join(lines))


def test_commands_of_the_how_to_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    counts = {"train_good": 7, "train_anomalous": 1, "test_good": 4, "test_anomalous": 4}
    labelled = write_demo_dataset(tmp_path / "labelled", **counts, size=128)
    shutil.copytree(labelled / "train", tmp_path / "photos")
    (tmp_path / "new").mkdir()
    for number, path in enumerate(sorted((labelled / "test").rglob("*.png"))):
        shutil.copyfile(path, tmp_path / "new" / f"{number:03d}.png")
    (tmp_path / "decisions.csv").write_text("path,decision\n0000.png,reject\n")
    write_manifests(labelled, tmp_path / "circuit-board")
    monkeypatch.chdir(tmp_path)
    ran = set()
    for name in HOW_TO:
        page = (DOCS / "how-to" / f"{name}.md").read_text()
        for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
            if language == "python":
                capsys.readouterr()
                exec(compile(block, name, "exec"), {})
                assert capsys.readouterr().out
            for line in block.splitlines() if language == "sh" else ():
                with pytest.raises(SystemExit) as leaving:
                    cli.main(shlex.split(line)[1:])
                assert leaving.value.code == 0, (line, capsys.readouterr().err)
                ran.add(line.split()[1])
    assert ran == {*"fit predict evaluate threshold audit report add remove refit".split()}  # noqa: SIM905
