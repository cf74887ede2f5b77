"""Write a file whole or not at all, leave nothing behind, and keep other processes from writing to it."""

import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from softpatch.errors import InputError

try:
    import fcntl
except ImportError:  # on Windows, where nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

_HOST = re.sub(r"\W", "", socket.gethostname())[:20] or "host"
_TEMPORARY = re.compile(r"\.softpatch-(?P<host>\w+)-(?P<process>\d+)-")


def temporary_prefix() -> str:
    """How the names of this process's temporary files and folders begin: `.softpatch-HOST-PROCESS-`."""
    return f".softpatch-{_HOST}-{os.getpid()}-"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes of this computer left in a folder."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _TEMPORARY.match(path.name)
            if match and match["host"] == _HOST and not _is_running(int(match["process"])):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def check_can_write(path: Path) -> None:
    """Raise `InputError` where a file cannot be written at `path`, before long work is done for it.

    What killed runs left beside it is removed.
    """
    if _is_folder(path):
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    path = _target(path)
    folder = next(parent for parent in path.parents if parent.exists())  # what is missing below it is made later
    remove_leftovers(folder)
    _temporary_in(folder, path).unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move what was written there onto `path` when the block succeeds.

    A block that fails or is killed leaves an older file at `path` as it was. The data is on the disk before
    the name changes. A link keeps pointing where it points; the file there is replaced, and the new one may be read by
    whom the older could be read by. Raises `InputError` where the folder cannot be made or written to.
    """
    path = _target(path)
    temporary = _temporary_in(path.parent, path)
    try:
        yield temporary
        temporary.chmod(_mode(path))  # mkstemp makes private files
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def move_together(source: Path, names: Sequence[Path], folder: Path, obsolete: Sequence[Path] = ()) -> None:
    """Move files of the given relative names from `source` into `folder`, and take away `obsolete` ones there.

    Files that stand where one moves to are replaced. Where any cannot be, all stay as they were, and `InputError` is
    raised; a name that `source` has not is passed over, so that a move that was killed can be finished. What was
    replaced lies in a hidden folder of `source` until that is removed.
    """
    old = source / ".old"
    moved: list[tuple[Path, Path | None, Path | None]] = []
    target = folder
    try:
        old.mkdir(exist_ok=True)
        present = [name for name in names if (source / name).exists()]
        for name, new in [*((name, source / name) for name in present), *((name, None) for name in obsolete)]:
            target = _target(folder / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = old / str(len(moved)) if target.exists() else None
            if kept is not None:
                if target.is_dir():
                    raise InputError(f"cannot write {target}: it is a folder; move it away")
                target.replace(kept)
            moved.append((target, kept, new))
            if new is not None:
                new.replace(target)
    except BaseException as error:
        for target_of, kept, new in reversed(moved):
            with suppress(OSError):
                if new is not None and not new.exists():
                    target_of.replace(new)
                if kept is not None:
                    kept.replace(target_of)
        if isinstance(error, OSError):
            raise _refusal(target, error) from error
        raise
    for name in obsolete:
        for parent in [*name.parents][:-1]:
            with suppress(OSError):
                (folder / parent).rmdir()  # where nothing is left in it


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process, until it is closed; false where another process holds the lock.

    Where a system or a file system has no locks, nothing keeps others out.
    """
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _target(path: Path) -> Path:
    """Where a file written to `path` really lies, links followed."""
    try:
        target = path.resolve()
        if target.exists() and not target.is_file() and not target.is_dir():
            raise InputError(f"cannot write {path}: it is not an ordinary file; name another")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links is a RuntimeError up to Python 3.12
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write {path}: {reason}; name another file") from error
    return target


def _is_folder(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def _temporary_in(folder: Path, path: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=path.suffix, dir=folder)
        os.close(handle)
    except OSError as error:
        raise _refusal(path, error) from error
    return Path(name)


def _refusal(path: Path, error: OSError) -> InputError:
    """The error for a folder that cannot be made or written to."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return InputError(f"cannot write {path}: {error.filename} is a file; name a folder, or move the file away")
    return InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to")


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those of an ordinary new one."""
    with suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
