"""Compile functions with numba, and keep the machine code between processes.

What is kept was made on this machine by this user, as Python's own `.pyc` files are: it lies in the user's cache
folder, which nobody else may write. Where the folder or a file belongs to somebody else, is broken or cannot be read
or written, functions are compiled in memory, and nothing is said.
"""

import hashlib
import os
import pickle
import platform
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from platformdirs import user_cache_path

_FLOATS = {"reassoc", "contract", "nsz", "nnan"}  # lets sums and minima be vectorised
_DIGEST = 32  # bytes of SHA-256


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, which takes seconds, or load what an earlier process compiled."""
    dispatcher = numba.njit(nogil=True, fastmath=_FLOATS)(function)
    known = function.__module__.startswith("softpatch.") and function.__closure__ is None  # by name and `_sources`
    if known and hasattr(dispatcher, "_cache"):  # not with NUMBA_DISABLE_JIT
        dispatcher._cache = _KeptCode(f"{function.__module__}.{function.__qualname__}")
    return dispatcher


class _KeptCode(NullCache):
    """What numba asks for compiled code by signature, and gives it to: a file for each."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            target.refresh()  # initialised, as compiled code expects it
            content = _read(_folder(), self._file_name(signature, target))
            return CompileResult._rebuild(target, *pickle.loads(content))
        except Exception:  # whatever it is, the function can be compiled
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            if not result.lifted and not result.library.has_dynamic_globals:
                _write(_folder(), self._file_name(signature, result.target_context), dumps(result._reduce()))
        except Exception:
            return

    def _file_name(self, signature: Any, target: Any) -> str:
        versions = (numba.__version__, llvmlite.__version__, platform.python_version())
        made_of = (_sources(), versions, target.codegen().magic_tuple(), self._name, str(signature))
        return hashlib.sha256(repr(made_of).encode()).hexdigest()


@cache
def _sources() -> str:
    """A digest of all that kernels are made of: a function is compiled together with those that it calls."""
    files = sorted(Path(__file__).parent.parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _folder() -> Path:
    """Where compiled code is kept. Raises `OSError` where it cannot be, or where others could have put it there."""
    folder = user_cache_path("softpatch", appauthor=False) / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_own(folder.lstat(), stat.S_ISDIR)
    return folder


def _check_own(status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    """Raise `OSError` for what is of another kind, or what anybody but this user owns or can write."""
    if not is_kind(status.st_mode):
        raise OSError("compiled code is kept in files of a folder")
    if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise PermissionError("compiled code is only taken from where nobody else can write")


def _read(folder: Path, name: str) -> bytes:
    descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        _check_own(os.fstat(file.fileno()), stat.S_ISREG)
        digest, content = file.read(_DIGEST), file.read()
    if hashlib.sha256(content).digest() != digest:
        raise OSError("the file is broken")
    return content


def _write(folder: Path, name: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        try:
            file.write(hashlib.sha256(content).digest() + content)
            file.close()
            Path(file.name).replace(folder / name)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
