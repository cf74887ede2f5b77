"""Rows: flat JSON objects, one per line, each carrying its whole task."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softpatch.atomic import lock
from softpatch.bench.task import Task
from softpatch.errors import InputError

Row = dict[str, Any]

_BEGINNING = b'{"task_key": '
"""How every row begins that `row_file` added."""
_TEXTS = ("task_key", "data", "category", "method", "protocol", "backbone", "weights")
_NUMBERS = ("noise_ratio", "seed")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none where there is no file; a last line that was cut off is passed over.

    Raises `InputError` for any other line that is no row.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"cannot read the rows {path}: {error.strerror or error}") from error
    return _rows(content, path)


def _rows(content: bytes, path: Path) -> list[Row]:
    lines = content.split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and _is_cut_off(line):
                continue
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise InputError(f"{path}, line {number}, is no JSON: {reason}") from error
        problem = _problem(row)
        if problem:
            raise InputError(f"{path}, line {number}, is no row of a benchmark: {problem}")
        rows.append(row)
    return rows


def _is_cut_off(line: bytes) -> bool:
    """Whether a line, without its newline, is the beginning of a row."""
    return line.startswith(_BEGINNING) or _BEGINNING.startswith(line)


def _problem(row: Any) -> str:
    """What is wrong with the fields that every row has, or ""."""
    if not isinstance(row, dict):
        return f"it is {str(row)[:40]!r}, not a JSON object"
    wrong = {
        **{name: "text" for name in _TEXTS if not isinstance(row.get(name), str)},
        **{name: "a number" for name in _NUMBERS if not _is_number(row.get(name))},
        **{name: "text or null" for name in ("error", "maps") if not isinstance(row.get(name, ""), str | None)},
    }
    if not wrong and row.get("error") is None:
        shares = ("image_auroc", "pixel_auroc")
        wrong = {name: "a number or null" for name in shares if not _is_number(row.get(name), or_none=True)}
        wrong |= {name: "a number" for name in ("images_per_second", "threads") if not _is_number(row.get(name, 1))}
    return next((f"its {name} is {str(row.get(name))[:40]!r} and must be {kind}" for name, kind in wrong.items()), "")


def _is_number(value: object, *, or_none: bool = False) -> bool:
    if value is None:
        return or_none
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63


@contextmanager
def row_file(path: Path) -> Iterator[tuple[list[Row], Callable[[Row], None]]]:
    """Open a file of rows, a new one where there is none: the rows in it, and a function that adds one.

    A row that was added is on the disk. A last line that was cut off is taken away. Raises `InputError`, and leaves the
    file as it is, where it holds anything but rows, cannot be written, or where another process adds to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise InputError(f"cannot write the rows {path}: {error.strerror or error}") from error
    with file:
        if not lock(file):
            raise InputError(f"another run adds to the rows {path}; wait for it, or name another file")
        file.seek(0)
        content = file.read()
        rows = _rows(content, path)
        last = content[content.rfind(b"\n") + 1 :]
        if last and not _rows(last, path):
            file.truncate(len(content) - len(last))
        elif last:
            file.write(b"\n")

        def append(row: Row) -> None:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        yield rows, append


def file_stem(text: str) -> str:
    """The beginning of a file's name from text of a row: letters, digits and `.+-_` alone, and no folder.

    >>> file_stem("data/mvtec ad-x/../../y")
    'data-mvtec-ad-x-y'
    """
    words = re.sub(r"[^\w.+-]+", "-", text)
    return re.sub(r"-[.-]+", "-", f"-{words}").strip("-")[:150]


def task_key(task: Task) -> str:
    """What tells a task from any other."""
    return json.dumps(task.as_row(), sort_keys=True)


def finished(rows: Iterable[Row]) -> set[str]:
    """The keys of the tasks that have a row without an error."""
    return {row["task_key"] for row in rows if row.get("error") is None}
