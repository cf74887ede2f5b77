"""What is judged is sent at least once, in order, whatever happens to the receiver or to the watcher."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softpatch.deploy.watch.delivery import Delivery
from softpatch.deploy.watch.journal import Entry, Journal, open_journal
from softpatch.errors import InputError
from test_journal import FOLDER, entry

pytestmark = pytest.mark.filterwarnings("error")
PATIENCE = 20.0  # seconds, used only where something is wrong


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.delivery._FIRST_WAIT", 0.01)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(tmp_path, FOLDER) as (opened, _):
        yield opened


class Receiver:
    """Takes messages, or is away so many times."""

    def __init__(self, away: int = 0) -> None:
        self.away, self.taken, self.arrived = away, list[dict[str, object]](), threading.Event()

    def __call__(self, content: bytes) -> None:
        if self.away:
            self.away -= 1
            raise ConnectionError("nobody is there")
        self.taken.append(json.loads(content))
        self.arrived.set()

    @property
    def paths(self) -> list[object]:
        return [each["path"] for each in self.taken]


def judge(journal: Journal, delivery: Delivery | None, *entries: Entry) -> None:
    journal.append(entries)
    if delivery:
        delivery.announce(entries, journal.length)


def deliver(
    receiver: Callable[[bytes], None], folder: Path, journal: Journal, *entries: Entry, patience: float = PATIENCE,
    only: tuple[str, ...] = (),
) -> list[str]:  # fmt: skip
    """Send entries that are judged now, and give the notes."""
    notes: list[str] = []
    delivery = Delivery("test", receiver, folder, journal, only=only, note=notes.append)
    delivery.begin()
    judge(journal, delivery, *entries)
    delivery.close(patience)
    return notes


def test_a_message_is_the_row_with_an_id_and_a_time(journal: Journal, tmp_path: Path) -> None:
    judged, receiver = entry("a.png", verdict="anomalous"), Receiver()
    assert deliver(receiver, tmp_path, journal, judged) == []
    assert receiver.taken == [{"id": judged.id, "time": "2026-01-02T03:04:05+00:00", **judged.row}]


def test_a_receiver_that_is_away_gets_everything_later_in_order(journal: Journal, tmp_path: Path) -> None:
    receiver = Receiver(away=3)
    notes = deliver(receiver, tmp_path, journal, entry("a.png"), entry("b.png"), entry("c.png"))
    assert receiver.paths == ["in/a.png", "in/b.png", "in/c.png"]
    assert notes == [
        "test: nobody is there; verdicts are kept, and sending them is tried again",
        "test: sending works again",
    ]


def test_what_was_not_sent_is_sent_by_the_next_watcher(journal: Journal, tmp_path: Path) -> None:
    away = Receiver(away=10**9)
    notes = deliver(away, tmp_path, journal, entry("a.png"), entry("b.png"), patience=0.05)
    assert notes[-1] == "test: 2 not sent yet; the next watcher into the same folder sends them"
    receiver = Receiver()
    deliver(receiver, tmp_path, journal, entry("c.png"))
    assert receiver.paths == ["in/a.png", "in/b.png", "in/c.png"]
    deliver(receiver, tmp_path, journal)
    assert len(receiver.taken) == 3


def test_what_was_judged_before_anything_was_sent_is_not(journal: Journal, tmp_path: Path) -> None:
    judge(journal, None, entry("a.png"))
    receiver = Receiver()
    deliver(receiver, tmp_path, journal, entry("b.png"))
    assert receiver.paths == ["in/b.png"]


def test_a_watcher_that_is_killed_before_it_sends_loses_nothing(journal: Journal, tmp_path: Path) -> None:
    Delivery("test", Receiver(), tmp_path, journal, note=print)  # never begun
    judge(journal, None, entry("a.png"))
    receiver = Receiver()
    deliver(receiver, tmp_path, journal)
    assert receiver.paths == ["in/a.png"]


def test_only_some_verdicts(journal: Journal, tmp_path: Path) -> None:
    entries = [entry(f"{verdict}.png", verdict=verdict) for verdict in ("good", "check", "anomalous")]
    entries.append(entry("broken.png", reason="empty"))
    receiver = Receiver()
    deliver(receiver, tmp_path, journal, *entries, only=("anomalous", "check"))
    assert receiver.paths == ["in/check.png", "in/anomalous.png"]
    everything = Receiver()
    (tmp_path / "test.sent").unlink()
    deliver(everything, tmp_path, journal, *(entry(f"2{name}", verdict="good") for name in "ab"))
    assert everything.paths == ["in/2a", "in/2b"]


def test_unreadable_files_have_no_verdict_to_send(journal: Journal, tmp_path: Path) -> None:
    receiver = Receiver()
    deliver(receiver, tmp_path, journal, entry("broken.png", reason="empty"))
    assert receiver.taken == []


def test_judging_does_not_wait_for_a_receiver(journal: Journal, tmp_path: Path) -> None:
    let_go = threading.Event()
    receiver = Receiver()

    def slow(content: bytes) -> None:
        let_go.wait()
        receiver(content)

    delivery = Delivery("test", slow, tmp_path, journal, note=print)
    delivery.begin()
    judge(journal, delivery, entry("a.png"))
    judge(journal, delivery, entry("b.png"))  # returns while the first is being sent
    assert (delivery.waiting, receiver.taken) == (2, [])
    let_go.set()
    delivery.close(PATIENCE)
    assert (delivery.waiting, receiver.paths) == (0, ["in/a.png", "in/b.png"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sent_bytes": 5}', '{"sent_bytes": -1}', '{"sent_bytes": "1"}'])
def test_a_place_that_is_none_is_refused(content: str, journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "test.sent").write_text(content)
    with pytest.raises(InputError, match="does not say how much was sent"):
        Delivery("test", Receiver(), tmp_path, journal, note=print)


def test_a_journal_that_lost_its_end_is_gone_on_with(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "test.sent").write_text('{"sent_bytes": 1000000}')
    receiver = Receiver()
    deliver(receiver, tmp_path, journal, entry("a.png"))
    assert receiver.paths == ["in/a.png"]
