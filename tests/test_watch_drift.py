"""A watcher tells once that images have changed, whenever it is killed, as a plain loop over all of its rows does."""

import csv
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import plate
from softpatch import cli
from softpatch.deploy.watch.arrivals import Arrival
from softpatch.deploy.watch.delivery import Delivery
from softpatch.deploy.watch.drift import STATE, ModelIdentity, WatchedDrift, forget_drift, open_drift
from softpatch.deploy.watch.journal import JOURNAL, Entry, entries_of, open_journal
from softpatch.deploy.watch.watch import Watch, Watched
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch
from softpatch.model_file import save_detector
from softpatch.scoring.drift import Drift
from test_journal import FOLDER, entry, row
from test_watch import command, rows

USUAL = Drift.begun(np.random.default_rng(7).normal(size=100).tolist(), [0.0] * 5)
DETECTOR: Any = SimpleNamespace(drift=lambda: USUAL)
MODEL = ModelIdentity("ab", None)
PATIENCE = 20.0  # seconds, used only where something is wrong


@pytest.fixture(autouse=True)
def _soon_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.drift._DRAWN", 20)


def judged() -> list[Entry]:
    """What 150 images gave, which are changed from the 51st to the 90th; every tenth file cannot be read."""
    quartiles = np.random.default_rng(3).normal(size=150)
    quartiles[50:90] += 4
    entries = []
    for number, quartile in enumerate(quartiles.tolist()):
        name, time = f"{number:03d}.png", f"2026-01-02T03:04:{number % 60:02d}+00:00"
        arrival = Arrival(name, 10, 20, 30)
        if number % 10 == 0:
            entries.append(Entry.of(arrival, {"path": f"in/{name}", "reason": "empty"}, time))
        entries.append(Entry.of(replaced(arrival), {**row(name), "map_quartile": round(quartile, 6)}, time))
    return entries


def replaced(arrival: Arrival) -> Arrival:
    """The next file of that name."""
    return arrival._replace(mtime_ns=arrival.mtime_ns + 1)


ENTRIES = judged()


def plain(entries: Sequence[Entry], drift: Drift = USUAL) -> list[Drift]:
    """What a loop over the rows that can be judged says after each."""
    found = []
    for each in entries:
        if "reason" not in each.row:
            drift = drift.after(each.row["map_quartile"], is_good=each.row["verdict"] == "good")
            found.append(drift)
    return found


LOOP = plain(ENTRIES)
TOLD = next(number for number, state in enumerate(LOOP) if state.alarm)
FIRST = next(state.alarm.first for state in LOOP if state.alarm)
ENDED = next(number for number, state in enumerate(LOOP) if number > TOLD and state.alarm is None)


def write(output: Path, entries: Sequence[Entry], identity: ModelIdentity = MODEL, *, at_once: int = 7) -> list[str]:
    """Write down those of the entries that are not, with what they tell, and give the notes."""
    with open_journal(output, FOLDER) as (journal, notes):
        drift, more = open_drift(output, journal, DETECTOR, identity)
        assert drift is not None
        left = [each for each in entries if bytes.fromhex(each.id) not in journal.judged]
        for begin in range(0, len(left), at_once):
            journal.append(drift.follow(left[begin : begin + at_once]))
            drift.keep(journal.length)
        return [*notes, *more]


def state(output: Path, identity: ModelIdentity = MODEL) -> Drift:
    """The test as the next watcher finds it."""
    with open_journal(output, FOLDER) as (journal, _):
        drift, notes = open_drift(output, journal, DETECTOR, identity)
        assert (drift is not None, notes) == (True, [])
        assert isinstance(drift, WatchedDrift)
        return drift.drift


def events(output: Path) -> list[dict[str, str]]:
    with (output / "drift.csv").open(newline="") as file:
        return list(csv.DictReader(file))


