"""Whether what comes into a watched folder has changed, told from the rows of its journal in their order.

`watch.drift` holds the test as it was some rows ago, and up to which byte of the journal that was. The rows behind it
are taken anew at every start: so none is lost or counts twice, wherever the watcher was killed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softpatch.atomic import replacing
from softpatch.deploy.watch.journal import JOURNAL, UNREADABLE, Entry, Journal, begins_line, entries_of
from softpatch.deploy.watch.tables import free_name
from softpatch.detector import Detector
from softpatch.errors import InputError
from softpatch.review.drift import PICTURE, course_of, draw_drift
from softpatch.scoring.drift import Drift

STATE = "watch.drift"
"""The name of the file that says how far the test came."""
_ENDED_WITH_TEST = "whether images change is told anew; the alarm of before has ended"
_LARGEST_STATE = 1_000_000  # bytes
_DRAWN = 1000  # of the last images at least, and twice as many at most


@dataclass(frozen=True)
class ModelIdentity:
    """What a test belongs to: the digest of a `model` file, and the `threshold` that replaces that of the model."""

    model: str
    threshold: float | None


@dataclass(frozen=True)
class Checkpoint:
    """The test as it is after the rows up to the byte `place` of the journal."""

    place: int
    drift: Drift


class WatchedDrift:
    """The test at work: its `drift` is that after the last row.

    `catch_up` with the journal first. Then for each part of it call `follow`, which gives the entries to write, and
    once they are on the disk `keep`.
    """

    def __init__(self, output: Path, identity: ModelIdentity, begin: Checkpoint) -> None:
        self.drift = begin.drift
        self._standing: str | None = None  # an alarm of the test before, which ends with the next row
        self._output, self._identity = output, identity
        self._kept = self._next = begin
        self._rows: list[dict[str, Any]] = []  # since what is kept
        self._rows_until_next = 0
        self._is_drawn = True

    def catch_up(self, entries: Iterable[tuple[int, Entry]], alarm: str | None) -> None:
        """Take account of the entries behind the checkpoint, each with the byte behind it, which are in the journal.

        `alarm` is the kind of that which stands by the journal, None where none does.
        """
        for place, entry in entries:
            self.follow([entry])
            self.keep(place)
        self._standing = alarm if self.drift.alarm is None else None
        self._is_drawn = (self._output / PICTURE).exists()

    def follow(self, entries: Sequence[Entry]) -> list[Entry]:
        """The same entries, each with what it tells of drift."""
        return [replace(entry, drift=self._told_by(entry)) for entry in entries]

    def _told_by(self, entry: Entry) -> dict[str, Any] | None:
        if entry.kind == UNREADABLE or entry.row["map_quartile"] is None:
            return None
        before = self.drift
        self.drift = before.after(entry.row["map_quartile"], is_good=entry.kind == "good")
        self._rows.append(entry.row)
        self._is_drawn = False
        change, standing, self._standing = self.drift.change_since(before), self._standing, None
        if change is not None:
            told, first = change.as_dict(), change.alarm and self._path(change.alarm.first)
        elif standing is not None:
            told, first = {"alarm": None, "ended": standing, "sentence": _ENDED_WITH_TEST}, None
        else:
            return None
        return {**told, "first_path": first, "told_path": entry.row["path"]}

    def _path(self, image: int) -> str | None:
        """The path of the image of a number, None where it came before those at hand."""
        place = image - self._kept.drift.images
        return self._rows[place]["path"] if place >= 0 else None

    def keep(self, place: int) -> None:
        """Note that all rows are in the journal, which is on the disk up to the byte `place`.

        Every thousand rows what is kept moves on, to where it was a thousand rows ago. Raises `InputError` where it
        cannot be written.
        """
        if len(self._rows) - self._rows_until_next < _DRAWN:
            return
        self._rows = self._rows[self._rows_until_next :]
        self._kept, self._next, self._rows_until_next = self._next, Checkpoint(place, self.drift), len(self._rows)
        self.write()

    def write(self) -> None:
        """Write what is kept. Raises `InputError` where that cannot be done."""
        state = {**vars(self._identity), "journal_bytes": self._kept.place, "drift": self._kept.drift.as_dict()}
        with replacing(self._output / STATE) as temporary:
            temporary.write_text(json.dumps(state) + "\n")

    def draw(self) -> None:
        """Draw the last one to two thousand images, unless that was done. Raises `InputError` where it cannot be."""
        if self._is_drawn or not self._rows:
            return
        draw_drift(self._rows, course_of(self._rows, self._kept.drift), self._output / PICTURE)
        self._is_drawn = True


def open_drift(
    output: Path, journal: Journal, detector: Detector, identity: ModelIdentity
) -> tuple[WatchedDrift | None, list[str]]:
    """Go on with the test of what this journal holds, or begin one with what is judged from now on.

    It begins anew where another model or threshold judges now, and where `watch.drift` is damaged, which is set aside.
    None is what a detector gives that does not know what is usual. Gives also sentences that a user should read. Raises
    `InputError` where `output` cannot be read or written.
    """
    try:
        usual = detector.drift()
    except InputError as error:
        forget_drift(output)
        return None, [f"whether images change is not told: {error}"]
    found, notes = _checkpoint(output, journal, identity)
    begin = found or Checkpoint(journal.length, usual)
    drift = WatchedDrift(output, identity, begin)
    if found is None:
        drift.write()
    drift.catch_up(entries_of(output / JOURNAL, begin.place, journal.length), journal.alarm)
    return drift, notes


def forget_drift(output: Path) -> None:
    """Have the next test begin anew: rows that are written without one must not count. Raises `InputError`."""
    try:
        (output / STATE).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {output / STATE}: {error.strerror or error}; move it away") from error


def _checkpoint(output: Path, journal: Journal, identity: ModelIdentity) -> tuple[Checkpoint | None, list[str]]:
    """What is kept, None where a test begins, and why."""
    path = output / STATE
    if not path.exists():
        return None, []
    found, owner = _read(path)
    anew = "whether images change is told anew, from the next image on"
    if found is not None and owner != identity:
        return None, [f"{path} is of another model or threshold; {anew}"]
    if found is not None and 0 < found.place <= journal.length and begins_line(output / JOURNAL, found.place):
        return found, []
    aside = path.rename(free_name(path))
    return None, [f"{path} was damaged, or not of this journal; it is {aside} now, and {anew}"]


def _read(path: Path) -> tuple[Checkpoint | None, ModelIdentity | None]:
    """What a file keeps, and whose that is; None where it is damaged. Raises `InputError` where it cannot be read."""
    if not path.is_file():
        raise InputError(f"cannot read {path}: it is no file; move it away")
    try:
        if path.stat().st_size > _LARGEST_STATE:
            return None, None
        state = json.loads(path.read_bytes())
        identity = ModelIdentity(state["model"], state["threshold"])
        return Checkpoint(int(state["journal_bytes"]), Drift.from_dict(state["drift"])), identity
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; move it away") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None, None
