"""The commands as a user runs them: outputs, exit codes, one line for an error."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from softpatch import SoftPatch, cli

TINY = ["--backbone", "resnet18", "--weights", "random", "--resize", "64", "--crop", "64", "--device", "cpu"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


@pytest.fixture
def model(capsys: pytest.CaptureFixture[str], plate_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    code, out, _ = run(capsys, "fit", plate_folder, "-o", path, *TINY)
    assert code == 0
    assert "learned from 13 images" in out
    return path


def test_predict_writes_tables_maps_and_overlays(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    code, out, err = run(capsys, "predict", model, plate_folder / "test", "-o", results, "--maps", "--overlays")
    assert (code, err) == (0, "")
    assert "8 images" in out
    with (results / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (results / "predictions.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines] == sorted(row["path"] for row in rows)
    assert list(lines[0]) == [
        "path",
        "image_score",
        "threshold",
        "check_threshold",
        "margin",
        "is_anomalous",
        "verdict",
        "peak_x",
        "peak_y",
        "box_left",
        "box_top",
        "box_right",
        "box_bottom",
        "map_threshold",
        "width",
        "height",
        "is_unlike_training",
        "map_quartile",
    ]
    for row, line in zip(rows, lines, strict=True):
        assert (row["is_anomalous"] == "true") == line["is_anomalous"] == (line["image_score"] > line["threshold"])
        assert 0 <= line["peak_x"] < 64
        assert line["is_anomalous"] == (line["margin"] > 1) == (line["box_left"] is not None) == (row["box_left"] != "")
    assert all(line["is_anomalous"] for line in lines if "blot" in line["path"])
    anomaly_map = tifffile.imread(results / "maps/blot/100.png.tiff")
    assert (anomaly_map.shape, anomaly_map.dtype) == ((64, 64), np.float32)
    with Image.open(results / "overlays/good/050.png.png") as overlay:
        assert overlay.mode == "RGB"
        assert overlay.width > 2 * 64
    run(capsys, "predict", model, plate_folder / "test", "-o", results, "--overlays", "plain")
    with Image.open(results / "overlays/good/050.png.png") as overlay:
        assert overlay.size == (64, 64)
    assert not (results / "maps").exists()


def test_predict_lists_regions(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", out, "--regions", "--min-area", "4")
    assert (code, err) == (0, "")
    regions = [json.loads(line) for line in (out / "regions.jsonl").read_text().splitlines()]
    coco = json.loads((out / "regions.json").read_text())
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {region["path"] for region in regions} == {row["path"] for row in rows if row["is_anomalous"]}
    assert all(region["area"] >= 4 for region in regions)
    assert [image["file_name"] for image in coco["images"]][:2] == ["blot/100.png", "blot/101.png"]
    assert [note["area"] for note in coco["annotations"]] == [region["area"] for region in regions]
    run(capsys, "predict", model, plate_folder / "test", "-o", out)
    assert not list(out.glob("regions.*"))


def test_regions_left_out_must_be_asked_for(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r", "--min-area", "4")
    assert code == 2
    assert "--min-area 4 leaves out regions, and none are asked for; give --regions too" in err
    assert not (tmp_path / "r").exists()


def test_reports_are_pages(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", results, "--report")
    assert (code, err) == (0, "")
    assert "Inspection report" in (results / "report.html").read_text()
    code, out, err = run(capsys, "report", model, plate_folder, "-o", tmp_path / "report")
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r".*report\.html: \d of 4 defects missed, \d of them to check, \d of 4 good images called anomalous\n", out
    )
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.html"]
    page = (tmp_path / "report/report.html").read_text()
    assert "Evaluation report" in page
    assert json.loads(run(capsys, "info", model, "--json")[1])["sha256"] in page
    for command in (["predict", model, plate_folder / "test", "--report"], ["report", model, plate_folder]):
        (results / "report.html").write_text("<!doctype html>of the user")
        code, out, err = run(capsys, *command, "-o", results)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "report.html exists and is no page that softpatch wrote; choose another folder" in err
        assert (results / "report.html").read_text() == "<!doctype html>of the user"


def test_threshold_can_be_overridden(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r", "--threshold", "1e9")
    lines = [json.loads(line) for line in (tmp_path / "r/predictions.jsonl").read_text().splitlines()]
    assert not any(line["is_anomalous"] for line in lines)
    assert {line["threshold"] for line in lines} == {1e9}


def test_nothing_that_could_be_judged_is_an_error(capsys, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    code, out, err = run(capsys, "predict", model, tmp_path / "empty.png", "-o", tmp_path / "r")
    assert (code, out) == (2, "")
    assert "none of the images could be judged" in err
    assert "empty.png: the file is empty" in err


def test_a_run_that_judges_nothing_leaves_earlier_answers(capsys, model: Path, plate_folder: Path, tmp_path) -> None:
    run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r")
    before = (tmp_path / "r/predictions.csv").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    assert run(capsys, "predict", model, tmp_path / "empty.png", "-o", tmp_path / "r")[0] == 2
    assert (tmp_path / "r/predictions.csv").read_bytes() == before


def test_a_fit_that_fails_says_which_images_were_bad(capsys, plate_folder: Path, tmp_path: Path) -> None:
    for path in sorted((plate_folder / "train/good").iterdir())[:9]:
        path.write_bytes(b"no image")
    code, _, err = run(capsys, "fit", plate_folder, "-o", tmp_path / "m.safetensors", *TINY)
    assert code == 2
    assert "4 usable training images are too few" in err
    assert "008.png: the file is not a PNG" in err


def test_outputs_in_the_way_are_noticed_before_the_work(capsys, model: Path, plate_folder: Path, tmp_path) -> None:
    (tmp_path / "r/skipped.csv").mkdir(parents=True)
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r")
    assert code == 2
    assert "skipped.csv: it is a folder" in err


def test_an_evaluation_of_nothing_is_an_error(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    for path in (plate_folder / "test").rglob("*.png"):
        path.write_bytes(b"")
    code, _, err = run(capsys, "evaluate", model, plate_folder, "--json", tmp_path / "metrics.json")
    assert code == 2
    assert "none of the test images could be read" in err
    assert not (tmp_path / "metrics.json").exists()


def test_a_fit_lists_every_image_that_it_left_out(capsys, plate_folder: Path, tmp_path: Path) -> None:
    for number in range(15):
        (plate_folder / f"train/good/broken{number}.png").write_bytes(b"no image")
    code, out, err = run(capsys, "fit", plate_folder, "-o", tmp_path / "m.safetensors", *TINY)
    assert code == 0
    assert "learned from 13 images" in out
    assert err.count("broken") == 15
    assert "13 images are few; take 50 or more" in err


def test_predict_on_a_dataset_judges_its_test_images_only(capsys, model: Path, plate_folder: Path, tmp_path) -> None:
    code, out, err = run(capsys, "predict", model, plate_folder, "-o", plate_folder / "results", "--overlays")
    assert code == 0
    assert "8 images" in out
    assert "mvtec layout; only its test images are used" in err
    code, out, _ = run(capsys, "predict", model, plate_folder, "-o", tmp_path / "r", "--layout", "folder")
    assert "21 images" in out  # 13 training, 8 test, no masks, and no overlay of the run before
    code, _, err = run(capsys, "predict", model, plate_folder, tmp_path, "-o", tmp_path / "r", "--layout", "mvtec")
    assert code == 2
    assert "not with several images" in err


def test_names_that_would_command_a_terminal_or_a_spreadsheet(capsys, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "\x1b[31mred.png", b"\xff.png".decode(errors="surrogateescape")]
    for name in names:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(name)
    Path("=2.png").write_bytes(b"")
    Path("\x1b[32mgreen.png").write_bytes(b"")
    code, _, err = run(capsys, "predict", model, "=1+1.png", "=2.png", *names[1:], "\x1b[32mgreen.png", "-o", "r")
    assert code == 0
    assert "\x1b" not in err
    assert "[32mgreen.png" in err
    with Path("r/predictions.csv").open(newline="", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == ["./=1+1.png", "\x1b[31mred.png", "\\udcff.png"]
    assert Path("r/skipped.csv").read_text().splitlines()[1].startswith("./=2.png")
    lines = [json.loads(line) for line in Path("r/predictions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == names


@pytest.mark.parametrize("threshold", ["nan", "inf", "high"])
def test_senseless_thresholds(capsys, model: Path, plate_folder: Path, tmp_path: Path, threshold: str) -> None:
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r", "--threshold", threshold)
    assert (code, err.count("\n")) == (2, 1)
    assert "threshold" in err


def test_evaluate_prints_and_writes_the_metrics(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "evaluate", model, plate_folder, "--json", tmp_path / "metrics.json")
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert code == 0
    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro"):
        assert 0 < record[name] <= 1
        assert name in out
    assert (record["nominal_images"], record["anomalous_images"], record["skipped_images"]) == (4, 4, 0)
    assert record["image_auroc"] == 1
    assert record["pixel_auroc"] > 0.9
    assert [(kind["kind"], kind["images"]) for kind in record["kinds"]] == [("good", 4), ("blot", 4)]
    assert [kind["image_auroc"] for kind in record["kinds"]] == [None, 1]
    assert out.splitlines()[-1].split()[:3] == ["blot", "4", "4"]


def test_evaluate_writes_a_row_per_image(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "judged.csv"
    for _ in range(2):  # one of its own is replaced
        assert run(capsys, "evaluate", model, plate_folder, "--csv", table)[0] == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["blot"] * 4 + ["good"] * 4
    assert all((row["kind"] == "blot") == (row["is_defective"] == "true") for row in rows)
    assert all(float(row["image_score"]) >= 0 and row["path"].endswith(".png") for row in rows)
    table.write_text("precious")
    code, _, err = run(capsys, "evaluate", model, plate_folder, "--csv", table)
    assert (code, "is no table of an evaluation" in err, table.read_text()) == (2, True, "precious")


def test_bad_files_are_skipped_and_listed(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    (plate_folder / "test/good/empty.png").write_bytes(b"")
    code, out, err = run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r")
    assert code == 0
    assert "8 images" in out
    assert "1 image left out" in err
    assert "empty.png: the file is empty" in err
    with (tmp_path / "r/skipped.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "reason"], [str(plate_folder / "test/good/empty.png"), "the file is empty"]]
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "strict", "--strict")
    assert code == 2
    assert "empty.png" in err
    assert not list((tmp_path / "strict").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "nowhere does not exist"),
        (["fit", "{folder}", "--preset", "softpatch++"], "'softpatch++' is unknown"),
        (["fit", "{folder}", "--backbone", "resnet17"], "'resnet17' is neither builtin-v1 nor a timm model"),
        (["fit", "{folder}", "--layers", "layer9"], "no layer 'layer9'"),
        (["fit", "{folder}", "--weights", "missing.safetensors"], "missing.safetensors does not exist"),
        (["fit", "{folder}", "--crop", "500"], "--crop is 500"),
        (["fit", "{folder}", "--resize", "big"], "--resize"),
        (["fit", "{folder}", "--coreset-ratio", "7"], "--coreset-ratio is 7"),
        (["fit", "{folder}", "--false-alarm-rate", "0"], "--false-alarm-rate is 0"),
        (["fit", "{folder}", "--device", "tpu"], "'tpu' is unknown"),
        (["fit", "{folder}", "--layout", "cifar"], "cifar"),
        (["fit", "{folder}", "-o", "{folder}"], "it is a folder"),
        (["fit", "{folder}", "-o", "{folder}/test/good/050.png"], "is not a softpatch model"),
        (["fit", "{folder}", "-o", "{folder}/test/good/050.png/model"], "cannot write"),
        (["fit", "{folder}/test/blot"], "4 usable training images are too few"),
        (["predict", "missing.safetensors", "{folder}", "-o", "{folder}/r"], "missing.safetensors does not exist"),
        (["predict", "{folder}/test/good/050.png", "{folder}", "-o", "{folder}/r"], "not a model file"),
        (["evaluate", "missing.safetensors", "{folder}"], "missing.safetensors does not exist"),
        (["fly"], "fly"),
        (["predict"], "MODEL"),
    ],
)
def test_errors_are_one_line(capsys, plate_folder: Path, arguments: list[str], message: str) -> None:
    filled = [argument.format(folder=plate_folder) for argument in arguments]
    code, out, err = run(capsys, *filled)
    assert code == 2
    assert out == ""
    assert err.startswith("softpatch: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_no_weights_and_no_network_names_both_ways_out(capsys, plate_folder: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, _, err = run(capsys, "fit", plate_folder, "--backbone", "resnet18", "--offline")
    assert code == 2
    assert err.count("\n") == 1
    assert "connect" in err
    assert "give a file as --weights" in err


def test_every_command_and_option_has_help() -> None:
    import typer

    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_version_and_help(capsys) -> None:
    assert run(capsys, "--version")[:2] == (0, "softpatch 0.1.0\n")
    code, out, _ = run(capsys, "fit", "--help")
    assert code == 0
    assert "--coreset-ratio" in out
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert "evaluate" in out


def test_help_does_not_import_torch() -> None:
    check = "import sys; from softpatch import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_unexpected_errors_show_no_traceback(capsys, plate_folder: Path, monkeypatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr("softpatch.estimator.SoftPatch.fit", fail)
    code, _, err = run(capsys, "fit", plate_folder, *TINY)
    assert code == 1
    assert err.startswith("softpatch: unexpected RuntimeError: something odd")
    assert "Traceback" not in err


def test_evaluate_replaces_json_files_only(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("precious")
    code, _, err = run(capsys, "evaluate", model, plate_folder, "--json", tmp_path / "script.py")
    assert code == 2
    assert "holds no figures of an evaluation" in err
    assert (tmp_path / "script.py").read_text() == "precious"


def test_a_folder_in_place_of_the_model(capsys, model: Path, plate_folder: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, "predict", plate_folder, model, "-o", tmp_path / "r")
    assert code == 2
    assert "is a folder; first comes the model file" in err


def test_a_name_too_long_for_its_map_is_cut(capsys, model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (f"{'0' * 249}.png", f"{'0' * 248}1.png"):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images" / name)
    code, _, _ = run(capsys, "predict", model, tmp_path / "images", "-o", tmp_path / "r", "--maps", "--overlays")
    assert code == 0
    for kind in ("maps", "overlays"):
        written = [path.name for path in (tmp_path / "r" / kind).iterdir()]
        assert len(written) == 2
        assert all(name.startswith("0" * 40 + "-") for name in written)


def test_images_of_kinds_that_are_not_read_are_reported(capsys, model: Path, plate_folder: Path, tmp_path) -> None:
    (plate_folder / "test/good/phone.HEIC").write_bytes(b"ftypheic")
    code, _, err = run(capsys, "predict", model, plate_folder / "test", "-o", tmp_path / "r")
    assert code == 0
    assert "phone.HEIC: the file is not a PNG, JPEG" in err


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "softpatch: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_stop_leaves_nothing_half_written(
    model: Path, plate_folder: Path, tmp_path: Path, number: int, code: int, said: str
) -> None:
    results = tmp_path / "results"
    many = [plate_folder / "test"] * 400
    command = [sys.executable, "-m", "softpatch", "predict", model, *many, "-o", results, "--batch-size", 1, "--maps"]
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if results.exists() and any(results.iterdir()):
                break
            time.sleep(0.1)
        for _ in range(3):  # an impatient user
            process.send_signal(number)
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == said
    assert list(results.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_while_modules_are_imported(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "softpatch", "--version"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "softpatch: interrupted\n")


def test_the_demo_leaves_other_results_alone(capsys, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("mine")
    code, _, err = run(capsys, "demo", "-o", tmp_path)
    assert code == 2
    assert "holds other files; name a new folder for the demo" in err
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_threshold_is_shown_and_set_without_learning_again(model: Path, capsys) -> None:
    code, out, err = run(capsys, "threshold", model)
    assert (code, err) == (0, "")
    before = SoftPatch.load(model)
    assert f"threshold {before.threshold:.4g}" in out
    strict = run(capsys, "threshold", model, "--false-alarm-rate", "0.2")
    assert strict[0] == 0
    after = SoftPatch.load(model)
    assert after.settings.false_alarm_rate == 0.2
    assert after.threshold == before.detector.thresholds_at(0.2).threshold < before.threshold
    assert f"{'20.0%':>12}  {after.threshold:>9.4g}" in strict[1]
    assert run(capsys, "threshold", model, "--false-alarm-rate", "0.01")[0] == 0
    assert SoftPatch.load(model).threshold == pytest.approx(before.threshold, rel=1e-6)
    assert run(capsys, "threshold", model, "--set", "2.25")[0] == 0
    assert SoftPatch.load(model).threshold == 2.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "0"], "--set is 0"),
        (["--set", "nan"], "--set is nan"),
        (["--false-alarm-rate", "0.7"], "--false-alarm-rate is 0.7"),
        (["--set", "2", "--false-alarm-rate", "0.1"], "choose one of them"),
    ],
)
def test_a_threshold_that_makes_no_sense_changes_nothing(model: Path, capsys, options: list[str], message: str) -> None:
    before = model.read_bytes()
    code, _, err = run(capsys, "threshold", model, *options)
    assert (code, message in err) == (2, True)
    assert model.read_bytes() == before


def test_the_exit_code_tells_of_anomalous_images(model: Path, plate_folder: Path, tmp_path: Path, capsys) -> None:
    for kind, code in (("blot", 3), ("good", 0)):
        images = plate_folder / "test" / kind
        options = ["-o", tmp_path / kind, "--exit-code"] + (["--threshold", "1e9"] if kind == "good" else [])
        assert run(capsys, "predict", model, images, *options)[0] == code
        assert (tmp_path / kind / "predictions.csv").exists()
    assert run(capsys, "predict", model, plate_folder / "test/blot", "-o", tmp_path / "plain")[0] == 0
