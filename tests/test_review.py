"""Overlays, maps, evaluation and the demo's picture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import open_dataset
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction
from softpatch.review.demo import draw_comparison
from softpatch.review.evaluation import check_can_replace, evaluate, notes
from softpatch.review.outputs import refuse_overwriting
from softpatch.review.pictures import heat_colours, heat_layer, overlay, save_map, save_overlay, tint
from softpatch.review.run import Run
from test_run import judged


def test_overlay_tints_by_one_scale_and_outlines_the_mask() -> None:
    image = torch.full((3, 20, 20), 0.5)
    heat = np.full((20, 20), 0.4, np.float32)
    heat[5:15, 5:15] = 1.5
    pixels = overlay(image, heat, map_threshold=1.0, mask=heat > 1)
    assert (pixels.shape, pixels.dtype) == ((20, 20, 3), np.uint8)
    assert (pixels[18, 18] == 128).all()  # far under the threshold
    assert (pixels[5, 5:15] == 255).all()  # the outline
    assert (pixels[4, 5:15] == 0).all()
    assert pixels[10, 10, 0] > pixels[10, 10, 2] + 40  # tinted warm
    same = overlay(image, heat * 10, map_threshold=10.0, mask=heat > 1)
    assert (same == pixels).all()


def test_a_heat_layer_over_its_image_is_the_overlay() -> None:
    image = torch.rand(3, 30, 20)
    heat = np.linspace(0, 3, 600, dtype=np.float32).reshape(30, 20)
    layer = heat_layer(heat, 1.0) / 255
    colours, opacity = layer[..., :3], layer[..., 3:]
    laid = image.permute(1, 2, 0).numpy() * (1 - opacity) + colours * opacity
    drawn = overlay(image, heat, 1.0, np.zeros(heat.shape, dtype=bool))
    assert np.abs(laid * 255 - drawn).max() < 2
    assert (layer[:5, :, 3] == 0).all()  # far under the threshold
    heat[10:20] = np.nan
    assert (heat_layer(heat, 1.0)[10:20] == [128, 128, 128, 115]).all()  # not looked at


DEUTERANOPIA = np.array(  # Machado, Oliveira and Fernandes 2009, severity 1, of linear RGB
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def lab_seen(colours: np.ndarray, sight: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) of sRGB colours (..., 3) in [0, 1] as an eye sees them that mixes linear RGB by `sight`."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ sight.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(np.maximum(seen @ to_xyz.T / [0.9505, 1, 1.089], 1e-9)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA])
def test_heat_is_told_from_every_product_by_every_eye(sight: np.ndarray) -> None:
    lightness = lab_seen(heat_colours(np.linspace(0, 1, 50)), sight)[:, 0]
    assert (np.diff(lightness) > 0).all()
    products = np.array([[0.97, 0.97, 0.95], [0.75, 0.75, 0.75], [0.5, 0.5, 0.5], [0.08, 0.08, 0.1], [0.5, 0.3, 0.15]])
    image = torch.from_numpy(products.T[:, :, None].repeat(20, axis=2))
    tinted = tint(image, np.linspace(0, 1, 20)[None].repeat(len(products), axis=0))
    seen = np.linalg.norm(lab_seen(tinted, sight) - lab_seen(products, sight)[:, None], axis=2)
    assert seen[:, 0].max() < 1e-6
    assert seen[:, 6].min() > 10  # at the threshold; a difference of 2 to 3 is just seen
    assert seen.max(axis=1).min() > 30


@pytest.mark.parametrize(("width", "height"), [(64, 64), (3000, 40), (40, 900), (1, 1)])
def test_an_overlay_stands_beside_its_image_under_a_caption(width: int, height: int, tmp_path: Path) -> None:
    flat = np.full((56, 56), 0.5, np.float32)
    for score, colour in ((2.0, (196, 78, 0)), (0.95, (230, 159, 0)), (0.1, (0, 110, 80))):
        answer = Prediction(
            "a.png", score, 1.0, 0.9, 0.0, 0.0, width, height, flat, 1.0, False, 0.0, Framing.square(64, 56)
        )
        save_overlay(torch.full((3, height, width), 0.25), answer, tmp_path / "beside.png")
        save_overlay(torch.full((3, height, width), 0.25), answer, tmp_path / "plain.png", style="plain")
        with Image.open(tmp_path / "beside.png") as beside, Image.open(tmp_path / "plain.png") as plain:
            assert plain.size == (width, height)
            assert beside.width * beside.height > 2 * width * height
            assert (beside.width > 2 * width) == (width <= 2 * height)
            assert beside.height > height
            drawn = np.asarray(beside)
        assert (drawn == colour).all(axis=2).any()  # the verdict's
        assert (drawn == 64).all(axis=2).sum() >= width * height  # the image, untouched


def test_what_is_not_looked_at_is_hatched() -> None:
    heat = np.full((40, 40), 0.1, np.float32)
    heat[:5] = np.nan
    pixels = overlay(torch.full((3, 40, 40), 0.8), heat, map_threshold=1.0, mask=np.zeros((40, 40), bool))
    assert (pixels[5:] == 204).all()
    assert (pixels[:5] < 200).all()
    assert len(np.unique(pixels[:5])) == 2


def test_map_file_is_the_map_at_original_size(fitted: SoftPatch, defective_images, tmp_path: Path) -> None:
    answer = fitted.predict([Image.fromarray(defective_images[0]).resize((130, 90))])[0]
    save_map(answer, tmp_path / "map.tiff")
    pixels = tifffile.imread(tmp_path / "map.tiff")
    assert (pixels.shape, pixels.dtype) == ((90, 130), np.float32)
    assert np.array_equal(pixels, answer.map_at_original_size(), equal_nan=True)


def test_outputs_keep_the_folders_of_the_images(fitted: SoftPatch, plate_folder: Path, tmp_path: Path) -> None:
    refs = [sample.ref for sample in open_dataset(plate_folder).test]
    verdicts, unlike = judged(fitted.detector.predict(refs), refs, tmp_path / "out", maps=True)
    assert (verdicts.total(), verdicts["anomalous"] >= 4, unlike < 5) == (8, True, True)
    assert len(list((tmp_path / "out/maps/blot").glob("*.png.tiff"))) == 4
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 8


def test_evaluation_counts_and_rounds_nothing(fitted: SoftPatch, plate_folder: Path) -> None:
    result = evaluate(fitted.detector, open_dataset(plate_folder).test)
    record = result.as_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["image_auroc"] == 1
    assert record["missed"] == 0
    assert record["images_with_mask"] == 8
    assert 0.9 < record["pixel_auroc"] <= 1


def test_missed_images_that_are_to_check_are_counted(fitted: SoftPatch, plate_folder: Path) -> None:
    samples = open_dataset(plate_folder).test
    scores = sorted(
        prediction.image_score
        for prediction in fitted.detector.predict([sample.ref for sample in samples if sample.is_anomalous])
    )
    # of four defective images one is above the threshold, two to check and one good
    detector = replace(fitted.detector, threshold=(scores[2] + scores[3]) / 2, check_threshold=scores[0])
    result = evaluate(detector, samples)
    assert (result.missed, result.missed_to_check) == (3, 2)


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
    answers = fitted.predict([ImageRef(sample.ref.name, sample.ref.load) for sample in samples])
    result = evaluate(fitted.detector, samples)
    draw_comparison(samples, {"agreement": answers}, {"agreement": result}, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size[0] > 400
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 100


def test_no_result_is_written_over_an_image(defective_images, tmp_path: Path) -> None:
    folder = tmp_path / "out/overlays"
    folder.mkdir(parents=True)
    for name in ("a.png", "a.png.png"):
        Image.fromarray(defective_images[0]).save(folder / name)
    refs = choose_images([folder], "predict").refs
    before = (folder / "a.png.png").read_bytes()
    with pytest.raises(
        InputError, match=r"a\.png\.png would be overwritten by a result; choose another folder with -o"
    ):
        refuse_overwriting(Run.of(refs, overlays="plain"), refs, tmp_path / "out")
    assert (folder / "a.png.png").read_bytes() == before
    assert list((tmp_path / "out").iterdir()) == [folder]


def test_large_overlays_are_drawn_smaller(fitted: SoftPatch, defective_images, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("softpatch.review.pictures._LARGEST_OVERLAY", 1000)
    image = torch.from_numpy(defective_images[0]).permute(2, 0, 1) / 255
    save_overlay(image, fitted.predict(defective_images[:1])[0], tmp_path / "overlay.png", style="plain")
    with Image.open(tmp_path / "overlay.png") as overlaid:
        assert overlaid.size == (21, 21)


def test_masks_that_mark_nothing_or_everything_are_counted(fitted: SoftPatch, plate_folder: Path) -> None:
    for number, value in ((100, 0), (101, 255)):
        Image.new("L", (64, 64), value).save(plate_folder / f"ground_truth/blot/{number}_mask.png")
    result = evaluate(fitted.detector, open_dataset(plate_folder).test)
    assert (result.empty_masks, result.full_masks) == (1, 1)
    assert [note.split(" masks")[0] for note in notes(result)] == ["1", "1"]


@pytest.mark.parametrize(
    "name", ["predictions.csv", "predictions.jsonl", "skipped.csv", "run.json", "regions.jsonl", "regions.json"]
)
def test_no_table_is_written_over_an_image_or_the_model(defective_images, tmp_path: Path, name: str) -> None:
    Image.fromarray(defective_images[0]).save(tmp_path / name, "PNG")
    before = (tmp_path / name).read_bytes()
    refs = choose_images([tmp_path / name], "predict").refs
    with pytest.raises(InputError, match="would be overwritten by a result"):
        refuse_overwriting(Run.of(refs, min_area=0), refs, tmp_path)
    other = choose_images(defective_images[:1], "predict").refs
    with pytest.raises(InputError, match="would be overwritten by a result"):
        refuse_overwriting(Run.of(other, min_area=0), other, tmp_path, keep=[tmp_path / name])
    assert (tmp_path / name).read_bytes() == before


def test_images_whose_results_cannot_both_be_written(defective_images, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/a.png.tiff/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(defective_images[0]).save(tmp_path / name)
    refs = choose_images(tmp_path / "in", "predict").refs
    with pytest.raises(InputError, match=r"a\.png\.tiff cannot both be written; judge those images apart"):
        refuse_overwriting(Run.of(refs, maps=True), refs, tmp_path / "out")


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "[" * 5000, "9" * 5000])
def test_only_figures_of_an_evaluation_are_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    check_can_replace(path)
    path.write_text(content)
    with pytest.raises(InputError, match="holds no figures of an evaluation"):
        check_can_replace(path)
    path.write_text('{"image_auroc": null, "false_alarms": 0}')
    check_can_replace(path)
