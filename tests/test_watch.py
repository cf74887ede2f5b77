"""A watched folder from files to rows, pictures and sorted folders, and the command."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import plate
from softpatch import cli
from softpatch.deploy.watch.delivery import Delivery
from softpatch.deploy.watch.journal import Journal, open_journal
from softpatch.deploy.watch.watch import Watch, Watched
from softpatch.detector import Detector
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch

ROOT = Path(__file__).parent.parent
SORTED = ("good/0.png", "good/1.png", "good/2.png", "anomalous/line 2/=bad.png", "unreadable/broken.png")


def put(path: Path, seed: int, *, defective: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    Image.fromarray(plate(seed, defective=defective)).save(temporary, format="PNG")
    return temporary.replace(path)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Three good plates, a defective one and a broken file in a folder, to be judged once."""
    for number in range(3):
        put(tmp_path / f"in/{number}.png", 50 + number)
    put(tmp_path / "in/line 2/=bad.png", 100, defective=True)
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n")
    return Watched(tmp_path / "in", tmp_path / "watched", settle=0, poll=0.01, once=True)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.arrivals._SHORTEST_WAIT", 0.005)


def run(detector: Detector, watched: Watched, **hooks: Any) -> Journal:
    """Watch, and give the journal as it was left."""
    watched.output.mkdir(exist_ok=True)
    with open_journal(watched.output, watched.folder) as (journal, _):
        Watch(detector, watched, journal, **hooks).run()
        return journal


def rows(watched: Watched) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (watched.output / "predictions.jsonl").read_text().splitlines()]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class Interfering:
    """A detector beside which something happens before each prediction is given."""

    def __init__(self, detector: Detector, happen: Callable[[str], None]) -> None:
        self.settings, self._detector, self._happen = detector.settings, detector, happen

    def predict(self, refs: Sequence[Any], **options: Any) -> Iterator[Any]:
        for answer in self._detector.predict(refs, **options):
            self._happen(answer.path)
            yield answer