EXPECTED = [
    {
        "time": f"2026-01-02T03:04:{TOLD % 60:02d}+00:00",
        "alarm": "images changed",
        "ended": "",
        "first_path": f"in/{FIRST:03d}.png",
        "told_path": f"in/{TOLD:03d}.png",
        "sentence": LOOP[TOLD].sentence,
    },
    {
        "time": f"2026-01-02T03:04:{ENDED % 60:02d}+00:00",
        "alarm": "",
        "ended": "images changed",
        "first_path": "",
        "told_path": f"in/{ENDED:03d}.png",
        "sentence": "images look as usual again; the alarm has ended",
    },
]


def test_the_test_is_that_of_a_plain_loop_over_the_rows(tmp_path: Path) -> None:
    assert 48 < FIRST <= 50 < TOLD < 60
    assert 90 < ENDED < 140
    assert write(tmp_path, ENTRIES) == []
    assert state(tmp_path) == LOOP[-1]
    assert events(tmp_path) == EXPECTED
    assert json.loads((tmp_path / STATE).read_text())["drift"]["images"] >= 100  # what is taken anew is bounded


class KilledError(BaseException):
    """What comes in place of a kill."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, torn: bool) -> None:
    """Have the process killed when it makes sure for this time that something is on the disk: before, of which only a
    part is there then, or after."""
    left, fsync = [number], os.fsync

    def killing(file: int) -> None:
        left[0] -= 1
        if left[0] == 0 and torn:
            os.ftruncate(file, max(0, os.fstat(file).st_size - 30))
        if left[0] == 0:
            raise KilledError
        fsync(file)

    monkeypatch.setattr(os, "fsync", killing)


@pytest.mark.parametrize("torn", [False, True])
def test_nothing_is_lost_or_counts_twice_wherever_the_watcher_is_killed(
    torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, is_killed = 1, True
    while is_killed:
        output = tmp_path / str(number)
        output.mkdir()
        with monkeypatch.context() as patched:
            kill_at(patched, number, torn=torn)
            try:
                write(output, ENTRIES, at_once=30)
                is_killed = False
            except KilledError:
                pass
        assert write(output, ENTRIES, at_once=30) == []
        assert (state(output), events(output)) == (LOOP[-1], EXPECTED), number
        number += 1
    assert number > 20


ANEW = ModelIdentity("cd", None)
STOOD = {**EXPECTED[0], "alarm": "", "ended": "images changed", "first_path": "", "told_path": "in/060.png",
         "time": "2026-01-02T03:04:00+00:00",
         "sentence": "whether images change is told anew; the alarm of before has ended"}  # fmt: skip


def test_an_alarm_ends_with_its_test_wherever_the_watcher_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = ENTRIES[:67], [*ENTRIES[67:69], *ENTRIES[110:]]  # none begins with the new test
    expected = plain(after)
    assert not any(each.alarm for each in expected)
    number, is_killed = 1, True
    while is_killed:
        output = tmp_path / str(number)
        output.mkdir()
        write(output, before, at_once=30)
        with monkeypatch.context() as patched:
            kill_at(patched, number, torn=True)
            try:
                write(output, after, ANEW, at_once=30)
                is_killed = False
            except KilledError:
                pass
        write(output, after, ANEW, at_once=30)
        assert (state(output, ANEW), events(output)) == (expected[-1], [EXPECTED[0], STOOD]), number
        number += 1
    assert number > 10


class Receiver:
    """Takes messages, of which the next may get lost."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def __call__(self, content: bytes) -> None:
        self.taken.append(json.loads(content))


