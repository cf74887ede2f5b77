"""What the page of an audit is made of: its data, its pictures, and the files beside it."""

import base64
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from softpatch.data.cells import path_cell
from softpatch.errors import ImageError, InputError
from softpatch.review import audit_page
from softpatch.review.audit_page import PAGE, audit_id, write_audit_page
from softpatch.review.groups import ImageGroup
from softpatch.review.small_pictures import crop_around, crop_picture, small_heat, small_picture

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from audit_page import made_up_audit, one_picture, prediction

NAMES = ["a.png", "b.png", "c.png", "d.png"]
AUDIT = made_up_audit(NAMES, anomalous=2)


def data_of(folder: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', (folder / PAGE).read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


def pixels_of(address: str, folder: Path) -> np.ndarray:
    kind, _, content = address.partition(";base64,")
    data = base64.b64decode(content) if kind.startswith("data:image/") else (folder / address).read_bytes()
    return np.asarray(Image.open(io.BytesIO(data)))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_data_are_those_of_the_audit(tmp_path: Path) -> None:
    audit = replace(AUDIT, groups=(ImageGroup("variant", (1, 2), "2 images differ alike"),))
    write_audit_page(audit, tmp_path / "new" / "audit", one_picture)
    data = data_of(tmp_path / "new" / "audit")
    assert [image["key"] for image in data["images"]] == NAMES
    assert [image["evidence"] for image in data["images"]] == [image.evidence for image in audit.images]
    assert data["images"][0]["regions"][0]["box"] == [16, 16, 32, 32]
    assert data["images"][1]["regions"][0]["agreeing"] == 1
    assert data["images"][2]["regions"] == []
    assert data["groups"] == [
        {
            "kind": "variant",
            "title": "A variant of the product",
            "evidence": "2 images differ alike",
            "images": [1, 2],
        }
    ]
    assert data["hypotheses"]["weights"] == audit.hypotheses.weights.tolist()


def test_paths_are_shown_below_the_folder_that_all_share(tmp_path: Path) -> None:
    names = [f"/photos/line 3/{name}" for name in ("a/1.png", "a/2.png", "line 3.png")]
    write_audit_page(made_up_audit(names, anomalous=1), tmp_path, one_picture)
    images = data_of(tmp_path)["images"]
    assert [image["path"] for image in images] == ["a/1.png", "a/2.png", "line 3.png"]
    assert [image["key"] for image in images] == names
    assert images[0]["regions"][0]["counterpart"] == "line 3.png"
    assert "images of <bdi" in (page := (tmp_path / PAGE).read_text())
    assert ">/photos/line 3</bdi>" in page
    write_audit_page(made_up_audit(["/a/1.png", "b/2.png"], anomalous=1), tmp_path, one_picture)  # no folder in common
    assert [image["path"] for image in data_of(tmp_path)["images"]] == ["/a/1.png", "b/2.png"]


def test_every_kind_of_group_has_words() -> None:
    assert audit_page._KINDS.keys() == set(ImageGroup.__annotations__["kind"].__args__)


def test_pictures_of_few_images_are_inside(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    write_audit_page(AUDIT, tmp_path, one_picture, progress=lambda *each: seen.append(each))
    assert seen[-1] == ("draw", 4, 4)
    crops = [f"crops/0000{number}-1{kind}.jpg" for number in (1, 2) for kind in ("", "-counterpart")]
    assert files_in(tmp_path) == {PAGE, *crops}
    image = data_of(tmp_path)["images"][0]
    for name in ("thumbnail", "picture"):
        assert pixels_of(image[name], tmp_path).shape == (64, 64, 3)
    assert pixels_of(image["heat"], tmp_path)[20, 20, 3] > 100
    assert "heat" not in data_of(tmp_path)["images"][3]


def test_pictures_of_many_images_lie_beside_the_page_and_take_the_place_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_page, "MOST_INSIDE", 2)
    monkeypatch.setattr(audit_page, "_ALWAYS_LARGE", 1)
    more = made_up_audit([*NAMES, "e.png"], anomalous=2)
    write_audit_page(more, tmp_path, one_picture)
    assert len([name for name in files_in(tmp_path) if name.startswith("thumbnails/")]) == 7  # two of them heat maps
    (tmp_path / "thumbnails/mine.jpg").write_text("of the user")
    write_audit_page(AUDIT, tmp_path, one_picture)
    found = files_in(tmp_path)
    assert "thumbnails/00005.jpg" not in found
    assert {"thumbnails/mine.jpg", "thumbnails/00004.jpg", "pictures/00001.jpg"} <= found
    assert "pictures/00004.jpg" not in found  # nobody suspects it
    image = data_of(tmp_path)["images"][0]
    assert image["thumbnail"] == "thumbnails/00001.jpg"
    assert pixels_of(image["thumbnail"], tmp_path).shape == (64, 64, 3)
    assert not [name for name in found if name.startswith(".")]


def test_a_page_that_cannot_be_finished_leaves_the_earlier_one(tmp_path: Path) -> None:
    write_audit_page(AUDIT, tmp_path, one_picture)
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}

    def stopped(path: str) -> Tensor:
        if path == "c.png":
            raise KeyboardInterrupt
        return torch.zeros(3, 64, 64)

    with pytest.raises(KeyboardInterrupt):
        write_audit_page(AUDIT, tmp_path, stopped)
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before


