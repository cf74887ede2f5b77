"""Overlays, maps, evaluation and the demo's picture."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from softpatch.data.images import ImageRef
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import open_dataset
from softpatch.errors import ImageError, InputError
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction
from softpatch.review.demo import draw_comparison
from softpatch.review.evaluation import check_can_replace, evaluate, notes
from softpatch.review.outputs import write_outputs
from softpatch.review.pictures import heat_colours, overlay, save_map, save_overlay


def test_overlay_tints_by_one_scale_and_outlines_the_mask() -> None:
    image = torch.full((3, 20, 20), 0.5)
    heat = np.full((20, 20), 0.4, np.float32)
    heat[5:15, 5:15] = 1.5
    heat[0, 0] = np.nan
    pixels = overlay(image, heat, map_threshold=1.0, mask=heat > 1)
    assert (pixels.shape, pixels.dtype) == ((20, 20, 3), np.uint8)
    assert (pixels[0, 0] == 128).all()  # NaN
    assert (pixels[18, 18] == 128).all()  # far under the threshold
    assert (pixels[5, 5:15] == 255).all()  # the outline
    assert pixels[10, 10, 0] > pixels[10, 10, 2] + 40  # tinted warm
    same = overlay(image, heat * 10, map_threshold=10.0, mask=heat > 1)
    assert (same == pixels).all()


def test_heat_colours_run_from_yellow_to_red() -> None:
    colours = heat_colours(np.array([0.0, 1.0]))
    assert colours[0, 1] > 0.8
    assert colours[1, 1] < 0.1
    assert colours[1, 0] > 0.8


def test_map_file_is_the_map_at_original_size(fitted: SoftPatch, defective_images, tmp_path: Path) -> None:
    answer = fitted.predict([Image.fromarray(defective_images[0]).resize((130, 90))])[0]
    save_map(answer, tmp_path / "map.tiff")
    pixels = tifffile.imread(tmp_path / "map.tiff")
    assert (pixels.shape, pixels.dtype) == ((90, 130), np.float32)
    assert np.array_equal(pixels, answer.map_at_original_size(), equal_nan=True)


def test_outputs_keep_the_folders_of_the_images(fitted: SoftPatch, plate_folder: Path, tmp_path: Path) -> None:
    refs = [sample.ref for sample in open_dataset(plate_folder).test]
    verdicts, unlike = write_outputs(fitted.detector.predict(refs), refs, tmp_path / "out", maps=True)
    assert (verdicts.total(), verdicts["anomalous"] >= 4, unlike < 5) == (8, True, True)
    assert len(list((tmp_path / "out/maps/blot").glob("*.png.tiff"))) == 4
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 8


def test_a_red_frame_marks_what_is_called_anomalous(fitted: SoftPatch, defective_images, tmp_path: Path) -> None:
    image = torch.from_numpy(defective_images[0]).permute(2, 0, 1) / 255
    corners = []
    for threshold in (0, 1e9):
        answer = fitted.predict(defective_images[:1], threshold=threshold)[0]
        save_overlay(image, answer, tmp_path / "overlay.png")
        with Image.open(tmp_path / "overlay.png") as overlaid:
            corners.append(overlaid.getpixel((0, 0)))
    assert corners[0] == (217, 0, 13)
    assert corners[1] == tuple(defective_images[0][0, 0])


def test_a_failing_run_leaves_the_folder_as_it_was(fitted: SoftPatch, plate_folder: Path, tmp_path: Path) -> None:
    refs = [sample.ref for sample in open_dataset(plate_folder).test]
    write_outputs(fitted.detector.predict(refs[:1]), refs, tmp_path / "out", overlays=True)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def interrupted() -> Iterator[Prediction]:
        yield from fitted.detector.predict(refs[:5])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_outputs(interrupted(), refs, tmp_path / "out", maps=True, overlays=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_evaluation_counts_and_rounds_nothing(fitted: SoftPatch, plate_folder: Path) -> None:
    result = evaluate(fitted.detector, open_dataset(plate_folder).test)
    record = result.as_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["image_auroc"] == 1
    assert record["missed"] == 0
    assert record["images_with_mask"] == 8
    assert 0.9 < record["pixel_auroc"] <= 1


def test_images_without_masks_count_for_the_image_metrics_only(fitted: SoftPatch, plate_folder: Path) -> None:
    for mask in (plate_folder / "ground_truth/blot").iterdir():
        mask.unlink()
    record = evaluate(fitted.detector, open_dataset(plate_folder).test).as_dict()
    assert record["image_auroc"] == 1
    assert record["pixel_auroc"] is None
    assert record["images_with_mask"] == 4


def test_nothing_to_evaluate_on(fitted: SoftPatch) -> None:
    with pytest.raises(InputError, match="no test images"):
        evaluate(fitted.detector, [])


def test_comparison_picture(fitted: SoftPatch, plate_folder: Path, tmp_path: Path) -> None:
    samples = open_dataset(plate_folder).test
    answers = fitted.predict([ImageRef(sample.ref.name, sample.ref.read) for sample in samples])
    result = evaluate(fitted.detector, samples)
    draw_comparison(samples, {"agreement": answers}, {"agreement": result}, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size[0] > 400
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 100


def test_no_result_is_written_over_an_image(fitted: SoftPatch, defective_images, tmp_path: Path) -> None:
    folder = tmp_path / "out/overlays"
    folder.mkdir(parents=True)
    for name in ("a.png", "a.png.png"):
        Image.fromarray(defective_images[0]).save(folder / name)
    refs = choose_images([folder], "predict").refs
    before = (folder / "a.png.png").read_bytes()
    with pytest.raises(
        InputError, match=r"a\.png\.png would be overwritten by a result; choose another folder with -o"
    ):
        write_outputs(fitted.detector.predict(refs), refs, tmp_path / "out", overlays=True)
    assert (folder / "a.png.png").read_bytes() == before
    assert list((tmp_path / "out").iterdir()) == [folder]


def test_overlays_are_not_drawn_on_images_that_were_replaced(fitted: SoftPatch, plate_folder: Path, tmp_path) -> None:
    refs = [sample.ref for sample in open_dataset(plate_folder).test]

    def replaced() -> Iterator[Prediction]:
        for prediction in fitted.detector.predict(refs):
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(prediction.path)
            yield prediction

    with pytest.raises(ImageError, match="was changed while it was judged"):
        write_outputs(replaced(), refs, tmp_path / "out", overlays=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_large_overlays_are_drawn_smaller(fitted: SoftPatch, defective_images, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("softpatch.review.pictures._LARGEST_OVERLAY", 1000)
    image = torch.from_numpy(defective_images[0]).permute(2, 0, 1) / 255
    save_overlay(image, fitted.predict(defective_images[:1])[0], tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as overlaid:
        assert overlaid.size == (21, 21)


def test_masks_that_mark_nothing_or_everything_are_counted(fitted: SoftPatch, plate_folder: Path) -> None:
    for number, value in ((100, 0), (101, 255)):
        Image.new("L", (64, 64), value).save(plate_folder / f"ground_truth/blot/{number}_mask.png")
    result = evaluate(fitted.detector, open_dataset(plate_folder).test)
    assert (result.empty_masks, result.full_masks) == (1, 1)
    assert [note.split(" masks")[0] for note in notes(result)] == ["1", "1"]


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.jsonl", "skipped.csv"])
def test_no_table_is_written_over_an_image_or_the_model(
    fitted: SoftPatch, defective_images, tmp_path: Path, name: str
) -> None:
    Image.fromarray(defective_images[0]).save(tmp_path / name, "PNG")
    before = (tmp_path / name).read_bytes()
    refs = choose_images([tmp_path / name], "predict").refs
    with pytest.raises(InputError, match="would be overwritten by a result"):
        write_outputs(fitted.detector.predict(refs), refs, tmp_path)
    other = choose_images(defective_images[:1], "predict").refs
    with pytest.raises(InputError, match="would be overwritten by a result"):
        write_outputs(fitted.detector.predict(other), other, tmp_path, keep=[tmp_path / name])
    assert (tmp_path / name).read_bytes() == before


def test_images_whose_results_cannot_both_be_written(fitted: SoftPatch, defective_images, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/a.png.tiff/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(defective_images[0]).save(tmp_path / name)
    refs = choose_images(tmp_path / "in", "predict").refs
    with pytest.raises(InputError, match=r"a\.png\.tiff cannot both be written; judge those images apart"):
        write_outputs(fitted.detector.predict(refs), refs, tmp_path / "out", maps=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "[" * 5000, "9" * 5000])
def test_only_figures_of_an_evaluation_are_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    check_can_replace(path)
    path.write_text(content)
    with pytest.raises(InputError, match="holds no figures of an evaluation"):
        check_can_replace(path)
    path.write_text('{"image_auroc": null, "false_alarms": 0}')
    check_can_replace(path)
