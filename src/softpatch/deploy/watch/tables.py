"""The tables of a watch, those of `predict` and one of drift, that follow its journal row by row."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from softpatch.data.cells import path_cell, table_cell
from softpatch.data.folder import PREDICTIONS
from softpatch.errors import InputError
from softpatch.review.tables import CSV, HEADERS, SKIPPED, TABLES, csv_line, json_line, skipped_line, table_line

DRIFT = "drift.csv"
"""The table of alarms: a line where one is told or ends."""
DRIFT_COLUMNS = ("time", "alarm", "ended", "first_path", "told_path", "sentence")
"""Its columns: when; the kind of the alarm that is told, and of the one that has ended; the image from which on, and
the one after which; and what it means."""
_WATCH_TABLES = (*TABLES, DRIFT)
Lines = dict[str, bytes]
"""What is added to which table."""
_BEGINNINGS: Lines = {name: header.encode() for name, header in HEADERS.items()}
_BEGINNINGS[DRIFT] = table_line(DRIFT_COLUMNS).encode()


def lines_of(row: dict[str, Any], event: dict[str, Any] | None = None) -> Lines:
    """What the row of a judged or of an unreadable file adds to the tables, and what it told of drift."""
    if "reason" in row:
        return {SKIPPED: _bytes(skipped_line(row["path"], row["reason"]))}
    lines = {CSV: _bytes(csv_line(row)), PREDICTIONS: _bytes(json_line(row))}
    return lines if event is None else {**lines, DRIFT: _bytes(_drift_line(event))}


def _drift_line(event: dict[str, Any]) -> str:
    cells = {name: "" if text is None else table_cell(text) for name, text in event.items()}
    paths = {name: path_cell(event[name] or "") for name in ("first_path", "told_path")}
    return table_line([{**cells, **paths}[name] for name in DRIFT_COLUMNS])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # names need not be UTF-8


def free_name(path: Path) -> Path:
    """A name beside a path that nothing has, under which what lies there can be set aside."""
    names = (path.with_name(f"{path.name}.old{number}") for number in range(1, 1_000_000))
    return next(name for name in names if not os.path.lexists(name))


class Tables:
    """Tables that are first compared with what they should hold and brought there, then appended to.

    Call `expect` with all lines in order, `settle`, and then `append` with further ones.
    """

    def __init__(self, tables: dict[str, "_Table"]) -> None:
        self._tables = tables

    @classmethod
    @contextmanager
    def following(cls, output: Path) -> Iterator["Tables"]:
        """Open the tables in a folder, new ones where there are none. Raises `InputError` where that cannot be done."""
        opened: dict[str, _Table] = {}
        try:
            for name in _WATCH_TABLES:
                opened[name] = _Table(output / name)
            tables = cls(opened)
            tables.expect(_BEGINNINGS)
            yield tables
        finally:
            for table in opened.values():
                table.file.close()

    def expect(self, lines: Lines) -> None:
        """Compare the next lines of the tables with what should stand there, and write what is missing at an end."""
        for name, line in lines.items():
            self._tables[name].expect(line)

    def settle(self, everything: Iterable[Lines]) -> list[str]:
        """Close the comparison: a table that holds anything else is set aside, and written anew of all lines.

        Gives a sentence for each such table.
        """
        changed = {name: table for name, table in self._tables.items() if table.holds_else()}
        notes = [table.set_aside() for table in changed.values()]
        for lines in (_BEGINNINGS, *everything) if changed else ():
            for name in changed.keys() & lines.keys():
                changed[name].expect(lines[name])
        for table in self._tables.values():
            write_down(table.file, b"")
        return notes

    def append(self, rows: Iterable[Lines]) -> None:
        """Add lines, which are on the disk then. Raises `InputError` where they cannot be written."""
        added: dict[str, list[bytes]] = {name: [] for name in _WATCH_TABLES}
        for lines in rows:
            for name, line in lines.items():
                added[name].append(line)
        for name, parts in added.items():
            if parts:
                write_down(self._tables[name].file, b"".join(parts))


class _Table:
    """A table that is open, and read up to where it was compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        try:
            self.file = FileIO(self.path, "a+")
            self.file.seek(0)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}; choose another folder") from error
        self._ended = self._differs = False

    def expect(self, line: bytes) -> None:
        if self._differs:
            return
        if not self._ended:
            found = self.file.read(len(line))
            self._differs = not line.startswith(found)
            if self._differs or found == line:
                return
            self.file.truncate(self.file.tell() - len(found))
            self._ended = True
        write_all(self.file, line)

    def holds_else(self) -> bool:
        return self._differs or (not self._ended and self.file.read(1) != b"")

    def set_aside(self) -> str:
        """Give the file another name and begin it anew."""
        aside = free_name(self.path)
        self.file.close()
        self.path.rename(aside)
        self._open()
        return f"{self.path} held something else than what was judged; it is {aside} now, and was written anew"


def write_all(file: FileIO, data: bytes) -> None:
    """Write bytes to a file. Raises `InputError` where that cannot be done."""
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise InputError(f"cannot write {file.name!s}: {error.strerror or error}") from error


def write_down(file: FileIO, data: bytes) -> None:
    """Write bytes to a file until they are on the disk. Raises `InputError` where that cannot be done."""
    write_all(file, data)
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"cannot write {file.name!s}: {error.strerror or error}") from error