def test_an_image_that_cannot_be_read_any_more_has_no_picture(tmp_path: Path) -> None:
    def read(path: str) -> Tensor:
        if path in ("b.png", "d.png"):  # the last is everybody's counterpart
            raise ImageError(f"{path} is gone")
        return one_picture(path)

    write_audit_page(AUDIT, tmp_path, read)
    first, second, *_ = data_of(tmp_path)["images"]
    assert second["key"] == "b.png"
    assert "thumbnail" not in second
    assert "crop" in first["regions"][0]
    assert "like" not in first["regions"][0]
    assert first["regions"][0]["counterpart"] == "d.png"


def test_an_image_that_shrank_meanwhile_does_no_harm(tmp_path: Path) -> None:
    write_audit_page(AUDIT, tmp_path, lambda _: torch.rand(3, 5, 2))
    assert pixels_of(data_of(tmp_path)["images"][0]["regions"][0]["crop"], tmp_path).shape == (5, 2, 3)


def test_what_cannot_be_shown_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no images to show"):
        write_audit_page(replace(AUDIT, images=()), tmp_path, one_picture)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file.*choose a folder"):
        write_audit_page(AUDIT, tmp_path / "file", one_picture)
    (tmp_path / "out" / PAGE).mkdir(parents=True)
    with pytest.raises(InputError, match="it is a folder; move it away"):
        write_audit_page(AUDIT, tmp_path / "out", one_picture)
    assert files_in(tmp_path) == {"file"}


def test_an_audit_is_told_from_others_by_paths_and_scores() -> None:
    again = made_up_audit(NAMES, anomalous=2)
    assert audit_id(again) == audit_id(AUDIT)
    first = replace(AUDIT.images[0], prediction=replace(AUDIT.images[0].prediction, image_score=9.0))
    others = [
        made_up_audit([*NAMES[:3], "\udcff"], anomalous=2),
        replace(AUDIT, images=(first, *AUDIT.images[1:])),
        replace(AUDIT, images=AUDIT.images[:3]),
        replace(AUDIT, decisions={"a.png": "keep"}),
    ]
    assert len({audit_id(each) for each in (AUDIT, *others)}) == 5


def test_a_threshold_of_zero_has_no_multiples(tmp_path: Path) -> None:
    first = replace(AUDIT.images[0], prediction=replace(AUDIT.images[0].prediction, threshold=0.0))
    write_audit_page(replace(AUDIT, images=(first, *AUDIT.images[1:])), tmp_path, one_picture)
    assert data_of(tmp_path)["images"][0]["margin"] is None


def test_names_are_harmless_in_tables() -> None:
    found = [path_cell(name) for name in ("a.png", "=1.png", os.fsdecode(b"\xff.png"))]
    assert found == ["a.png", "./=1.png", "\\udcff.png"]


def test_crops_of_a_region_and_its_counterpart_have_one_scale() -> None:
    region, patch = (100, 40, 150, 60), (300, 290, 310, 300)
    assert crop_around(region, region, 400, 300) == (85, 10, 165, 90)  # 1.6 times 50 pixels
    assert crop_around(patch, region, 400, 300) == (265, 220, 345, 300)  # moved in from the border
    assert crop_around((1, 1, 3, 3), (1, 1, 3, 3), 1000, 600) == (0, 0, 48, 48)  # 8 % of the shorter side
    assert crop_around((0, 0, 900, 8), (0, 0, 900, 8), 1000, 10) == (0, 0, 1000, 10)  # a strip
    image = torch.rand(3, 10, 1000)
    assert Image.open(io.BytesIO(crop_picture(image, (0, 0, 1000, 10)))).size == (192, 2)


@pytest.mark.parametrize(("width", "height", "size"), [(1000, 500, (180, 90)), (20, 30, (20, 30)), (4000, 2, (180, 1))])
def test_small_pictures_keep_their_shape(width: int, height: int, size: tuple[int, int]) -> None:
    image = torch.full((3, height, width), 0.5)
    picture = Image.open(io.BytesIO(small_picture(image, 180)))
    assert picture.size == size
    assert np.abs(np.asarray(picture).astype(int) - 128).max() <= 2


def test_the_heat_map_is_laid_over_the_whole_image_where_the_crop_is() -> None:
    heat = np.zeros((32, 32), dtype=np.float32)
    heat[:8] = 2  # the upper quarter
    answer = replace(prediction("a.png", 3.0, heat, 64), width=300, height=600)
    found = small_heat(answer)
    assert found
    layer = np.asarray(Image.open(io.BytesIO(found)))
    assert layer.shape == (112, 56, 4)
    assert layer[5, :, 3].min() > 100
    assert layer[60:, :, 3].max() == 0
    assert small_heat(replace(answer, anomaly_map=0 * heat)) is None