def test_rows_and_pictures_are_those_of_predict(fitted: SoftPatch, watched: Watched, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    shown: list[str] = []
    asked = replace(watched, maps=True, overlays="plain")
    run(fitted.detector, asked, show=shown.append)
    words = [str(tmp_path / "model"), str(watched.folder), "-o", str(tmp_path / "predict")]
    with pytest.raises(SystemExit):
        cli.main(["predict", *words, "--maps", "--overlays", "plain", "--device", "cpu"])
    expected = {row["path"]: row for row in rows(replace(watched, output=tmp_path / "predict"))}
    found = {row["path"]: row for row in rows(watched)}
    assert len(found) == len(rows(watched)) == 4
    assert found.keys() == expected.keys()
    for path, row in expected.items():
        assert found[path] == pytest.approx(row, abs=1e-3)
    for kind in ("maps", "overlays"):
        assert files(watched.output / kind) == files(tmp_path / "predict" / kind)
    skipped = [(folder / "skipped.csv").read_text() for folder in (watched.output, tmp_path / "predict")]
    assert skipped[0] == skipped[1]
    assert "broken.png" in skipped[0]
    assert shown[-1] == f"watching {watched.folder}: 4 judged, 1 anomalous, 1 unreadable, 0 waiting"


def test_pictures_of_a_name_that_comes_again_are_kept_beside_each_other(
    fitted: SoftPatch, watched: Watched, tmp_path: Path
) -> None:
    asked = replace(watched, maps=True, overlays="plain", move=tmp_path / "sorted")
    run(fitted.detector, asked)
    before = {name: (watched.output / name).read_bytes() for name in files(watched.output) if name.endswith(".png")}
    put(watched.folder / "1.png", 104)
    run(fitted.detector, asked)
    *_, last = (json.loads(line) for line in (watched.output / "watch.jsonl").read_text().splitlines())
    new = files(watched.output / "overlays") - {name.removeprefix("overlays/") for name in before}
    assert new == {f"1.png.{last['id'][:8]}.png"}
    assert {name: (watched.output / name).read_bytes() for name in before} == before
    assert f"1.png.{last['id'][:8]}.tiff" in files(watched.output / "maps")


def test_what_is_judged_is_not_judged_again_and_what_is_new_is(fitted: SoftPatch, watched: Watched) -> None:
    run(fitted.detector, watched)
    before = (watched.output / "watch.jsonl").read_bytes()
    run(fitted.detector, watched)
    assert (watched.output / "watch.jsonl").read_bytes() == before
    put(watched.folder / "1.png", 101, defective=True)
    put(watched.folder / "broken.png", 54)
    run(fitted.detector, watched)
    assert [(Path(row["path"]).name, row["verdict"]) for row in rows(watched)[4:]] == [
        ("1.png", "anomalous"),
        ("broken.png", "good"),
    ]


def test_judged_files_are_moved_by_their_verdict(fitted: SoftPatch, watched: Watched, tmp_path: Path) -> None:
    moving = replace(watched, move=tmp_path / "sorted")
    run(fitted.detector, moving)
    moved = {*SORTED}
    assert (files(watched.folder), files(tmp_path / "sorted")) == (set(), moved)
    put(watched.folder / "1.png", 55)  # the next of that name
    put(watched.folder / "2.png", 52)  # the same once more
    run(fitted.detector, moving)
    assert (files(watched.folder), files(tmp_path / "sorted")) == (set(), {*moved, "good/1-2.png", "good/2-2.png"})
    assert len(rows(watched)) == 6


@pytest.mark.parametrize("copied", [False, True])
def test_a_move_that_a_kill_left_undone_is_done(
    copied: bool, fitted: SoftPatch, watched: Watched, tmp_path: Path
) -> None:
    run(fitted.detector, watched)  # rows are there, as after a kill between row and move
    if copied:  # or between a copy to another file system and the removal
        (tmp_path / "sorted/good").mkdir(parents=True)
        shutil.copy2(watched.folder / "0.png", tmp_path / "sorted/good/0.png")
    run(fitted.detector, replace(watched, move=tmp_path / "sorted"))
    assert (files(watched.folder), files(tmp_path / "sorted")) == (set(), {*SORTED})
    assert len(rows(watched)) == 4


def test_a_file_that_cannot_be_moved_is_told_once_and_stays(
    fitted: SoftPatch, watched: Watched, tmp_path: Path
) -> None:
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted/good").write_bytes(b"a file in the way")
    notes: list[str] = []
    run(fitted.detector, replace(watched, move=tmp_path / "sorted"), note=notes.append)
    assert files(watched.folder) == {"0.png", "1.png", "2.png"}
    assert [note for note in notes if "cannot be moved" in note] == notes[:1]
    (tmp_path / "sorted/good").unlink()
    run(fitted.detector, replace(watched, move=tmp_path / "sorted"))
    assert files(watched.folder) == set()
    assert len(rows(watched)) == 4


def test_a_file_that_changes_while_it_is_judged_is_judged_as_it_is_then(fitted: SoftPatch, watched: Watched) -> None:
    def happen(path: str) -> None:
        if path.endswith("1.png") and not changed:
            changed.append(put(Path(path), 102, defective=True))

    changed: list[Path] = []
    run(Interfering(fitted.detector, happen), watched)  # type: ignore[arg-type]
    verdicts = [row["verdict"] for row in rows(watched) if row["path"].endswith("1.png")]
    assert verdicts == ["anomalous"]


def test_a_file_that_is_taken_away_once_it_is_read_has_its_row(fitted: SoftPatch, watched: Watched) -> None:
    notes: list[str] = []
    run(
        Interfering(fitted.detector, lambda path: Path(path).unlink()),  # type: ignore[arg-type]
        replace(watched, overlays="plain"),
        note=notes.append,
    )
    assert len(rows(watched)) == 4
    assert sum("no picture of" in note for note in notes) == 4


def test_stopping_ends_the_file_in_hand_and_the_next_watch_goes_on(fitted: SoftPatch, watched: Watched) -> None:
    seen: list[str] = []
    stopping = Interfering(fitted.detector, seen.append)
    run(stopping, watched, stopping=lambda: len(seen) >= 2)  # type: ignore[arg-type]
    assert [row["path"] for row in rows(watched)] == seen == [row["path"] for row in rows(watched)][:2]
    run(fitted.detector, watched)
    assert len({row["path"] for row in rows(watched)}) == len(rows(watched)) == 4


def test_a_disk_that_is_full_ends_the_watch_and_the_next_goes_on(
    fitted: SoftPatch, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            run(fitted.detector, watched)
    run(fitted.detector, watched)
    assert len({row["path"] for row in rows(watched)}) == len(rows(watched)) == 4


def test_verdicts_are_announced_once_they_are_written_down(fitted: SoftPatch, watched: Watched) -> None:
    sent: list[dict[str, Any]] = []
    watched.output.mkdir()
    with open_journal(watched.output, watched.folder) as (journal, _):
        delivery = Delivery(
            "test", lambda content: sent.append(json.loads(content)), watched.output, journal,
            only=["anomalous"], note=print,
        )  # fmt: skip
        delivery.begin()
        Watch(fitted.detector, watched, journal, [delivery]).run()
        delivery.close(20)
    (message,) = sent
    anomalous = next(row for row in rows(watched) if row["is_anomalous"])
    assert {name: message[name] for name in anomalous} == anomalous


def test_a_folder_that_is_away_is_waited_for(fitted: SoftPatch, watched: Watched) -> None:
    notes: list[str] = []
    away = watched.folder.rename(watched.folder.with_name("away"))

    def show(_: str) -> None:
        if "cannot be listed" in "".join(notes) and away.exists():
            away.rename(watched.folder)

    with pytest.raises(InputError, match="cannot be listed"):
        run(fitted.detector, watched)
    run(
        fitted.detector,
        replace(watched, once=False),
        note=notes.append,
        show=show,
        stopping=lambda: (
            (watched.output / "skipped.csv").exists() and "broken" in (watched.output / "skipped.csv").read_text()
        ),
    )
    assert len(notes) == 2
    assert "is there again" in notes[1]
    assert len(rows(watched)) == 4


@pytest.mark.parametrize(
    ("name", "value"), [("settle", -1.0), ("settle", float("nan")), ("poll", 0.0), ("poll", float("inf"))]
)
def test_times_out_of_range(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`{name}` is {value}"):
        Watched(tmp_path, tmp_path, **{name: value})


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["watch", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


def test_the_command_says_what_was_found(fitted: SoftPatch, watched: Watched, tmp_path: Path, capsys) -> None:
    fitted.save(tmp_path / "model")
    words = [tmp_path / "model", watched.folder, "-o", watched.output, "--once", "--settle", "0", "--device", "cpu"]
    code, out, err = command(capsys, *words)
    assert (code, out) == (0, f"{watched.output}/predictions.csv: 4 images, 1 anomalous, 0 to check\n")
    assert err.splitlines()[-1] == f"watching {watched.folder}: 4 judged, 1 anomalous, 1 unreadable, 0 waiting"
    assert command(capsys, *words, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--only anomalous", "--only is of verdicts that are sent"),
        ("--webhook-token-file token", "--webhook-token-file is of a webhook"),
        ("--webhook plant", "--webhook is 'plant'"),
        ("--mqtt plant", "--mqtt is 'plant'"),
        ("--webhook http://plant/ --only bad", "'bad' is unknown"),
        ("--settle nan", "--settle is nan"),
        ("-o in", "give another folder as --output"),
        ("--threshold nan", "--threshold is nan"),
    ],
)
def test_options_that_are_wrong(options: str, words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("model").touch()
    code, out, err = command(capsys, "model", "in", *options.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert files(tmp_path) == {"model"}


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_a_request_to_terminate_is_no_failure_and_a_second_watcher_is_refused(
    fitted: SoftPatch, watched: Watched, tmp_path: Path, capsys
) -> None:
    fitted.save(tmp_path / "model")
    words = [str(tmp_path / "model"), str(watched.folder), "-o", str(watched.output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "softpatch", "watch", *words, "--poll", "600"], stderr=subprocess.PIPE, text=True
    )
    while not (watched.output / "watch.jsonl").exists():
        time.sleep(0.02)
        assert process.poll() is None
    code, out, err = command(capsys, *words, "--once")
    assert (code, out, "another watcher writes to" in err) == (2, "", True)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in errors) == (0, False)


def test_the_commands_of_the_how_to_page(
    fitted: SoftPatch, watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("softpatch.cli.deploy._PATIENCE_ONCE", 0.0)
    watched.folder.rename("incoming")
    fitted.save("product.safetensors")
    page = (ROOT / "docs/how-to/watch-a-folder.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("softpatch watch ")
        assert command(capsys, *shlex.split(line)[2:], "--once", "--settle", "0")[0] == 0, line
    assert files(tmp_path / "sorted") - {"watch.lock"} == {*SORTED}
