"""A region of interest: read from masks and polygons, kept as a setting, and honoured wherever images are looked at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from conftest import plate, tiny_softpatch
from softpatch import SoftPatch
from softpatch.config import unpacked_roi
from softpatch.data.framing import Framing
from softpatch.data.roi import packed_roi, read_roi, roi_mask
from softpatch.errors import InputError
from test_cli import run

TINY = ["--resize", "64", "--crop", "64", "--device", "cpu", "--symmetries", "none", "--preset", "softpatch+"]
LEFT = np.arange(64)[None] < np.full((64, 1), 32)


def saved(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_mask_comes_back_at_any_size(tmp_path: Path) -> None:
    canvas = Image.new("1", (640, 480))
    ImageDraw.Draw(canvas).ellipse((100, 50, 500, 400), fill=1)
    mask = np.asarray(canvas)
    roi, size = read_roi(saved(tmp_path / "mask.png", mask))
    assert size == (640, 480)
    assert (roi_mask(roi, 640, 480) != mask).mean() < 0.01
    assert roi_mask(roi, 64, 48).mean() == pytest.approx(mask.mean(), abs=0.01)
    assert roi_mask(packed_roi(LEFT), 7, 3).tolist() == [[True] * 3 + [False] * 4] * 3
    assert len(roi) < 1000


def labelme(*shapes: tuple[str, list[list[float]]]) -> dict[str, object]:
    return {
        "imageWidth": 100,
        "imageHeight": 50,
        "shapes": [{"shape_type": kind, "points": points, "label": "part"} for kind, points in shapes],
    }


def coco(*images: int, **annotation: object) -> dict[str, object]:
    return {
        "images": [{"id": number, "width": 100, "height": 50, "file_name": "a.png"} for number in (1, 2)],
        "annotations": [{"image_id": number, "category_id": 1, **annotation} for number in images],
    }


@pytest.mark.parametrize(
    "content",
    [
        labelme(("polygon", [[0, 0], [50, 0], [50, 50], [0, 50]])),
        labelme(("rectangle", [[0, 0], [50, 50]])),
        labelme(("rectangle", [[0, 0], [30, 50]]), ("rectangle", [[20, 0], [50, 50]])),  # no hole where they overlap
        coco(2, segmentation=[[0, 0, 50, 0, 50, 50, 0, 50]]),
        coco(1, bbox=[0, 0, 50, 50]),
    ],
)
def test_polygons_are_read(tmp_path: Path, content: object) -> None:
    roi, size = read_roi(written(tmp_path / "roi.json", content))
    assert size == (100, 50)
    assert (roi_mask(roi, 64, 64) != LEFT).mean() < 0.03


def test_a_circle_is_read(tmp_path: Path) -> None:
    roi, _ = read_roi(written(tmp_path / "roi.json", labelme(("circle", [[50, 25], [70, 25]]))))
    assert roi_mask(roi, 100, 50).sum() == pytest.approx(np.pi * 20**2, rel=0.06)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco(1, 2, bbox=[0, 0, 5, 5]), "neither LabelMe's JSON nor COCO with one marked image .it marks 2 images"),
        (coco(), "it marks 0 images"),
        (coco(1, segmentation={"counts": "abc", "size": [50, 100]}), "neither LabelMe's JSON nor COCO"),
        (labelme(("line", [[0, 0], [5, 5]])), "neither LabelMe's JSON"),
        (labelme(("polygon", [[0, 0], [5]])), "neither LabelMe's JSON"),
        (labelme(("polygon", [[0, 0], [5, float("nan")], [5, 5]])), "corners that are not finite"),
        ({**labelme(), "imageWidth": 1e9}, "neither LabelMe's JSON"),
        (labelme(), "marks nothing"),
        ([], "neither LabelMe's JSON"),
    ],
)
def test_json_that_marks_no_region(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_roi(written(tmp_path / "roi.json", content))


def test_files_that_are_no_region(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"shapes": [')
    (tmp_path / "text.png").write_text("no picture")
    black = saved(tmp_path / "black.png", np.zeros((8, 8), dtype=bool))
    for path, message in (
        (tmp_path / "cut.json", "neither LabelMe's JSON"),
        (tmp_path / "text.png", "cannot be read"),
        (tmp_path / "missing.png", "cannot be read"),
        (black, "marks nothing; paint white what is to be looked at"),
    ):
        with pytest.raises(InputError, match=message):
            read_roi(path)


@pytest.mark.parametrize("given", ["", 3, "missing.png"])
def test_what_is_no_file(given: object) -> None:
    with pytest.raises(InputError, match=r"roi|region of interest"):
        SoftPatch(roi=given)


@pytest.mark.parametrize("text", ["", "x", "AAAA", packed_roi(LEFT)[:40]])
def test_text_that_holds_no_region(text: str) -> None:
    with pytest.raises(InputError, match="`roi`"):
        unpacked_roi(text)


def test_what_lies_beyond_is_painted_grey_and_no_defect() -> None:
    framing = Framing.square(64, 32, packed_roi(LEFT))
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    framed = framing.apply(image)
    assert torch.equal(framed[:, :, :16], image[:, 16:48, 16:32])
    assert (framed[:, :, 16:] == 0.5).all()
    marked = framing.apply_to_mask(torch.ones(64, 64, dtype=torch.bool))
    assert torch.equal(marked, torch.from_numpy(LEFT[:32, 16:48].copy()).expand(32, -1))
    whole = framing.map_to_original(np.ones((32, 32), np.float32), 128, 128)
    assert np.isfinite(whole).sum() == 64 * 32  # rows and columns of the crop's left half
    assert framing.nearest_inside(3, (4, 4)) == 1
    assert framing.nearest_inside(4, (4, 4)) == 4
    assert Framing.square(64, 32).nearest_inside(3, (4, 4)) == 3


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(plate(number)).save(folder / f"{number:02d}.png")
    return folder


def scratched(column: int) -> np.ndarray:
    pixels = plate(77).copy()
    pixels[20:40, column : column + 6] = (250, 20, 20)
    return pixels


def test_only_what_is_inside_is_judged(photographs: Path, tmp_path: Path) -> None:
    estimator = tiny_softpatch(roi=saved(tmp_path / "left.png", LEFT)).fit(photographs)
    clean, beyond, inside = estimator.predict([plate(77), scratched(45), scratched(10)])
    assert beyond.image_score == clean.image_score
    assert inside.image_score > 1.5 * clean.image_score
    assert inside.is_anomalous
    assert inside.peak_x < 36  # the centre of a patch that reaches inside
    assert not inside.mask[:, 34:].any()
    assert np.isnan(inside.map_at_original_size()[:, 32:]).all()
    assert np.isfinite(inside.map_at_original_size()[:, :32]).all()
    estimator.save(tmp_path / "model.safetensors")
    loaded = SoftPatch.load(tmp_path / "model.safetensors")
    assert loaded.predict(scratched(10)).image_score == inside.image_score
    again = SoftPatch(**loaded.get_params()).fit(photographs)
    assert again.threshold == estimator.threshold
    assert again.set_params(roi=None).fit(photographs).threshold != estimator.threshold


def test_a_region_of_another_size_or_of_nothing_that_is_looked_at(photographs: Path, tmp_path: Path) -> None:
    wide = saved(tmp_path / "wide.png", np.ones((64, 100), dtype=bool))
    with pytest.raises(InputError, match=r"drawn on 100 x 64 pixels, and .*00\.png has 64 x 64; draw it on one"):
        tiny_softpatch(roi=wide).fit(photographs)
    corner = np.zeros((64, 64), dtype=bool)
    corner[:5, :5] = True
    with pytest.raises(InputError, match="leaves 25 of the 4,096 pixels that are looked at, fewer than a patch has"):
        tiny_softpatch(roi=saved(tmp_path / "corner.png", corner)).fit(photographs)


def test_commands_honour_it(capsys, photographs: Path, tmp_path: Path) -> None:
    roi, model, out = saved(tmp_path / "left.png", LEFT), tmp_path / "model.safetensors", tmp_path / "out"
    code, _, _ = run(capsys, "fit", photographs, "-o", model, "--roi", roi, *TINY)
    assert code == 0
    _, said, _ = run(capsys, "info", model)
    assert "only a region of interest" in said
    assert "softpatch+, with" in said
    assert "roi" not in said.replace("region", "")
    (tmp_path / "new").mkdir()
    Image.fromarray(scratched(45)).save(tmp_path / "new/beyond.png")
    code, _, _ = run(capsys, "predict", model, tmp_path / "new", "-o", out, "--overlays", "plain")
    assert code == 0
    with Image.open(next(out.rglob("*.png"))) as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    assert drawn[30, 47, 0] < 250  # faded
    code, _, _ = run(capsys, "audit", photographs, "--model", model, "-o", tmp_path / "audit")
    assert code == 0
    code, _, said = run(capsys, "fit", photographs, "-o", model, "--roi", tmp_path / "none.png", *TINY)
    assert code == 2
    assert "none.png" in said
