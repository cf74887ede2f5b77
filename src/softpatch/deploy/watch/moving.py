"""Judged files are moved out of the folder they came into, never over another file."""

import errno
import os
import shutil
from filecmp import cmp
from itertools import chain
from pathlib import Path

from softpatch.atomic import replacing


def move_file(source: Path, target: Path) -> Path:
    """Move a file to `target`, or beside it under a name with a number where another file lies there.

    Gives where it is now. Between file systems it is copied, whole or not at all; where a copy of it lies there
    already, with its time, as a move that was killed leaves it, only the source is removed. Links move as links. Raises
    `OSError` and `InputError` where that cannot be done, and leaves the source then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    others = (target.with_stem(f"{target.stem}-{number}") for number in range(2, 10_000))
    for place in chain([target], others):
        if not os.path.lexists(place):
            _move(source, place)
            return place
        if _is_copy(source, place):
            source.unlink()
            return place
    raise FileExistsError(errno.EEXIST, "ten thousand files of that name are there", str(target))


def _is_copy(source: Path, place: Path) -> bool:
    if source.is_symlink() or place.is_symlink() or not place.is_file() or source.samefile(place):
        return False
    one, other = source.stat(), place.stat()
    is_alike = (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
    return is_alike and cmp(source, place, shallow=False)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if source.is_symlink():  # what it leads to is not ours to copy
            target.symlink_to(source.readlink())
        else:
            with replacing(target) as temporary:
                shutil.copy2(source, temporary)
        source.unlink()
