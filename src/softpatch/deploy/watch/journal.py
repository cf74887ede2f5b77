"""What a watcher has judged, in one file that everything else follows: `watch.jsonl`.

A file is judged when its line is on the disk. The tables are made of the lines, deliveries read them, and a watcher
that was killed goes on behind the last one.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from softpatch.atomic import replacing
from softpatch.deploy.watch.arrivals import Arrival
from softpatch.deploy.watch.identity_set import IdentitySet
from softpatch.deploy.watch.tables import DRIFT_COLUMNS, Tables, lines_of, write_down
from softpatch.errors import InputError
from softpatch.review.tables import TABLES, is_row

JOURNAL = "watch.jsonl"
"""The name of the file: a line that says what folder is watched, then one for each file of it that was judged."""
UNREADABLE = "unreadable"
"""The kind of a file that could not be judged; of another it is the verdict."""
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A file that was judged: its `id` (32 hexadecimal digits), name, size and time of change, when it was judged, in
    UTC, and the row of it: as `Prediction.as_dict` gives it, or its `path` and the `reason` why it cannot be read.
    `drift` is what the image told of drift, by `DRIFT_COLUMNS` but for the time; None, as nearly always, is nothing."""

    id: str
    name: str
    size: int
    mtime_ns: int
    time: str
    row: dict[str, Any]
    drift: dict[str, Any] | None = None

    @classmethod
    def of(cls, arrival: Arrival, row: dict[str, Any], time: str) -> "Entry":
        """The entry of a file that was just judged."""
        return cls(arrival.identity.hex(), arrival.name, arrival.size, arrival.mtime_ns, time, row)

    @property
    def kind(self) -> str:
        """The verdict, or "unreadable"."""
        return str(self.row.get("verdict", UNREADABLE))

    @property
    def event(self) -> dict[str, Any] | None:
        """What the image told of drift, and when, by `DRIFT_COLUMNS`; None where it told nothing."""
        return None if self.drift is None else {"time": self.time, **self.drift}


