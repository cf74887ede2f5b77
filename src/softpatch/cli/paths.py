"""The paths that a command is given: as they are, in a list, on standard input, or by a pattern."""

import os
import sys
from glob import glob
from pathlib import Path

from softpatch.errors import InputError


def given_paths(arguments: list[str]) -> list[str]:
    """Name what the arguments stand for, in order.

    `@list.txt` is a text file with a path per line, and `-` is standard input with the same; paths in them are taken
    from the current folder, and empty lines passed over. A pattern such as `new/*.png` that the shell left as it is
    becomes the files that match, in order of their names. A file that has such a name is itself.

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
        elif any(sign in argument for sign in "*?["):
            found = sorted(glob(argument, recursive=True))  # noqa: PTH207  keeps a leading ./
            if not found:
                raise InputError(f"no file matches {argument!r}, a pattern that the shell left as it is; give a folder")
            paths += found
        else:
            paths.append(argument)
    return paths


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