def deliver(output: Path, entries: Sequence[Entry], *, only: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    receiver = Receiver()
    with open_journal(output, FOLDER) as (journal, _):
        drift, _ = open_drift(output, journal, DETECTOR, MODEL)
        assert drift is not None
        delivery = Delivery("test", receiver, output, journal, only=only, note=print)
        delivery.begin()
        entries = drift.follow(entries)
        journal.append(entries)
        delivery.announce(entries, journal.length)
        delivery.close(PATIENCE)
        assert delivery.waiting == 0
    return receiver.taken


def test_an_alarm_is_a_message_of_its_own_behind_the_verdict_that_tells_it(tmp_path: Path) -> None:
    taken = deliver(tmp_path, ENTRIES)
    assert len(taken) == 150 + 2
    assert len({each["id"] for each in taken}) == len(taken)
    places = [number for number, each in enumerate(taken) if "event" in each]
    assert places == [TOLD + 1, ENDED + 2]
    for place, expected in zip(places, EXPECTED, strict=True):
        verdict, alarm = taken[place - 1], dict(taken[place])
        assert (alarm.pop("id"), alarm.pop("event")) == (f"{verdict['id']}-drift", "drift")
        assert "verdict" not in alarm
        assert {name: text or "" for name, text in alarm.items()} == expected
        assert verdict["path"] == alarm["told_path"]
    assert all("verdict" in each for number, each in enumerate(taken) if number not in places)


@pytest.mark.parametrize(("only", "count"), [(("drift",), 2), (("good", "drift"), 152), (("anomalous",), 0)])
def test_alarms_are_sent_where_they_are_asked_for(only: tuple[str, ...], count: int, tmp_path: Path) -> None:
    assert len(deliver(tmp_path, ENTRIES, only=only)) == count


def test_an_alarm_that_was_not_sent_is_sent_by_the_next_watcher_and_once(tmp_path: Path) -> None:
    deliver(tmp_path, [], only=("drift",))  # from here on
    write(tmp_path, ENTRIES)
    first, second = deliver(tmp_path, [], only=("drift",))
    assert (first["alarm"], second["ended"]) == ("images changed", "images changed")
    assert deliver(tmp_path, [], only=("drift",)) == []


def test_an_alarm_that_its_receiver_did_not_take_comes_after_its_verdict_once_more(tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = []

    def refuse_alarms(content: bytes) -> None:
        if b'"event"' in content:
            raise ConnectionError("no")
        taken.append(json.loads(content))

    with open_journal(tmp_path, FOLDER) as (journal, _):
        drift, _ = open_drift(tmp_path, journal, DETECTOR, MODEL)
        assert drift is not None
        delivery = Delivery("test", refuse_alarms, tmp_path, journal, note=print)
        delivery.begin()
        entries = drift.follow(ENTRIES[:75])
        journal.append(entries)
        delivery.announce(entries, journal.length)
        while len(taken) <= TOLD:
            time.sleep(0.01)
        delivery.close(0.05)
        assert delivery.waiting > 0
    again = deliver(tmp_path, [])
    assert [each["id"] for each in again[:2]] == [taken[-1]["id"], f"{taken[-1]['id']}-drift"]
    assert sum("event" in each for each in again) == 1


@pytest.mark.parametrize("other", [ModelIdentity("cd", None), ModelIdentity("ab", 2.0)])
def test_another_model_or_threshold_begins_anew(other: ModelIdentity, tmp_path: Path) -> None:
    write(tmp_path, ENTRIES[:60])
    (note,) = write(tmp_path, ENTRIES, other)
    assert note == f"{tmp_path / STATE} is of another model or threshold; whether images change is told anew, from " \
        "the next image on"  # fmt: skip
    assert state(tmp_path, other) == plain(ENTRIES[60:])[-1]
    assert write(tmp_path, ENTRIES, other) == []


def test_a_test_that_was_left_out_for_a_while_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, ENTRIES[:60])
    forget_drift(tmp_path)
    with open_journal(tmp_path, FOLDER) as (journal, _):
        journal.append(ENTRIES[60:70])
    assert write(tmp_path, ENTRIES) == []
    assert state(tmp_path) == plain(ENTRIES[70:])[-1]


NO_STATE = [
    b"",
    b"[]",
    b"\0" * 500,
    b"[" * 100_000,
    b'{"model": "ab", "threshold": null, "journal_bytes": 10, "drift": {}}',
    b'{"model": "ab", "threshold": null, "journal_bytes": Infinity, "drift": {}}',
]


@pytest.mark.parametrize("content", NO_STATE)
def test_a_damaged_state_is_set_aside_and_the_test_begins_anew(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, ENTRIES[:60])
    (tmp_path / STATE).write_bytes(content)
    (note,) = write(tmp_path, ENTRIES)
    assert f"{tmp_path / STATE} was damaged, or not of this journal; it is {tmp_path / STATE}.old1 now" in note
    assert (tmp_path / f"{STATE}.old1").read_bytes() == content
    assert state(tmp_path) == plain(ENTRIES[60:])[-1]
    assert len(list(entries_of(tmp_path / JOURNAL))) == len(ENTRIES)


@pytest.mark.parametrize("place", [-1, 0, 7, 10**9])
def test_a_state_of_another_journal_is_set_aside(place: int, tmp_path: Path) -> None:
    write(tmp_path, ENTRIES[:60])
    kept = json.loads((tmp_path / STATE).read_text())
    (tmp_path / STATE).write_text(json.dumps({**kept, "journal_bytes": place}))
    (note,) = write(tmp_path, ENTRIES)
    assert "not of this journal" in note
    assert state(tmp_path) == plain(ENTRIES[60:])[-1]


def test_a_state_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / STATE).mkdir()
    with pytest.raises(InputError, match=rf"cannot read .*{STATE}"):
        write(tmp_path, ENTRIES)
    with pytest.raises(InputError, match=rf"cannot remove .*{STATE}"):
        forget_drift(tmp_path)


