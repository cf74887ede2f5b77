"""Small pictures of the images that matter most, kept while all are judged, for a page that shows them at the end."""

import base64
import hashlib
import heapq
import os
from collections.abc import Callable
from pathlib import Path

from softpatch.atomic import replacing

SIDE = 240
"""The most pixels that a side of a picture has."""
_NAMES = ("image.jpg", "map.jpg")

Draw = Callable[[], tuple[bytes, bytes]]
"""Gives two JPEG files: an image, and the same under its heat map (see `softpatch.review.pictures.thumbnails`)."""


class TopPictures:
    """Pictures of those images, at most `most`, that rank highest of all that were offered.

    They lie in a folder, so that a run that was stopped finds them again. Which they are follows from the ranks and
    paths alone, in whatever order images come.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._kept: list[tuple[float, str]] = []  # a heap, the lowest first

    def offer(self, rank: float, path: str, draw: Draw) -> None:
        """Draw an image and keep its pictures if it ranks high enough, in the place of the lowest."""
        if self._is_wanted(rank, path):
            for file, picture in zip(self._files(path), draw(), strict=True):
                with replacing(file) as temporary:
                    temporary.write_bytes(picture)
            self._keep(rank, path)

    def find_again(self, rank: float, path: str) -> None:
        """Keep the pictures of an image that was offered before, if they are there and it ranks high enough."""
        if self._is_wanted(rank, path) and all(file.exists() for file in self._files(path)):
            self._keep(rank, path)

    @property
    def paths(self) -> list[str]:
        """The images whose pictures are kept, the highest first."""
        return [path for _, path in sorted(self._kept, reverse=True)]

    def addresses(self, path: str) -> tuple[str, str]:
        """The two pictures of an image that is kept, as the addresses of pictures inside a page."""
        image, heat = (base64.b64encode(file.read_bytes()).decode() for file in self._files(path))
        return f"data:image/jpeg;base64,{image}", f"data:image/jpeg;base64,{heat}"

    def _is_wanted(self, rank: float, path: str) -> bool:
        if any(path == kept for _, kept in self._kept):
            return False
        return len(self._kept) < self._most or (rank, path) > self._kept[0]

    def _keep(self, rank: float, path: str) -> None:
        heapq.heappush(self._kept, (rank, path))
        if len(self._kept) > self._most:
            _, lowest = heapq.heappop(self._kept)
            for file in self._files(lowest):
                file.unlink(missing_ok=True)

    def _files(self, path: str) -> list[Path]:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        return [self._folder / f"{digest}-{name}" for name in _NAMES]
