"""What is written down stays, whatever a kill left, and the tables say the same as the journal."""

import json
from pathlib import Path

import pytest

from softpatch.data.images import SkippedImage
from softpatch.deploy.watch.arrivals import Arrival
from softpatch.deploy.watch.journal import JOURNAL, Entry, Journal, entries_of, kinds_of, open_journal
from softpatch.errors import InputError
from softpatch.review.tables import CSV, SKIPPED, TABLES, write_skipped, write_tables

FOLDER = Path("in")
LOADED = "predictions.jsonl"


def row(name: str, *, verdict: str = "good") -> dict[str, object]:
    """A row as `Prediction.as_dict` gives it."""
    return {
        "path": f"in/{name}",
        "image_score": 0.5,
        "threshold": 1.0,
        "check_threshold": 0.9,
        "margin": 0.5,
        "is_anomalous": verdict == "anomalous",
        "verdict": verdict,
        "peak_x": 3.5,
        "peak_y": 4.5,
        "box_left": None,
        "box_top": None,
        "box_right": None,
        "box_bottom": None,
        "map_threshold": 0.8,
        "width": 64,
        "height": 64,
        "is_unlike_training": False,
        "map_quartile": 0.5,
    }


def entry(name: str, *, verdict: str = "good", reason: str = "") -> Entry:
    what = {"path": f"in/{name}", "reason": reason} if reason else row(name, verdict=verdict)
    return Entry.of(Arrival(name, 10, 20, 30), what, "2026-01-02T03:04:05+00:00")


ENTRIES = [
    entry("a.png"),
    entry("broken.png", reason="the file is empty"),
    entry("=b\udcff\n.png", verdict="anomalous"),
    entry("c.png", verdict="check"),
]


def opened(output: Path, entries: list[Entry] | None = None, folder: Path = FOLDER) -> tuple[Journal, list[str]]:
    """The journal as it is found, to which entries are added."""
    with open_journal(output, folder) as (journal, notes):
        if entries:
            journal.append(entries)
        return journal, notes


def expected(output: Path, entries: list[Entry]) -> dict[str, bytes]:
    """The tables as `predict` writes them."""
    output.mkdir()
    write_tables([each.row for each in entries if "reason" not in each.row], output)
    skipped = [SkippedImage(each.row["path"], each.row["reason"]) for each in entries if "reason" in each.row]
    write_skipped(skipped, output / SKIPPED)
    return tables(output)


