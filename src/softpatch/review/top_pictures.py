"""Small pictures of the images that matter most, kept while all are judged, for a page that shows them at the end."""

import base64
import hashlib
import heapq
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from softpatch.atomic import replacing
from softpatch.results import Prediction
from softpatch.review.small_pictures import small_overlay, small_picture

_SIDE = 240  # pixels of a picture, at most
_MOST_REGIONS = 5
_JPEG = "data:image/jpeg;base64,"


@dataclass(frozen=True)
class Picture:
    """What a page shows of an image: the image and the same under its heat map, as addresses that hold them.

    `regions` are the highest of its outlined regions, a list for each: left, top, right and bottom in pixels of the
    original image, area in such pixels, and peak on the anomaly map. `region_count` says how many there are in all.
    """

    image: str
    heat: str
    regions: list[list[float]]
    region_count: int


def picture_of(image: Tensor, prediction: Prediction) -> Picture:
    """Draw the image (3, height, width) in [0, 1] that a prediction is of."""
    drawn = (small_picture(image, _SIDE), small_overlay(image, prediction, _SIDE))
    small, heat = (_JPEG + base64.b64encode(each).decode() for each in drawn)
    found = prediction.regions()
    regions = [[*each.box, each.area, each.peak] for each in found[:_MOST_REGIONS]]
    return Picture(small, heat, regions, len(found))


class TopPictures:
    """Pictures of those images, at most `most`, that rank highest of all that were offered.

    They lie in a folder, so that a run that was stopped finds them again. Which they are follows from the ranks and
    paths alone, in whatever order images come.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._kept: list[tuple[float, str]] = []  # a heap, the lowest first

    def offer(self, rank: float, path: str, draw: Callable[[], Picture]) -> None:
        """Draw an image and keep its picture if it ranks high enough, in the place of the lowest."""
        if self._is_wanted(rank, path):
            with replacing(self._file(path)) as temporary:
                temporary.write_text(json.dumps(asdict(draw())), encoding="utf-8")
            self._keep(rank, path)

    def find_again(self, rank: float, path: str) -> None:
        """Keep the picture of an image that was offered before, if it is there and ranks high enough."""
        if self._is_wanted(rank, path) and _read(self._file(path)) is not None:
            self._keep(rank, path)

    def pictures(self) -> dict[str, Picture]:
        """The pictures by their images' paths, the highest first."""
        found = {path: _read(self._file(path)) for _, path in sorted(self._kept, reverse=True)}
        return {path: picture for path, picture in found.items() if picture is not None}

    def _is_wanted(self, rank: float, path: str) -> bool:
        if any(path == kept for _, kept in self._kept):
            return False
        return len(self._kept) < self._most or (rank, path) > self._kept[0]

    def _keep(self, rank: float, path: str) -> None:
        heapq.heappush(self._kept, (rank, path))
        if len(self._kept) > self._most:
            _, lowest = heapq.heappop(self._kept)
            self._file(lowest).unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"


def _read(file: Path) -> Picture | None:
    """The picture in a file; None where the file is gone or is no picture."""
    try:
        found: Any = json.loads(file.read_bytes())
        picture = Picture(**found)
        is_ours = picture.image.startswith(_JPEG) and picture.heat.startswith(_JPEG)
        sizes = {len([float(number) for number in region]) for region in picture.regions}
        return picture if is_ours and sizes <= {6} and picture.region_count >= 0 else None
    except (OSError, ValueError, RecursionError, TypeError, AttributeError):
        return None
