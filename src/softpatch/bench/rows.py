"""Rows: flat JSON objects, one per line, each carrying its whole task."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from softpatch.atomic import replacing
from softpatch.bench.task import Task
from softpatch.errors import InputError

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none where there is no file; a last line that was cut off is passed over.

    Raises `InputError` for any other line that is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the rows {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # without its newline it was not written to its end
                continue
            raise InputError(f"{path}, line {number}, is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}, is {line[:40]!r}; a row is a JSON object")
        rows.append(row)
    return rows


def mend(path: Path) -> None:
    """Take away a last line that was cut off when a run was killed."""
    if not path.exists() or path.read_bytes()[-1:] in (b"", b"\n"):
        return
    rows = read_rows(path)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def append_row(path: Path, row: Row) -> None:
    """Add a row at the end; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def task_key(task: Task) -> str:
    """What tells a task from any other."""
    return json.dumps(task.as_row(), sort_keys=True)


def finished(rows: Iterable[Row]) -> set[str]:
    """The keys of the tasks that have a row without an error."""
    return {row["task_key"] for row in rows if "task_key" in row and row.get("error") is None}
