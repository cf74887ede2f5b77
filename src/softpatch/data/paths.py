"""Paths that a user names: whether anything is there, told before anything slow is imported, and what they share."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from softpatch.errors import InputError, ModelFileError, WeightsError


def is_file(path: Path) -> bool:
    """Whether there is a file at `path`, or a folder. Raises `InputError` where neither is, or cannot be read."""
    try:
        if path.is_file():
            return True
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; give an image file or a folder") from error
    if not is_folder:
        raise InputError(f"{path} does not exist; give an image file or a folder of images")
    return False


def check_model_exists(path: Path) -> None:
    """Raise `ModelFileError` where no file lies at `path`."""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is cut short or not a model file ({error}); copy it again or fit anew") from error
    if is_folder:
        raise ModelFileError(f"{path} is a folder; first comes the model file that `softpatch fit` wrote, then images")
    if not is_file:
        raise ModelFileError(f"{path} does not exist; give a model file that `softpatch fit` wrote")


def check_weights_file(path: Path) -> None:
    """Raise `WeightsError` where there is no file of weights."""
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        raise WeightsError(f"weights file {path} does not exist; give a .safetensors file or a torch state dict")


def shared_folder(paths: Iterable[str | Path]) -> str:
    """The absolute path of the folder that files have in common, no links being followed."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120  no ".."


def path_below(folder: str, path: str | Path) -> str:
    """The path of a file from a folder on, with `/` on every system."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def holds_record(path: Path, names: set[str], largest: int = 1_000_000) -> bool:
    """Whether a file is a JSON object that has these names; one of more than `largest` bytes is not."""
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= largest else None
    except (OSError, ValueError, RecursionError):
        found = None
    return isinstance(found, dict) and names <= found.keys()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
