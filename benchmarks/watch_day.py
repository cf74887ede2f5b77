"""A shift of a watched folder in a minute: `python benchmarks/watch_day.py [--files 10000] [--kills 6] [--move]
[--no-drift]`.

Small files are dropped into a folder: most are renamed into place, some written slowly in parts, some broken, some
replaced later by others of the same name. Meanwhile the watcher is killed at random moments and started again. At the
end every file must have exactly one row, equal to what `predict` says of the same content, and what is told of drift
must be what a plain loop over the rows tells. Told are counts, and how many files were judged per second; with anything
missing, double or different the exit status is 1.
"""

import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from softpatch.data.paths import file_digest
from softpatch.deploy.watch.drift import ModelIdentity, open_drift
from softpatch.deploy.watch.journal import open_journal
from softpatch.estimator import SoftPatch

_SIDE = 64
_CONTENTS = 40  # different pictures
_SLOW, _BROKEN, _REPLACED = 0.1, 0.02, 0.05  # shares of the files
_PARTS = 4
_BETWEEN_PARTS = 0.05  # seconds
_SETTLE = 0.4
_ENTRY = 500  # bytes of a line in the journal, at least
_LONGEST = 300.0  # seconds that the watcher may take after the last file
Version = tuple[str, int, int]  # name, size, time of change


@dataclass
class Day:
    """What was dropped: the content of each version of each file, -1 where it is broken, and the last of each name."""

    contents: dict[Version, int] = field(default_factory=dict)
    last: dict[str, Version] = field(default_factory=dict)

    def note(self, path: Path, content: int) -> None:
        """Remember a file that was just completed."""
        found = path.stat()
        self.last[path.name] = (path.name, found.st_size, found.st_mtime_ns)
        self.contents[self.last[path.name]] = content


@dataclass(frozen=True)
class Outcome:
    """What came of it. All but the first three must be 0."""

    files: int
    rows: int
    unreadable: int
    missing: int = 0
    double: int = 0
    unknown: int = 0
    different: int = 0
    not_in_tables: int = 0
    not_moved: int = 0
    after_restart: int = 0
    drift_different: int = 0

    @property
    def faults(self) -> int:
        """How much is wrong."""
        return sum(asdict(self).values()) - self.files - self.rows - self.unreadable


def plate(seed: int, *, defective: bool) -> np.ndarray:
    """A grey plate with dots, uint8 (64, 64, 3); a defective one has a bright blot."""
    rng = np.random.default_rng(seed)
    pixels = np.full((_SIDE, _SIDE, 3), 110.0)
    pixels[8::16, 8::16] = 30
    pixels += rng.normal(0, 3, pixels.shape)
    if defective:
        x, y = rng.integers(8, _SIDE - 18, 2)
        pixels[y : y + 10, x : x + 10] = (250, 240, 60)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_model(path: Path) -> None:
    """Fit a small model."""
    good = np.stack([plate(seed, defective=False) for seed in range(12)])
    SoftPatch(resize=_SIDE, crop=_SIDE, device="cpu").fit(good).save(path)


def pictures() -> list[bytes]:
    """PNG files, every fourth of a defective plate."""
    files = []
    for number in range(_CONTENTS):
        file = io.BytesIO()
        Image.fromarray(plate(1000 + number, defective=number % 4 == 0)).save(file, format="PNG")
        files.append(file.getvalue())
    return files


