"""What labelling tools export is read as people meant it."""

import json
from pathlib import Path
from typing import Any

import pytest

from softpatch.data.decisions import read_decisions
from softpatch.errors import InputError


def read(folder: Path, content: Any) -> dict[str, str]:
    (folder / "export.json").write_text(json.dumps(content))
    return dict(read_decisions(folder / "export.json"))


def coco(annotations: list[dict[str, Any]], **of_first: Any) -> dict[str, Any]:
    names = {1: "defect", 2: "Keep", 3: "reject"}
    return {
        "images": [{"id": 1, "file_name": "a.png", **of_first}, {"id": 2, "file_name": "sub/b.png"}],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": annotations,
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (coco([]), {"a.png": "keep", "sub/b.png": "keep"}),
        (coco([{"image_id": 2, "category_id": 1}]), {"a.png": "keep", "sub/b.png": "reject"}),
        (coco([{"image_id": 2, "category_id": 2}, {"image_id": 2, "category_id": 1}]), {"sub/b.png": "keep"}),
        (coco([{"image_id": 2, "category_id": 1, "attributes": {"decision": "unsure"}}]), {"sub/b.png": "unsure"}),
        (coco([{"image_id": 2, "category_id": 1}], attributes={"reject": True, "keep": False}), {"a.png": "reject"}),
    ],
)
def test_coco(tmp_path: Path, content: Any, expected: dict[str, str]) -> None:
    assert read(tmp_path, content) == expected


def task(image: str, *results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    return {"data": {"image": image}, "annotations": [{"result": list(results), **annotation}]}


def chosen(word: str) -> dict[str, Any]:
    return {"type": "choices", "value": {"choices": [word]}}


BOX = {"type": "rectanglelabels", "value": {"x": 1, "y": 2, "rectanglelabels": ["defect"]}}


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (
            [task("a.png", chosen("reject")), task("b.png", BOX, chosen("Unsure"))],
            {"a.png": "reject", "b.png": "unsure"},
        ),
        ([task("a.png", BOX), task("b.png"), task("c.png", was_cancelled=True)], {"a.png": "reject", "b.png": "keep"}),
        ([task("a.png", chosen("keep"), chosen("scratch")), task("b.png", {"type": "relation"})], {"a.png": "keep"}),
        ([{"data": {"image": "a.png"}, "annotations": []}], {}),
        ([task("/data/local-files/?d=photos%2Fgood/1%202.png")], {"photos/good/1 2.png": "keep"}),
        ([task("/data/upload/7/1a2b3c4d-1.png")], {"1.png": "keep"}),
        ([task("https://host/data/local-files/?d=x/1.png")], {"x/1.png": "keep"}),
        ([task("s3://bucket/photos/1%23.png")], {"photos/1#.png": "keep"}),
        ([task("/photos/what?.png")], {"/photos/what?.png": "keep"}),
    ],
)
def test_label_studio(tmp_path: Path, tasks: Any, expected: dict[str, str]) -> None:
    assert read(tmp_path, tasks) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco([{"image_id": 2, "category_id": 2}, {"image_id": 2, "category_id": 3}]), "both keep and reject"),
        ([task("a.png", chosen("good"))], "says 'good' of 'a.png'; a decision is keep, reject or unsure"),
        (coco([{"image_id": 9, "category_id": 1}]), "is neither COCO JSON"),
        (coco([{"image_id": 1, "category_id": 9}]), "is neither COCO JSON"),
        (coco([{"image_id": [], "category_id": 1}]), "is neither COCO JSON"),
        (coco([{"image_id": 1, "category_id": 1, "attributes": 3}]), "is neither COCO JSON"),
        ({"images": [{"id": 1, "file_name": 3}], "annotations": []}, "is neither COCO JSON"),
        ({"images": 3, "annotations": []}, "is neither COCO JSON"),
        ([{"data": {"text": "a"}, "annotations": [{"result": []}]}], "is neither COCO JSON"),
        ([{"data": {"image": "http://[a"}, "annotations": [{"result": []}]}], "is neither COCO JSON"),
        ([{"data": "a", "annotations": [{"result": [3]}]}], "is neither COCO JSON"),
    ],
)
def test_what_no_tool_exports(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)
