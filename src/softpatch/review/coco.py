"""Outlined regions in COCO format, which labelling tools and dataset browsers import.

Regions are polygons, the outer boundary alone: CVAT, Label Studio and FiftyOne import these, while run lengths are
refused by one and become crowds, which cannot be edited, in another. Holes are filled.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from softpatch.atomic import replacing


def coco_image(file_name: str, width: int, height: int) -> dict[str, Any]:
    """An image of a COCO file, but for its id."""
    return {"file_name": file_name, "width": width, "height": height}


def coco_annotation(
    image: int, box: Sequence[int], area: int, outline: Sequence[Sequence[int]], score: float
) -> dict[str, Any]:
    """A region of the image with the id `image`, but for its own id.

    `box` is left, top, right and bottom, and `outline` the corners (x, y) of the polygon around it.
    """
    left, top, right, bottom = box
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": area,
        "segmentation": [[place for corner in outline for place in corner]],
        "iscrowd": 0,
        "score": score,
    }


def write_coco_file(path: Path, images: Iterable[dict[str, Any]], annotations: Iterable[dict[str, Any]]) -> None:
    """Write images and annotations, a line each and as they come, with ids from 1 on and the one category "defect"."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "regions outlined by softpatch"},\n"licenses": [],\n')
        file.write('"categories": [{"id": 1, "name": "defect", "supercategory": ""}],\n"images": [')
        _write_lines(images, file)
        file.write('],\n"annotations": [')
        _write_lines(annotations, file)
        file.write("]}\n")


def _write_lines(items: Iterable[dict[str, Any]], file: TextIO) -> None:
    for number, item in enumerate(items, start=1):
        file.write(",\n" if number > 1 else "\n")
        json.dump({"id": number, **item}, file)
