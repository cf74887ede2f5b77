"""Image files that clients send, on disk while they are judged: so they meet the reader of all image files."""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import BinaryIO

from softpatch.atomic import remove_leftovers, temporary_prefix
from softpatch.data.images import ImageRef, file_ref
from softpatch.errors import InputError
from softpatch.review.page import visible_text

MOST_IMAGES = 100
"""So many images a request may have."""
_NAMELESS = (".tga", ".dib")  # formats that only a suffix tells
_LONGEST_NAME = 100


class Uploads:
    """A folder of its own for what is being judged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def keep(self, content: BinaryIO, name: str) -> ImageRef:
        """Write an image file and name it as its client does. Raises `InputError` where the disk does not take it."""
        suffix = Path(name).suffix.lower()
        path = self._folder / f"upload-{next(self._numbers)}{suffix if suffix in _NAMELESS else ''}"
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise InputError(f"an image could not be kept: {error.strerror}") from error
        ref = file_ref(path)
        return ImageRef(client_name(name), ref.load, path)

    def path(self, suffix: str) -> Path:
        """A path in the folder that nothing else has."""
        return self._folder / f"answer-{next(self._numbers)}{suffix}"

    @staticmethod
    def forget(refs: list[ImageRef]) -> None:
        """Remove the files of images."""
        for ref in refs:
            if ref.path is not None:
                with suppress(OSError):
                    ref.path.unlink(missing_ok=True)


@contextmanager
def uploads() -> Iterator[Uploads]:
    """A folder for uploads, which goes with the block; what killed servers left behind goes now."""
    remove_leftovers(Path(gettempdir()))
    with TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as folder:
        yield Uploads(Path(folder))


def client_name(name: str) -> str:
    """A file's name as its client gave it, without folders, on one line and short.

    >>> client_name("../line 3/C:\\\\photos\\\\0417.png")
    '0417.png'
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return visible_text(last.encode("utf-8", errors="replace").decode())[-_LONGEST_NAME:] or "image"