def tables(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in TABLES}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder in which the `ENTRIES` are written down."""
    folder = tmp_path / "watched"
    folder.mkdir()
    opened(folder, ENTRIES)
    return folder


def test_tables_are_those_of_predict(output: Path, tmp_path: Path) -> None:
    assert tables(output) == expected(tmp_path / "predict", ENTRIES)
    assert [each for _, each in entries_of(output / JOURNAL)] == ENTRIES


def test_what_is_there_is_known_when_it_is_opened_again(output: Path) -> None:
    before = tables(output)
    journal, notes = opened(output)
    assert notes == []
    assert dict(journal.counts) == {"good": 1, "unreadable": 1, "anomalous": 1, "check": 1}
    assert journal.total == 3
    assert all(bytes.fromhex(each.id) in journal.judged for each in ENTRIES)
    assert Arrival("a.png", 11, 20, 30).identity not in journal.judged
    assert tables(output) == before


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_line_that_was_cut_off_is_taken_away_and_its_file_judged_again(cut: int, output: Path) -> None:
    path = output / JOURNAL
    for name in TABLES:  # as they are when the journal is written first
        (output / name).unlink()
    path.write_bytes(path.read_bytes()[:-cut])
    journal, _ = opened(output)
    assert bytes.fromhex(ENTRIES[-1].id) not in journal.judged
    assert [each for _, each in entries_of(path)] == ENTRIES[:-1]
    opened(output, ENTRIES[-1:])
    assert [each for _, each in entries_of(path)] == ENTRIES


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_table_that_is_behind_is_brought_to_the_journal(name: str, kept: int, output: Path, tmp_path: Path) -> None:
    content = (output / name).read_bytes()
    (output / name).write_bytes(content[:kept])
    assert opened(output)[1] == []
    assert tables(output) == expected(tmp_path / "predict", ENTRIES)


@pytest.mark.parametrize("change", [lambda text: text + b"more\n", lambda text: b"x" + text[1:], lambda _: b"\0" * 900])
def test_a_table_that_was_changed_is_set_aside(change, output: Path, tmp_path: Path) -> None:
    changed = change((output / CSV).read_bytes())
    (output / CSV).write_bytes(changed)
    (note,) = opened(output)[1]
    assert f"{CSV}.old1" in note
    assert (output / f"{CSV}.old1").read_bytes() == changed
    assert tables(output) == expected(tmp_path / "predict", ENTRIES)
    opened(output, [entry("d.png")])
    (tmp_path / "more").mkdir()
    assert tables(output) == expected(tmp_path / "more/predict", [*ENTRIES, entry("d.png")])


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (2, b"\0\0\0"),
        (2, b'{"id": "00"}'),
        (3, b"[]"),
        (2, json.dumps({**vars(ENTRIES[0]), "id": "xyz"}).encode()),
        (2, json.dumps({**vars(ENTRIES[0]), "row": {"path": "a"}}).encode()),
        (2, json.dumps({**vars(ENTRIES[0]), "more": 1}).encode()),
        (2, b"[" * 100_000),
    ],
)
def test_a_damaged_line_is_told_and_nothing_changed(number: int, line: bytes, output: Path) -> None:
    path = output / JOURNAL
    lines = path.read_bytes().splitlines()
    lines[number] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match="is damaged at byte"):
        opened(output)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left_out", ["width", "all of the last"])
def test_rows_of_another_version_are_never_cut_off(left_out: str, output: Path) -> None:
    path = output / JOURNAL
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line in lines[1:] if left_out == "width" else lines[-1:]:
        line["row"].pop("width", None) if left_out == "width" else line["row"].clear()
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    before = path.read_bytes()
    with pytest.raises(InputError, match="or of another version"):
        opened(output)
    assert path.read_bytes() == before


def test_zeros_that_a_power_failure_left_at_the_end_are_cut_off(output: Path) -> None:
    path = output / JOURNAL
    before = path.read_bytes()
    path.write_bytes(before + b'{"id": "\0\0\0"}\n')
    opened(output)
    assert path.read_bytes() == before


@pytest.mark.parametrize("first", [b"", b"{}\n", b'{"softpatch_watch": 2, "folder": "in"}\n', b"\xff\xfe\n"])
def test_a_file_that_is_no_journal_is_refused(first: bytes, output: Path) -> None:
    (output / JOURNAL).write_bytes(first)
    with pytest.raises(InputError, match="no journal that this version"):
        opened(output)


def test_the_journal_of_another_folder_is_refused(output: Path) -> None:
    with pytest.raises(InputError, match=r"holds what came into '.*in', not into '.*other'"):
        opened(output, folder=Path("other"))
    opened(output, folder=FOLDER.absolute())


def test_results_of_predict_are_not_written_over(tmp_path: Path) -> None:
    expected(tmp_path / "results", ENTRIES)
    with pytest.raises(InputError, match="so other results; choose another folder"):
        opened(tmp_path / "results")


def test_entries_between_two_bytes(output: Path) -> None:
    ends = [end for end, _ in entries_of(output / JOURNAL)]
    some = [each for _, each in entries_of(output / JOURNAL, ends[0], ends[2])]
    assert some == ENTRIES[1:3]
    assert ends[-1] == (output / JOURNAL).stat().st_size


def test_the_kinds_of_some_files(output: Path) -> None:
    ids = [each.id for each in ENTRIES[1:3]]
    assert kinds_of(output / JOURNAL, ids) == {ids[0]: "unreadable", ids[1]: "anomalous"}
