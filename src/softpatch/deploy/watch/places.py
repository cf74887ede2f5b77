"""The folders of a watch: which may not lie in which, and that no other watcher writes to them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softpatch.atomic import lock
from softpatch.data.paths import is_file
from softpatch.errors import InputError

LOCK = "watch.lock"
"""What a watcher holds in a folder that it writes to, as long as it runs."""


def check_places(folder: Path, output: Path, move: Path | None) -> None:
    """Raise `InputError` where `folder` is none, or where what is written would be judged in turn."""
    if is_file(folder):
        raise InputError(f"{folder} is a file; give the folder that images are put into")
    if _is_within(output, folder) and _is_within(folder, output):
        raise InputError(f"results would lie among the images of {folder}; give another folder as `output`")
    for name in ("maps", "overlays"):
        if _is_within(folder, output / name):
            raise InputError(f"{folder} is where {name} are written to; give another folder as `output`")
    if move is not None and _is_within(folder, move):
        raise InputError(f"{folder} lies in {move}, where images are moved to; give another folder as `move`")


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a path is that of a folder or of something in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


@contextmanager
def sole_watcher(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other watchers out of it while the block runs.

    Raises `InputError` where another is at work there, and for a folder that cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    with file:
        if not lock(file):
            raise InputError(f"another watcher writes to {folder}; stop it, or choose another folder")
        yield
