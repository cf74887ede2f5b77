"""What a command is given: paths as they are, in a list, on standard input or by a pattern; a model; weights.

Whether it is there is told before anything slow is imported.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from softpatch.config import PRETRAINED, RANDOM, Runtime
from softpatch.data.paths import check_model_exists, check_weights_file, file_digest, is_file
from softpatch.errors import InputError, ModelFileError
from softpatch.progress import Progress

if TYPE_CHECKING:
    from softpatch.estimator import SoftPatch


def given_paths(arguments: list[str], *, of_files: bool = True) -> list[str]:
    """Name what the arguments stand for, in order.

    `@list.txt` is a text file with a path per line, and `-` is standard input with the same; paths in them are taken
    from the current folder, and empty lines passed over. A pattern such as `new/*.png` that the shell left as it is
    becomes the files that match, in order of their names, unless what is named need not be there as `of_files`. A file
    that has such a name is itself.

    Raises `InputError` for a list that cannot be read or names nothing, and a pattern that no file matches.
    """
    paths: list[str] = []
    for argument in arguments:
        if argument == "-":
            paths += _lines(sys.stdin.buffer.read(), "standard input")
        elif os.path.lexists(argument):
            paths.append(argument)
        elif argument.startswith("@"):
            paths += _list_file(argument[1:])
        elif of_files and any(sign in argument for sign in "*?["):
            found = sorted(glob(argument, recursive=True))  # noqa: PTH207  keeps a leading ./
            if not found:
                raise InputError(f"no file matches {argument!r}, a pattern that the shell left as it is; give a folder")
            paths += found
        else:
            paths.append(argument)
    return paths


def check_given(
    *, model: Path | None = None, weights: str | None = None, images: Iterable[str | Path | None] = ()
) -> None:
    """Raise an error where nothing is at a path of a model, of weights or of images that was given."""
    if model is not None:
        check_model_exists(model)
    if weights not in (None, "", PRETRAINED, RANDOM):
        check_weights_file(Path(weights))
    for path in images:
        if path:
            is_file(Path(path))


def load_model(model: Path, weights: str | None, runtime: Runtime, progress: Progress) -> "SoftPatch":
    """Load a model file as all commands do; `weights` are those of its backbone, None for where they were at fit."""
    from softpatch.estimator import SoftPatch

    return SoftPatch.load(model, weights=weights, **asdict(runtime), progress=progress)


def load_with_digest(model: Path, weights: str | None, runtime: Runtime, progress: Progress) -> tuple["SoftPatch", str]:
    """Load a model file, and give its digest too. Raises `ModelFileError` where it was replaced meanwhile."""
    digest = file_digest(model)
    estimator = load_model(model, weights, runtime, progress)
    if not model.is_file() or file_digest(model) != digest:
        raise ModelFileError(f"{model} was replaced while it was loaded; start again")
    return estimator, digest


def _list_file(name: str) -> list[str]:
    try:
        content = Path(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the list {name!r} cannot be read ({reason}); @ is followed by a file of paths") from error
    return _lines(content, f"the list {name!r}")


def _lines(content: bytes, source: str) -> list[str]:
    lines = [os.fsdecode(line.strip(b"\r")) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    paths = [line for line in lines if line.strip()]
    if not paths:
        raise InputError(f"{source} names no image; it must hold a path per line")
    if any("\0" in path for path in paths):
        raise InputError(f"{source} is not text; it must hold a path per line")
    return paths
