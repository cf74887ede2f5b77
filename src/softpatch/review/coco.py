"""Outlined regions in COCO format, which labelling tools and dataset browsers import.

Regions are polygons, the outer boundary alone: CVAT, Label Studio and FiftyOne import these, while run lengths are
refused by one and become crowds, which cannot be edited, in another. Holes are filled.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from softpatch.atomic import replacing

CATEGORY = "defect"


def coco_image(number: int, file_name: str, width: int, height: int) -> dict[str, Any]:
    """An image of a COCO file; `number` is its id."""
    return {"id": number, "file_name": file_name, "width": width, "height": height}


def coco_annotation(
    number: int, image: int, box: Sequence[int], area: int, outline: Sequence[Sequence[int]], score: float
) -> dict[str, Any]:
    """A region of the image with the id `image`: its `box` (left, top, right, bottom) and `outline`, corners (x, y)."""
    left, top, right, bottom = box
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": area,
        "segmentation": [[place for corner in outline for place in corner]],
        "iscrowd": 0,
        "score": score,
    }


def write_coco(path: Path, images: Iterable[Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]]) -> None:
    """Write images and annotations as they come, a line each, with the one category "defect"."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "regions outlined by softpatch"},\n"licenses": [],\n')
        file.write(f'"categories": [{{"id": 1, "name": "{CATEGORY}", "supercategory": ""}}],\n"images": [')
        _write_lines(images, file)
        file.write('],\n"annotations": [')
        _write_lines(annotations, file)
        file.write("]}\n")


def _write_lines(items: Iterable[Mapping[str, Any]], file: TextIO) -> None:
    for number, item in enumerate(items):
        file.write(",\n" if number else "\n")
        json.dump(item, file)
