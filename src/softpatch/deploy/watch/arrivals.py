"""Which files in a folder are complete and not judged yet, by looking at it again and again.

Looking works where no system tells of changes, such as on network shares. A file that was judged and still lies there
costs its place in the listing, and now and then one look at its size and time.
"""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from softpatch.data.folder import PREDICTIONS, is_photograph, kind_of_other_folder

TEMPORARY_SUFFIXES = (".part", ".partial", ".filepart", ".tmp", ".temp")
"""What names of files end in that are being written; so do those with `~`, and others begin with a dot or `~`."""
_RETRIES = 3  # of a file that cannot be read
_SHORTEST_WAIT = 0.1  # seconds until the first of them; each waits twice as long as the one before
_LOOKED_AT_AGAIN = 500  # judged files whose size and time are asked for at each look


class Arrival(NamedTuple):
    """A file as it was seen: its `name` below the folder, divided by `/`, and what changes when it is written."""

    name: str
    size: int
    mtime_ns: int
    inode: int

    @property
    def identity(self) -> bytes:
        """What is judged once, 16 bytes: a name with a size and a time of change.

        Not a digest of the content, for which every file would be read twice, on a network share over the network.
        """
        text = f"{self.name}\0{self.size}\0{self.mtime_ns}"
        return blake2b(os.fsencode(text), digest_size=16).digest()

    @property
    def state(self) -> tuple[int, int, int]:
        """As `softpatch.review.outputs.file_state` gives it."""
        return self.mtime_ns, self.size, self.inode


class Look(NamedTuple):
    """What a look at the folder found: files that are `complete`, the oldest first, and those `judged` before that
    were not seen there at the last look."""

    complete: list[Arrival]
    judged: list[Arrival]


@dataclass
class _Waiting:
    arrival: Arrival
    since: float
    failures: int = 0
    not_before: float = 0.0


class Arrivals:
    """What is known of a folder from one look to the next.

    A file is complete when its size and time were the same for `settle` seconds; 0 trusts that whatever has a name of
    its own is. `is_judged` tells by its identity whether a file needs no more attention; what lies in the folders
    `leave_out` is passed over, as are temporary names and what `softpatch.data.folder` knows to hold no photographs.
    """

    def __init__(
        self, folder: Path, is_judged: Callable[[bytes], bool], *, settle: float, leave_out: Collection[Path] = ()
    ) -> None:
        self._folder, self._is_judged, self._settle = folder, is_judged, settle
        self._leave_out = {os.path.realpath(path) for path in leave_out}
        self._waiting: dict[str, _Waiting] = {}
        self._quiet: set[int] = set()  # judged files that lie there, by name and inode
        self._others: set[bytes] = set()  # identities of files that are no photographs
        self._looks = 0

    @property
    def waiting(self) -> int:
        """How many files are there that are not judged."""
        return len(self._waiting)

    def look(self, now: float) -> Look:
        """Look at the folder, `now` seconds after some beginning. Raises `OSError` where it cannot be listed."""
        quiet: set[int] = set()
        waiting: dict[str, _Waiting] = {}
        judged: list[Arrival] = []
        self._looks += 1
        rounds = len(self._quiet) // _LOOKED_AT_AGAIN + 1
        for name, entry in _files(self._folder, self._leave_out):
            key = hash((name, entry.inode()))  # which a listing tells, and which is another when a file is replaced
            is_quiet = key in self._quiet
            if is_quiet and (key + self._looks) % rounds:
                quiet.add(key)
                continue
            try:
                found = entry.stat()
            except OSError:  # gone again
                continue
            arrival = Arrival(name, found.st_size, found.st_mtime_ns, found.st_ino)
            identity = arrival.identity
            if identity in self._others or self._is_judged(identity):
                quiet.add(key)
                if not is_quiet and identity not in self._others:
                    judged.append(arrival)
                continue
            before = self._waiting.get(name)
            waiting[name] = before if before and before.arrival == arrival else _Waiting(arrival, now)
        self._quiet, self._waiting = quiet, waiting
        return Look(self._complete(now), judged)

    def _complete(self, now: float) -> list[Arrival]:
        ready = [
            each.arrival for each in self._waiting.values() if now >= max(each.since + self._settle, each.not_before)
        ]
        complete = []
        for arrival in sorted(ready, key=lambda each: (each.mtime_ns, each.name)):
            if is_photograph(self._folder / arrival.name):
                complete.append(arrival)
            else:
                self._others.add(arrival.identity)
                del self._waiting[arrival.name]
        return complete

    def done(self, arrival: Arrival) -> None:
        """Note that a file waits no more."""
        self._waiting.pop(arrival.name, None)

    def try_later(self, arrival: Arrival, now: float) -> bool:
        """Note that a file could not be read, which may be still written; False where that was tried often enough."""
        each = self._waiting.get(arrival.name)
        if each is None or each.failures >= _RETRIES:
            return False
        each.not_before = now + max(self._settle, _SHORTEST_WAIT) * 2**each.failures
        each.failures += 1
        return True


def _files(folder: Path, leave_out: Collection[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below a folder that may be photographs, each with its name from there.

    Real folders are entered first, then those that links lead to, each once. One that cannot be listed is passed over
    until it can. Raises `OSError` where the folder itself cannot.
    """
    entered: set[str] = set()
    above = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    real: list[tuple[str, str]] = [("", str(folder))]
    linked: list[tuple[str, str]] = []
    while real or linked:
        prefix, path = real.pop() if real else linked.pop()
        place = os.path.realpath(path)
        if place in entered or place in above or (place in leave_out and prefix):
            continue
        entered.add(place)
        try:
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError:
            if not prefix:
                raise
            continue
        has_results = any(entry.name == PREDICTIONS for entry in entries)
        for entry in entries:
            if _is_folder(entry):
                if not kind_of_other_folder(entry.name, has_results=has_results):
                    (linked if entry.is_symlink() else real).append((f"{prefix}{entry.name}/", entry.path))
            elif _is_file(entry):
                yield f"{prefix}{entry.name}", entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether this is an ordinary file whose name says that it is no longer written."""
    name = entry.name.lower()
    if name.startswith((".", "~")) or name.endswith(("~", *TEMPORARY_SUFFIXES)):
        return False
    try:
        return entry.is_file()
    except OSError:
        return False