def test_a_journal_without_drift_is_as_before_and_one_with_other_columns_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ENTRIES)
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_bytes().splitlines()]
    telling = [line for line in lines[1:] if "drift" in line]
    assert [line["drift"]["told_path"] for line in telling] == [each["told_path"] for each in EXPECTED]
    for wrong in (1, {}, {**telling[0]["drift"], "sentence": None}, {**telling[0]["drift"], "more": "x"}):
        changed = [{**line, "drift": wrong} if line is telling[0] else line for line in lines]
        (tmp_path / JOURNAL).write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in changed))
        with pytest.raises(InputError, match="or of another version"):
            write(tmp_path, [])


def test_names_in_the_table_are_harmless(tmp_path: Path) -> None:
    names = {**row("=b\udcff.png"), "path": "=b\udcff.png", "map_quartile": 9.0}
    bad = [replace(entry(f"{n}"), row={**names, "verdict": "good"}) for n in range(30)]
    write(tmp_path, bad)
    (event,) = events(tmp_path)
    assert (event["first_path"], event["told_path"]) == ("./=b\\udcff.png",) * 2


def put(folder: Path, seeds: Sequence[int], light: float = 1.0) -> None:
    """Plates in the order of their numbers."""
    folder.mkdir(exist_ok=True)
    for number in seeds:
        path = folder / f"{number:03d}.png"
        Image.fromarray((plate(300 + number) * light).astype(np.uint8)).save(path)
        os.utime(path, ns=(number * 10**9, number * 10**9))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Twenty plates as always and thirty in half the light."""
    put(tmp_path / "in", range(20))
    put(tmp_path / "in", range(20, 50), 0.5)
    return Watched(tmp_path / "in", tmp_path / "watched", settle=0, poll=0.01, once=True)


def watch(fitted: SoftPatch, watched: Watched, **hooks: Any) -> Drift:
    watched.output.mkdir(exist_ok=True)
    with open_journal(watched.output, watched.folder) as (journal, _):
        drift, notes = open_drift(watched.output, journal, fitted.detector, MODEL)
        assert drift is not None
        assert notes == []
        Watch(fitted.detector, watched, journal, drift=drift, **hooks).run()
        return drift.drift


def test_an_alarm_is_told_drawn_and_shown_as_by_predict(
    fitted: SoftPatch, watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes: list[str] = []
    shown: list[str] = []
    found = watch(fitted, watched, note=notes.append, show=shown.append)
    fitted.save(tmp_path / "model")
    words = [str(tmp_path / "model"), str(watched.folder), "-o", str(tmp_path / "predict"), "--drift"]
    with pytest.raises(SystemExit):
        cli.main(["predict", *words, "--device", "cpu"])
    capsys.readouterr()
    (alarm,) = json.loads((tmp_path / "predict/drift.json").read_text())["alarms"]
    assert notes == [f"{alarm['sentence']} (it begins at {alarm['first_path']})"]
    (event,) = events(watched.output)
    assert {name: event[name] for name in ("first_path", "told_path", "sentence")} == {
        name: alarm[name] for name in ("first_path", "told_path", "sentence")
    }
    assert found.alarm is not None
    assert found.alarm.told == alarm["told"]
    anomalous = sum(each["verdict"] == "anomalous" for each in rows(watched))
    counts = f"50 judged, {anomalous} anomalous, 0 waiting, alarm: images changed"
    assert shown[-1] == f"watching {watched.folder}: {counts}"
    assert shown[0].endswith("0 waiting")
    with Image.open(watched.output / "drift.png") as picture:
        assert picture.size == (1440, 864)
    before = (watched.output / "drift.png").stat().st_mtime_ns
    assert watch(fitted, watched) == found
    assert (watched.output / "drift.png").stat().st_mtime_ns == before  # nothing came that it does not show


def test_a_watcher_that_is_stopped_over_and_over_says_the_same(
    fitted: SoftPatch, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.drift.draw_drift", lambda *_: None)
    notes: list[str] = []
    seen = 0

    def stopping() -> Iterator[bool]:
        yield from (False, False, False, True)
        while True:
            yield True

    while seen < 50:
        asked = stopping()
        watch(fitted, watched, note=notes.append, stopping=lambda asked=asked: next(asked))
        seen = len(rows(watched))
    drift = fitted.drift()
    for each in rows(watched):
        drift = drift.after(each["map_quartile"], is_good=each["verdict"] == "good")
    assert watch(fitted, watched) == drift
    assert len(notes) == len(events(watched.output)) == 1


def test_a_picture_that_cannot_be_drawn_costs_no_row(fitted: SoftPatch, watched: Watched) -> None:
    notes: list[str] = []
    (watched.output / "drift.png").mkdir(parents=True)
    watch(fitted, watched, note=notes.append)
    assert any(note.startswith("no picture of drift: ") for note in notes)
    assert len(rows(watched)) == 50


def test_the_command(fitted: SoftPatch, watched: Watched, tmp_path: Path, capsys) -> None:
    fitted.save(tmp_path / "model")
    words = [tmp_path / "model", watched.folder, "-o", watched.output, "--once", "--settle", "0", "--device", "cpu"]
    code, _, err = command(capsys, *words, "--quiet", "--no-drift")
    assert (code, err) == (0, "")
    assert not {STATE, "drift.png"} & {path.name for path in watched.output.iterdir()}
    put(watched.folder, range(50, 70))
    put(watched.folder, range(70, 100), 0.5)
    code, _, err = command(capsys, *words, "--quiet")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("the images have changed since the model was learned, from image 2")
    put(watched.folder, [100], 0.5)
    code, _, err = command(capsys, *words)
    assert err.splitlines()[-1].endswith("0 waiting, alarm: images changed")
    code, _, err = command(capsys, *words, "--threshold", "1000")
    assert (code, "Note: " in err, "of another model or threshold" in err) == (0, True, True)


def test_a_model_that_does_not_know_what_is_usual_watches_without(
    fitted: SoftPatch, watched: Watched, tmp_path: Path, capsys
) -> None:
    assert fitted.detector.left_out is not None
    older = replace(fitted.detector, left_out=replace(fitted.detector.left_out, map_quartiles=None))
    save_detector(older, tmp_path / "model")
    words = [tmp_path / "model", watched.folder, "-o", watched.output, "--once", "--settle", "0", "--device", "cpu"]
    code, _, err = command(capsys, *words, "--quiet")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("Note: whether images change is not told: this model was written before")
    assert not (watched.output / STATE).exists()
    assert len(rows(watched)) == 50
