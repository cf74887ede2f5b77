"""Write a file whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softpatch.errors import InputError


def check_can_write(path: Path) -> None:
    """Raise `InputError` where a file cannot be written at `path`, before long work is done for it."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    path = _target(path)
    folder = next(parent for parent in path.parents if parent.exists())  # what is missing below it is made later
    _temporary_in(folder, path).unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move what was written there onto `path` when the block succeeds.

    A block that fails or is killed leaves an older file at `path` as it was. The data is on the disk before
    the name changes. A link keeps pointing where it points; the file there is replaced. Raises `InputError` where the
    folder cannot be made or written to.
    """
    path = _target(path)
    temporary = _temporary_in(path.parent, path)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; the result is an ordinary one
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def _target(path: Path) -> Path:
    """Where a file written to `path` really lies, links followed."""
    try:
        target = path.resolve()
        if target.exists() and not target.is_file() and not target.is_dir():
            raise InputError(f"cannot write {path}: it is not an ordinary file; name another")
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError up to Python 3.12
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write {path}: {reason}; name another file") from error
    return target


def _temporary_in(folder: Path, path: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".softpatch-", suffix=path.suffix, dir=folder)
        os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
