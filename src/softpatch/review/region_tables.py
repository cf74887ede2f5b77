"""Regions as plain files: a line of JSON per region as images are judged, and at the end all of them in COCO format."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from softpatch.atomic import replacing
from softpatch.data.paths import path_below
from softpatch.errors import InputError
from softpatch.results import Prediction
from softpatch.review.coco import coco_annotation, coco_image, write_coco_file
from softpatch.scoring.regions import Region

REGIONS, COCO = "regions.jsonl", "regions.json"
REGION_TABLES = (REGIONS, COCO)
"""The files that `predict --regions` leaves in a folder."""
_COLUMNS = {"path", *(field.name for field in fields(Region))}


def region_lines(prediction: Prediction, min_area: int) -> str:
    """What `regions.jsonl` says of an image: a line per region of at least `min_area` pixels, highest peak first."""
    rows = ({"path": prediction.path, **region.as_dict()} for region in prediction.regions(min_area=min_area))
    return "".join(json.dumps(row) + "\n" for row in rows)


def keep_regions(folder: Path, paths: Sequence[str]) -> None:
    """Write `regions.jsonl` anew: what it has of the images at `paths`, in their order, and nothing else.

    Raises `InputError` where it holds lines that `region_lines` did not write.
    """
    lines: dict[str, list[bytes]] = defaultdict(list)
    for row, line in _rows(folder):
        lines[row["path"]].append(line)
    with replacing(folder / REGIONS) as temporary, temporary.open("wb") as file:
        for path in dict.fromkeys(paths):
            file.writelines(lines.get(path, ()))


def write_regions_as_coco(folder: Path, images: Sequence[dict[str, Any]], root: str) -> None:
    """Write `regions.json` from `regions.jsonl`: every one of the `images`, rows as `Prediction.as_dict` gives them.

    Images are named by the path below the folder `root`, with `/`. One that was judged twice is listed once.
    """
    by_path = {image["path"]: image for image in images}
    write_coco_file(
        folder / COCO,
        (coco_image(path_below(root, path), image["width"], image["height"]) for path, image in by_path.items()),
        _annotations(folder, {path: number for number, path in enumerate(by_path, start=1)}),
    )


def _annotations(folder: Path, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    known = set()
    for row, _ in _rows(folder):
        outline = row["contours"][0]
        region = row["path"], *outline[0]  # no other region has its topmost corner there
        if region not in known:
            known.add(region)
            yield coco_annotation(ids[row["path"]], row["box"], row["area"], outline, row["peak"])


def _rows(folder: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The rows of a folder's `regions.jsonl` and their lines, up to one that was cut short."""
    with suppress(FileNotFoundError), (folder / REGIONS).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not _is_region(row):
                raise InputError(
                    f"{folder / REGIONS} holds lines that this run cannot have written; remove {folder} to begin anew"
                )
            yield row, line


def _is_region(row: Any) -> bool:
    """Whether a row is one that `region_lines` may have written, as far as what is made of it goes."""
    if not isinstance(row, dict) or set(row) != _COLUMNS or not isinstance(row["path"], str):
        return False
    try:
        numbers = [*row["box"], row["area"], *(place for corner in row["contours"][0] for place in corner)]
    except (TypeError, LookupError):
        return False
    return len(row["box"]) == 4 and len(row["contours"][0]) > 3 and all(type(number) is int for number in numbers)
