"""`softpatch add`, `remove` and `refit`: what they say, what they write, and what they leave alone."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from conftest import plate
from softpatch import SoftPatch
from test_cli import run
from test_cli_help import quick


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 12 good plates, and `new`, 3 more and a defective one."""
    root = tmp_path_factory.mktemp("product")
    for folder, seeds in (("photos", range(12)), ("new", range(12, 15))):
        (root / folder).mkdir()
        for seed in seeds:
            Image.fromarray(plate(seed)).save(root / folder / f"{seed:03d}.png")
    Image.fromarray(plate(100, defective=True)).save(root / "new/100.png")
    settings = {"backbone": "resnet18", "weights": "random", "resize": 64, "crop": 64, "device": "cpu"}
    SoftPatch(preset="softpatch", **settings).fit(root / "photos").save(root / "model.safetensors")
    return root


@pytest.fixture
def product(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder of its own, which is the current one; the recorded files are the original ones."""
    shutil.copytree(original, tmp_path / "product")
    monkeypatch.chdir(tmp_path / "product")
    return tmp_path / "product"


def test_add_says_what_changed(product: Path, capsys) -> None:
    before = SoftPatch.load("model.safetensors").detector
    code, out, err = run(capsys, "add", "model.safetensors", "new", "--device", "cpu")
    after = SoftPatch.load("model.safetensors").detector
    assert code == 0
    assert err == "Note: 1 of the 4 added images look anomalous and are not trusted, new/100.png for one.\n"
    patches = [len(each.banks.classification.patches) for each in (before, after)]
    assert out == (
        f"model.safetensors: images 12 -> 16, patches {patches[0]} -> {patches[1]}, "
        f"threshold {before.threshold:.4g} -> {after.threshold:.4g}\n"
    )
    assert sorted(path.name for path in product.iterdir()) == ["model.safetensors", "new", "photos"]
    code, out, err = run(capsys, "add", "model.safetensors", "new/012.png", "--device", "cpu")
    assert (code, "images 16 as before, patches" in out) == (0, True)
    assert "1 image left out:\n  new/012.png: the same image as " in err


def test_add_leaves_the_model_where_another_is_to_be_written(product: Path, capsys) -> None:
    before = Path("model.safetensors").read_bytes()
    code, out, err = run(capsys, "add", "model.safetensors", "new", "--known-good", "-o", "more", "--device", "cpu")
    assert (code, err, out.startswith("more: images 12 -> 16")) == (0, "", True)
    assert Path("model.safetensors").read_bytes() == before
    assert SoftPatch.load("more").detector.training_images == 16


def test_remove_takes_a_list_and_a_pattern(product: Path, capsys) -> None:
    Path("list.txt").write_text("000.png\nphotos/001.png\n")
    code, out, err = run(capsys, "remove", "model.safetensors", "@list.txt", "01*.png", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "images 12 -> 8" in out
    record = SoftPatch.load("model.safetensors").detector.record
    assert record.names == tuple(f"{number:03d}.png" for number in range(2, 10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["remove", "model.safetensors", "nothing.png"], "'nothing.png' is none of the 12 images below "),
        (["remove", "model.safetensors", "*"], "without 12 of its 12 images the model would have learned from 0"),
        (["remove", "model.safetensors", "*.png", "-o", "photos/000.png"], "exists and is not a softpatch model"),
        (["remove", "photos/000.png", "*.png"], "photos/000.png is cut short or not a model file"),
        (["add", "model.safetensors", "nothing.png"], "nothing.png does not exist"),
        (["add", "model.safetensors", "new/*.jpg"], "no file matches 'new/*.jpg'"),
        (["add", "nothing", "new"], "nothing does not exist; give a model file"),
        (
            ["refit", "model.safetensors", "--root", "new"],
            "12 of 12 images that were learned from are missing, new/000",
        ),
        (["refit", "model.safetensors", "--root", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_goes_wrong_changes_nothing(product: Path, arguments: list[str], message: str, capsys) -> None:
    before = {path: path.read_bytes() for path in product.rglob("*") if path.is_file()}
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert {path: path.read_bytes() for path in product.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "nowhere.safetensors", "."],
        ["add", __file__, "nowhere"],
        ["add", __file__, ".", "-o", __file__],
        ["remove", "nowhere.safetensors", "a.png"],
        ["refit", __file__, "--root", "nowhere"],
        ["refit", "nowhere.safetensors"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_told_before_anything_slow_is_imported(arguments: list[str]) -> None:
    assert quick(arguments).returncode == 2


def test_refit_learns_the_same_again(product: Path, capsys) -> None:
    before = Path("model.safetensors").read_bytes()
    code, out, err = run(capsys, "refit", "model.safetensors", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "images 12 as before, patches" in out
    assert Path("model.safetensors").read_bytes() == before


def test_refit_finds_moved_files_and_tells_of_changes(product: Path, capsys) -> None:
    Image.fromarray(plate(55)).save("photos/003.png")
    Path("photos/004.png").unlink()
    shutil.move("photos", "moved")
    code, _, err = run(capsys, "refit", "model.safetensors", "--root", "moved")
    assert (code, err.count("\n")) == (2, 1)
    assert "1 of 12 images that were learned from are missing, moved/004.png for one; give the folder" in err
    assert "as --root, or skip them with --skip-missing. See softpatch refit --help." in err
    options = ["--root", "moved", "--skip-missing", "--device", "cpu"]
    code, out, err = run(capsys, "refit", "model.safetensors", *options)
    assert (code, "images 12 -> 11" in out) == (0, True)
    assert err == "Note: 1 of 11 files show something else than when they were learned from.\n"
    assert SoftPatch.load("model.safetensors").detector.record.folder == str(product / "moved")


def test_a_model_of_images_in_memory_cannot_be_refitted(fitted: SoftPatch, tmp_path: Path, capsys) -> None:
    fitted.save(tmp_path / "model")
    code, out, err = run(capsys, "refit", tmp_path / "model")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "images that were in memory, image 0 for one, so it cannot be fitted anew" in err


def test_a_threshold_that_was_set_is_told_of(product: Path, capsys) -> None:
    run(capsys, "threshold", "model.safetensors", "--set", "3")
    code, out, err = run(capsys, "add", "model.safetensors", "new/012.png", "new/013.png", "--device", "cpu")
    assert (code, "threshold 3 as before" in out) == (0, True)
    assert err.startswith("Note: the threshold was set, so it stays")


def test_info_says_how_many_names_are_kept(original: Path, capsys) -> None:
    _, out, _ = run(capsys, "info", original / "model.safetensors")
    assert f"names of images  kept, 12, below {original / 'photos'}" in out
    record = json.loads(run(capsys, "info", original / "model.safetensors", "--json")[1])
    assert (record["recorded_images"], record["folder"]) == (12, str(original / "photos"))


def test_in_python_all_three_follow_each_other(product: Path) -> None:
    estimator = SoftPatch.load("model.safetensors", device="cpu")
    assert estimator.add("new").remove(["100.png", Path("new/014.png")]).detector.training_images == 14
    assert estimator.refit().detector.training_images == 14
    assert estimator.remove("012.png").detector.training_images == 13