class Journal:
    """An open journal: which files are `judged`, by their identities, `counts` of each kind, and its `length` in bytes,
    of lines that are on the disk. `alarm` is the kind of that which stood when it was opened, None where none did."""

    def __init__(
        self, file: FileIO, length: int, judged: IdentitySet, counts: Counter[str], alarm: str | None, tables: Tables
    ) -> None:
        self.length, self.judged, self.counts, self.alarm = length, judged, counts, alarm
        self._file, self._tables = file, tables

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries down, then their rows into the tables. Raises `InputError` where that cannot be done."""
        data = b"".join(_entry_line(entry) for entry in entries)
        write_down(self._file, data)
        self.length += len(data)
        self.judged.add(bytes.fromhex(entry.id) for entry in entries)
        self.counts.update(entry.kind for entry in entries)
        self._tables.append(lines_of(entry.row, entry.event) for entry in entries)

    @property
    def total(self) -> int:
        """How many files were judged, without unreadable ones."""
        return self.counts.total() - self.counts[UNREADABLE]


@contextmanager
def open_journal(output: Path, folder: Path) -> Iterator[tuple[Journal, list[str]]]:
    """Open the journal in `output` of what comes into `folder`, a new one where there is none.

    What a watcher that was killed left is put in order: a last line that was cut off is taken away, and the tables are
    brought to what the journal says. Gives also sentences that a user should read. Raises `InputError` where `output`
    holds other results, or the journal of another folder, or a damaged one, and where it cannot be written.
    """
    path, watched = output / JOURNAL, os.path.abspath(folder)  # noqa: PTH100  no links are followed
    if not path.exists():
        present = [name for name in TABLES if (output / name).exists()]
        if present:
            raise InputError(f"{output} holds {present[0]} and no {JOURNAL}, so other results; choose another folder")
        with replacing(path) as temporary:
            temporary.write_bytes(_line({"softpatch_watch": _FORMAT, "folder": watched}))
    length = _beginning(path, watched)
    judged, counts, alarm = IdentitySet(), Counter[str](), None
    with Tables.following(output) as tables:
        for end, entry in entries_of(path):
            length = end
            judged.add([bytes.fromhex(entry.id)])
            counts[entry.kind] += 1
            alarm = alarm if entry.drift is None else entry.drift["alarm"]
            tables.expect(lines_of(entry.row, entry.event))
        notes = tables.settle(lines_of(entry.row, entry.event) for _, entry in entries_of(path))
        try:
            file = FileIO(path, "r+")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        with file:
            file.truncate(length)
            file.seek(length)
            yield Journal(file, length, judged, counts, alarm, tables), notes


def entries_of(path: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, Entry]]:
    """The entries of a journal from the byte `begin` to `end`, each with the byte behind it.

    The first line, which is none, and what was cut off at the end are left out. Raises `InputError` for any other line
    that is no entry, also one with the columns of another version, and where the file cannot be read.
    """
    cut = False
    try:
        with path.open("rb") as file:
            file.seek(begin)
            begin += len(file.readline()) if begin == 0 else 0
            for line in file:
                if end is not None and begin >= end:
                    return
                entry = _entry(line)
                if cut or (entry is None and not _is_cut_off(line)):
                    raise InputError(
                        f"{path} is damaged at byte {begin}, or of another version; choose another folder to begin anew"
                    )
                cut = entry is None
                begin += len(line)
                if entry is not None:
                    yield begin, entry
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _is_cut_off(line: bytes) -> bool:
    """Whether a line is as a kill or a power failure leaves the last one: without its end, or with zeros in it."""
    return not line.endswith(b"\n") or b"\0" in line


def kinds_of(path: Path, ids: Collection[str]) -> dict[str, str]:
    """The kinds of the files that have those ids, as a journal says."""
    return {entry.id: entry.kind for _, entry in entries_of(path) if entry.id in ids}


def begins_line(path: Path, place: int) -> bool:
    """Whether a line of a journal begins, or it ends, at a byte above 0."""
    with path.open("rb") as file:
        file.seek(place - 1)
        return file.read(1) == b"\n"


def _entry_line(entry: Entry) -> bytes:
    """An entry as a line, which versions of softpatch without drift can read where it has none."""
    return _line({name: value for name, value in vars(entry).items() if name != "drift" or value is not None})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _beginning(path: Path, watched: str) -> int:
    """The length of a journal's first line. Raises `InputError` where it is that of another folder, or none."""
    header: Any = None
    if not path.is_file():
        raise InputError(f"{path} is no file; move it away")
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        line = file.readline(1_000_000)
        header = json.loads(line)
    if not isinstance(header, dict) or header.get("softpatch_watch") != _FORMAT:
        raise InputError(f"{path} is no journal that this version of softpatch can continue; choose another folder")
    if header.get("folder") != watched:
        raise InputError(
            f"{path.parent} holds what came into {header.get('folder')!r}, not into {watched!r}; choose another folder"
        )
    return len(line)


def _entry(line: bytes) -> Entry | None:
    """The entry in a line, None where it is damaged or cut off."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        entry = Entry(**content)
        usable = len(bytes.fromhex(entry.id)) == 16 and isinstance(entry.time, str) and isinstance(entry.name, str)
        usable = usable and isinstance(entry.size, int) and isinstance(entry.mtime_ns, int)
        readable = is_row(entry.row) and isinstance(entry.row["path"], str)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    usable = usable and (entry.drift is None or (readable and _is_event(entry.drift)))
    return entry if usable and (readable or _is_skipped(entry.row)) else None


def _is_skipped(row: dict[str, Any]) -> bool:
    return set(row) == {"path", "reason"} and all(isinstance(text, str) for text in row.values())


def _is_event(drift: Any) -> bool:
    """Whether this is what an image told of drift: texts, of which all but the last two may be missing."""
    return (
        isinstance(drift, dict)
        and set(drift) == set(DRIFT_COLUMNS[1:])
        and all(isinstance(text, str) or text is None for text in drift.values())
        and None not in (drift["told_path"], drift["sentence"])
    )
