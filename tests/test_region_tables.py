"""Regions as lines of JSON and in COCO format."""

import json
from pathlib import Path

import numpy as np
import pytest

from softpatch.data.framing import Framing
from softpatch.errors import InputError
from softpatch.results import Prediction
from softpatch.review.region_tables import COCO, REGIONS, keep_regions, region_lines, write_regions_as_coco


def two_blots(path: str, *, score: float = 2.0) -> Prediction:
    """Of an image of 64 x 32 pixels: a ring of 5 x 5 pixels of the map, of 32 x 32, and a square of 3 x 3."""
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[4:9, 4:9] = 2
    anomaly_map[6, 6] = 0
    anomaly_map[20:23, 20:23] = 3
    return Prediction(path, score, 1.0, 0.9, 9.0, 4.0, 64, 32, anomaly_map, 1.0, False, 0.0, Framing.square(32, 32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    answers = [two_blots("/images/a/1.png"), two_blots("/images/2.png", score=0.5), two_blots("/images/b\n3.png")]
    (tmp_path / REGIONS).write_text("".join(region_lines(answer, 0) for answer in answers))
    write_regions_as_coco(tmp_path, [answer.as_dict() for answer in answers], "/images")
    return tmp_path


def test_a_line_per_region(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / REGIONS).read_text().splitlines()]
    assert [row["path"] for row in rows] == ["/images/a/1.png"] * 2 + ["/images/b\n3.png"] * 2
    assert rows[0] == {
        "path": "/images/a/1.png",
        "box": [40, 20, 46, 23],
        "area": 18,
        "peak": 3.0,
        "mean": rows[0]["mean"],
        "peak_x": 41,
        "peak_y": 20,
        "contours": [[[40, 20], [46, 20], [46, 23], [40, 23]]],
    }
    assert 2 < rows[0]["mean"] < 3  # its border is interpolated
    assert [len(contour) for contour in rows[1]["contours"]] == [4, 4]
    assert region_lines(two_blots("a"), 19).count("\n") == 1
    assert region_lines(two_blots("a", score=0.5), 0) == ""


def test_coco_lists_every_image_and_the_outer_boundaries(folder: Path) -> None:
    coco = json.loads((folder / COCO).read_text())
    assert coco["images"] == [
        {"id": 1, "file_name": "a/1.png", "width": 64, "height": 32},
        {"id": 2, "file_name": "2.png", "width": 64, "height": 32},
        {"id": 3, "file_name": "b\n3.png", "width": 64, "height": 32},
    ]
    assert coco["categories"] == [{"id": 1, "name": "defect", "supercategory": ""}]
    assert [(each["id"], each["image_id"]) for each in coco["annotations"]] == [(1, 1), (2, 1), (3, 3), (4, 3)]
    assert coco["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 1,
        "bbox": [8, 4, 10, 5],
        "area": 48,
        "segmentation": [[8, 4, 18, 4, 18, 9, 8, 9]],
        "iscrowd": 0,
        "score": 2.0,
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_is_read_by_its_own_tools(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed").COCO(folder / COCO)
    capsys.readouterr()
    masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds(imgIds=1))]
    whole = two_blots("a").mask_at_original_size()
    whole[6, 12:14] = True  # a hole, which is filled
    assert np.array_equal(sum(masks), whole)


def test_an_image_that_was_judged_twice_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / REGIONS).write_text(2 * region_lines(two_blots("/images/1.png"), 0))
    write_regions_as_coco(tmp_path, 2 * [two_blots("/images/1.png").as_dict()], "/images")
    coco = json.loads((tmp_path / COCO).read_text())
    assert (len(coco["images"]), len(coco["annotations"])) == (1, 2)


def test_regions_are_kept_in_the_order_of_their_images(tmp_path: Path) -> None:
    lines = [region_lines(two_blots(name), 0) for name in "abc"]
    (tmp_path / REGIONS).write_text("".join(lines) + '{"path": "cut sho')
    keep_regions(tmp_path, ["c", "d", "a", "c"])
    assert (tmp_path / REGIONS).read_text() == lines[2] + lines[0]


@pytest.mark.parametrize(
    "change", [{"box": [1, 2, 3]}, {"path": 3}, {"contours": []}, {"contours": [[1, 2, 3, 4]]}, {"area": "x"}, {"a": 1}]
)
def test_lines_of_others_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    row = {**json.loads(region_lines(two_blots("a"), 0).splitlines()[0]), **change}
    (tmp_path / REGIONS).write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"regions\.jsonl holds lines that this run cannot have written; remove"):
        keep_regions(tmp_path, ["a"])