def events(folder: Path, day: Day, files: int, seconds: float, seed: int) -> list[tuple[float, Callable[[], None]]]:
    """What happens when, in seconds: parts of files that are written, renamed and replaced."""
    rng, contents, planned = np.random.default_rng(seed), pictures(), []
    for number in range(files):
        path, content = folder / f"{number:06d}.png", int(rng.integers(_CONTENTS))
        begin, kind = rng.uniform(0, seconds), rng.random()
        if kind < _SLOW:
            cuts = np.linspace(0, len(contents[content]), _PARTS + 1).astype(int)
            for part in range(_PARTS):
                data, note = contents[content][cuts[part] : cuts[part + 1]], part == _PARTS - 1
                write = partial(_append, path, data, day if note else None, content)
                planned.append((begin + part * _BETWEEN_PARTS, write))
            continue
        broken = kind < _SLOW + _BROKEN
        data = contents[content][: len(contents[content]) // 2] if broken else contents[content]
        planned.append((begin, partial(_rename, path, data, day, -1 if broken else content)))
        if kind > 1 - _REPLACED:
            other = (content + 1) % _CONTENTS
            planned.append((begin + rng.uniform(0.2, 4), partial(_rename, path, contents[other], day, other)))
    return sorted(planned, key=lambda each: each[0])


def _append(path: Path, data: bytes, day: Day | None, content: int) -> None:
    with path.open("ab") as file:
        file.write(data)
    if day is not None:
        day.note(path, content)


def _rename(path: Path, data: bytes, day: Day, content: int) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    day.note(temporary, content)
    version = day.last.pop(temporary.name)
    day.last[path.name] = (path.name, *version[1:])
    day.contents[day.last[path.name]] = day.contents.pop(version)
    temporary.replace(path)


class Watcher:
    """The watcher of `folder/in`, killed each time that its journal has grown to one of `deaths`, in bytes."""

    def __init__(self, folder: Path, options: list[str], deaths: list[float]) -> None:
        self._folder, self._options, self._deaths = folder, options, deaths
        self._process = self._start()

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        places = [str(self._folder / "model"), str(self._folder / "in"), "-o", str(self._folder / "watched")]
        words = ["watch", *places, "--settle", str(_SETTLE), "--poll", "0.1", "--quiet", *self._options, *more]
        return subprocess.Popen([sys.executable, "-m", "softpatch", *words])

    def live(self) -> None:
        """Kill and start it again where it is time for that. It must not end by itself."""
        path = self._folder / "watched/watch.jsonl"
        if self._deaths and path.exists() and path.stat().st_size >= self._deaths[0]:
            self._deaths.pop(0)
            self._process.kill()
            self._process.wait()
            self._process = self._start()
        if self._process.poll() is not None:
            raise SystemExit(f"the watcher ended with {self._process.returncode}")

    def end(self) -> None:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(60) != 0:
            raise SystemExit(f"the watcher ended with {self._process.returncode} when asked to terminate")

    def go_over_again(self) -> None:
        """Start it once more, until nothing waits."""
        if self._start("--once").wait(_LONGEST) != 0:
            raise SystemExit("the watcher could not be started again")


def run_day(
    folder: Path,
    *,
    files: int,
    kills: int,
    seconds: float,
    seed: int = 0,
    move: bool = False,
    drift: bool = True,
    again: bool = True,
) -> Outcome:
    """Let a day pass in `folder`, and say what came of it; `again` starts the watcher once more at the end."""
    make_model(folder / "model")
    (folder / "in").mkdir()
    day, rng = Day(), np.random.default_rng(seed + 1)
    deaths = sorted(rng.uniform(0.05, 0.95, kills) * files * _ENTRY)
    options = [*(["--move", str(folder / "sorted")] if move else []), *([] if drift else ["--no-drift"])]
    watcher = Watcher(folder, options, deaths)
    began = time.monotonic()
    for when, happen in events(folder / "in", day, files, seconds, seed):
        while (left := began + when - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
            watcher.live()
        happen()
    until = time.monotonic() + _LONGEST
    while (deaths or not is_over(folder, day)) and time.monotonic() < until:
        time.sleep(0.05 if deaths else 0.5)
        watcher.live()
    watcher.end()
    before = len(judged(folder))
    if again:
        watcher.go_over_again()
    return compare(folder, day, before, move=move, drift=drift)


def is_over(folder: Path, day: Day) -> bool:
    """Whether the last version of every file is judged."""
    return not set(day.last.values()) - {version for version, _ in judged(folder)}


def judged(folder: Path) -> list[tuple[Version, dict[str, object]]]:
    """What the watcher has written down: versions with their rows."""
    path, found = folder / "watched/watch.jsonl", []
    for line in path.read_bytes().split(b"\n")[1:-1] if path.exists() else ():
        entry = json.loads(line)
        found.append(((entry["name"], entry["size"], entry["mtime_ns"]), entry["row"]))
    return found


def compare(folder: Path, day: Day, before: int, *, move: bool, drift: bool) -> Outcome:
    """Compare what was written down with what was dropped and with what `predict` says."""
    rows = judged(folder)
    counts = Counter(version for version, _ in rows)
    images = [np.asarray(Image.open(io.BytesIO(each))) for each in pictures()]
    expected = [answer.as_dict() for answer in SoftPatch.load(folder / "model", device="cpu").predict(images)]
    good = [row for _, row in rows if "reason" not in row]
    lines = (folder / "watched/predictions.jsonl").read_text().splitlines()
    with (folder / "watched/predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    with (folder / "watched/skipped.csv").open(newline="") as file:
        skipped = list(csv.DictReader(file))
    in_tables = [json.loads(line) for line in lines] == good and [row["path"] for row in table] == [
        row["path"] for row in good
    ]
    moved = sum(len(names) for _, _, names in os.walk(folder / "sorted")) - 1  # without the lock
    left = len(list((folder / "in").iterdir()))
    return Outcome(
        files=len(day.last),
        rows=len(rows),
        unreadable=len(skipped),
        missing=len(set(day.last.values()) - set(counts)),
        double=sum(counts.values()) - len(counts),
        unknown=len(set(counts) - set(day.contents)),
        different=sum(not _is_same(day.contents.get(version, -1), row, expected) for version, row in rows),
        not_in_tables=int(not in_tables or len(good) + len(skipped) != len(rows)),
        not_moved=left + max(0, len(day.last) - moved) if move else 0,
        after_restart=len(rows) - before,
        drift_different=int(drift and not is_drift_same(folder, good)),
    )


def is_drift_same(folder: Path, rows: list[dict[str, object]]) -> bool:
    """Whether the table of alarms, and what the next watcher goes on with, are those of a plain loop over the rows."""
    output, detector = folder / "watched", SoftPatch.load(folder / "model", device="cpu").detector
    drift, told = detector.drift(), []
    for row in rows:
        before, drift = drift, drift.after(row["map_quartile"], is_good=row["verdict"] == "good")
        change = drift.change_since(before)
        if change is not None:
            told.append((row["path"], change.sentence))
    with (output / "drift.csv").open(newline="") as file:
        found = [(line["told_path"], line["sentence"]) for line in csv.DictReader(file)]
    with open_journal(output, folder / "in") as (journal, _):
        state, notes = open_drift(output, journal, detector, ModelIdentity(file_digest(folder / "model"), None))
    return found == told and not notes and state is not None and state.drift == drift


def _is_same(content: int, row: dict[str, object], expected: list[dict[str, object]]) -> bool:
    """Whether a row says of a content what `predict` says; other images in the batch may change the last digits."""
    if content < 0 or "reason" in row:
        return content < 0 and "reason" in row
    numbers = ("image_score", "margin", "map_quartile")
    close = all(abs(float(row[name]) - float(expected[content][name])) < 1e-3 for name in numbers)  # type: ignore[arg-type]
    return close and all(
        row[name] == value for name, value in expected[content].items() if name not in ("path", *numbers)
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60.0, help="in which the files come")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--move", action="store_true", help="move judged files")
    parser.add_argument("--no-drift", dest="drift", action="store_false", help="tell of no drift")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        outcome = run_day(Path(place), **vars(options))
        print(f"{time.monotonic() - began:.0f} s, {options.kills} kills")
    for name, value in asdict(outcome).items():
        print(f"{name:>14}  {value}")
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
