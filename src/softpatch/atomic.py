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
    _temporary_beside(path).unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move what was written there onto `path` when the block succeeds.

    A block that fails or is killed leaves an older file at `path` as it was. The data is on the disk before
    the name changes. Raises `InputError` where the folder cannot be made or written to.
    """
    temporary = _temporary_beside(path)
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


def _temporary_beside(path: Path) -> Path:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"cannot write {path}: it is not an ordinary file; name another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
