"""`softpatch info` and `softpatch threshold --labelled`: what they say, what they write, what they leave alone."""

import json
import re
import shutil
import struct
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from softpatch import SoftPatch
from softpatch.data.layouts import open_dataset
from softpatch.errors import ModelFileError, WeightsError
from softpatch.review.evaluation import image_scores
from softpatch.review.model_info import model_info
from softpatch.stored_model import contents_digest
from test_cli import run
from test_cli_help import quick


@pytest.fixture
def model(fitted: SoftPatch, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    return path


def sign(path: Path, change: dict[str, object], drop: str = "nothing") -> None:
    """Write other values into a model file's header, with a digest that is right."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(json.loads(file.read(size))["__metadata__"]["softpatch"])
    tensors = {name: each for name, each in load_file(path).items() if not name.startswith(drop)}
    header = {**{key: value for key, value in header.items() if key != "digest"}, **change}
    header["digest"] = contents_digest(header, {name: each.numpy() for name, each in tensors.items()})
    save_file(tensors, path, metadata={"softpatch": json.dumps(header, sort_keys=True)})


def test_info_says_what_a_model_is(model: Path, fitted: SoftPatch, capsys) -> None:
    code, out, err = run(capsys, "info", model)
    detector = fitted.detector
    assert (code, err) == (0, "")
    assert "13 images" in out
    assert f"image score {detector.threshold:.4g}, to check above {detector.check_threshold:.4g}" in out
    assert str(detector.contamination) in out
    assert f"resnet18, layers layer2, layer3, weights of SHA-256 {detector.backbone.digest}" in out
    patches, dim = detector.banks.classification.patches.shape
    assert f"{patches:,} patches of {dim} numbers" in out
    assert "agreement, with resize 64, crop 64, backbone resnet18, weights random" in out
    assert "kept, of 13 images" in out
    assert "names of images  kept, 13, some of images that were in memory" in out
    assert sha256(model.read_bytes()).hexdigest() in out
    assert "_" not in out.split("\n", 1)[1]  # no names of fields


def test_info_in_json(model: Path, fitted: SoftPatch, capsys) -> None:
    code, out, _ = run(capsys, "info", model, "--json")
    record = json.loads(out)
    assert code == 0
    assert record["settings"]["discriminators"] == ["gaussian", "lof"]
    assert (record["preset"], record["changed"]["resize"]) == ("agreement", 64)
    assert (record["training_images"], record["left_out_images"]) == (13, 13)
    assert record["threshold"] == fitted.threshold
    assert record["bytes"] == model.stat().st_size
    assert record["contamination"].keys() == {"estimate", "low", "high"}
    assert len(record["banks"]) == 1


def test_info_needs_no_torch(model: Path) -> None:
    ended = quick(["info", str(model), "--json"])
    assert (ended.returncode, json.loads(ended.stdout)["training_images"]) == (0, 13)


def test_info_needs_no_weights(model: Path, capsys) -> None:
    settings = model_info(model)["settings"]
    sign(model, {"settings": {**settings, "weights": "/nowhere/weights.safetensors"}})
    with pytest.raises(WeightsError):
        SoftPatch.load(model)
    code, out, _ = run(capsys, "info", model)
    assert (code, "weights /nowhere/weights.safetensors" in out) == (0, True)


def test_info_of_an_older_model_of_another_preset(model: Path, capsys) -> None:
    sign(model, {"contamination": None, "record": None, "package_version": "0.0.9"}, drop="left_out.")
    _, out, _ = run(capsys, "info", model)
    assert "contamination  not estimated" in out
    assert "left-out scores  not kept" in out
    assert "names of images  not kept; the model cannot be changed" in out
    assert "softpatch 0.0.9, format version 1" in out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x77"),
        lambda path: save_file({"a": torch.zeros(3)}, path),
        lambda path: save_file({"a": torch.zeros(3, dtype=torch.bfloat16)}, path, metadata={"softpatch": "{}"}),
        lambda path: sign(path, {"format_version": 9}),
        lambda path: sign(path, {"threshold": -1}),
        lambda path: sign(path, {"settings": {"colour": 1}}),
        lambda path: sign(path, {}, drop="classification.owners"),
    ],
)
def test_info_refuses_a_file_as_loading_it_does(model: Path, spoil, capsys) -> None:
    spoil(model)
    with pytest.raises(ModelFileError) as refused:
        SoftPatch.load(model)
    code, out, err = run(capsys, "info", model)
    assert (code, out) == (2, "")
    assert err == f"softpatch: error: {' '.join(str(refused.value).split())}\n"


def test_a_tensor_of_another_kind_is_no_model(model: Path, capsys) -> None:
    header = {"format_version": 1, "digest": ""}
    save_file({"a": torch.zeros(3, dtype=torch.bfloat16)}, model, metadata={"softpatch": json.dumps(header)})
    code, _, err = run(capsys, "info", model)
    assert code == 2
    assert re.search("cut short or not a model file|was altered", err)  # by whether ml_dtypes has NumPy know bfloat16


@pytest.mark.parametrize(
    ("limit", "shown"),
    [
        ([], "false alarms 0.0%, between 0.0% and 60.2%"),
        (["--max-missed", "0.25"], "missed 25.0%, between 0.6% and 80.6%"),
        (["--max-false-alarms", "0.5"], "false alarms 50.0%, between 6.8% and 93.2%"),
    ],
)
def test_a_threshold_from_labelled_images(
    model: Path, plate_folder: Path, limit: list[str], shown: str, capsys
) -> None:
    before = SoftPatch.load(model)
    labels, scores = image_scores(before.detector, open_dataset(plate_folder).test)
    code, out, err = run(capsys, "threshold", model, "--labelled", plate_folder, *limit)
    assert (code, err) == (0, "")
    assert shown in out
    after = SoftPatch.load(model)
    assert f"threshold {after.threshold:.4g}" in out
    wrong = (scores > after.threshold) != labels
    assert wrong.sum() == {0: 0, "0.25": 1, "0.5": 2}[limit[1] if limit else 0]
    assert after.detector.map_threshold / before.detector.map_threshold == pytest.approx(
        after.threshold / before.threshold
    )


def test_sorted_folders_are_labelled_images_too(model: Path, plate_folder: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(plate_folder / "train/good", tmp_path / "sorted/good")
    shutil.copytree(plate_folder / "test/blot", tmp_path / "sorted/blot")
    code, out, err = run(capsys, "threshold", model, "--labelled", tmp_path / "sorted")
    assert (code, err) == (
        0,
        "Note: of the good images every fifth is taken, since fit may have learned from the others.\n",
    )
    assert out.splitlines()[3].split()[:3] == ["good", "2", "0"]
    assert out.splitlines()[4].split()[:3] == ["defective", "0", "4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-missed", "0.1"], "--max-missed goes with --labelled"),
        (["--category", "a"], "--category goes with --labelled"),
        (["--strict", "--set", "3"], "--strict goes with --labelled"),
        (["--layout", "visa"], "--layout goes with --labelled"),
        (["--labelled", "{folder}", "--set", "3"], "--set and --labelled were given; choose one of them"),
        (["--labelled", "{folder}", "--max-missed", "2"], "--max-missed is 2.0; it is a share"),
        (["--labelled", "{folder}", "--max-missed", "0", "--max-false-alarms", "0"], "choose one of them"),
        (["--labelled", "{folder}/test/good"], "there are no labelled images"),
        (["--labelled", "{folder}", "--layout", "visa"], "'visa' needs a category"),
        (["--labelled", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_goes_wrong_changes_nothing(
    model: Path, plate_folder: Path, options: list[str], message: str, capsys
) -> None:
    before = model.read_bytes()
    code, out, err = run(capsys, "threshold", model, *(option.format(folder=plate_folder) for option in options))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert model.read_bytes() == before


def test_images_that_cannot_be_read_are_left_out_and_listed(model: Path, plate_folder: Path, capsys) -> None:
    for path in sorted((plate_folder / "test/blot").iterdir())[:2]:
        path.write_bytes(b"")
    code, out, err = run(capsys, "threshold", model, "--labelled", plate_folder)
    assert (code, err.count("the file is empty")) == (0, 2)
    assert out.splitlines()[4].split()[:3] == ["defective", "0", "2"]
    assert run(capsys, "threshold", model, "--labelled", plate_folder, "--strict")[0] == 2
    for path in (plate_folder / "test/blot").iterdir():
        path.write_bytes(b"")
    code, _, err = run(capsys, "threshold", model, "--labelled", plate_folder)
    assert (code, err.count("the file is empty")) == (2, 4)


def test_good_images_alone_are_not_enough(model: Path, plate_folder: Path, capsys) -> None:
    shutil.rmtree(plate_folder / "test/blot")
    code, _, err = run(capsys, "threshold", model, "--labelled", plate_folder)
    assert (code, "4 good and 0 defective images cannot tell a threshold" in err) == (2, True)
