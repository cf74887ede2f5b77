"""Verdicts and alarms are sent elsewhere, each at least once, by a thread that judging never waits for.

The journal is what is to be sent, and a small file beside it says up to which byte that is done. So nothing is lost
when the receiver is away, or when the watcher ends or is killed; what was sent shortly before that is sent again, with
the same `id`.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from softpatch.atomic import replacing
from softpatch.deploy.watch.journal import JOURNAL, UNREADABLE, Entry, Journal, begins_line, entries_of
from softpatch.errors import InputError

Send = Callable[[bytes], None]
"""Deliver a message, which is JSON. Raises `ConnectionError`, with the reason, where it may not have arrived."""
DRIFT_EVENT = "drift"
"""What a message of drift has as its `event`; one of a verdict has none."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds from a failure to the next try, doubled each time
_KEPT_EVERY = 1.0  # seconds; what is sent in that time is sent twice where the watcher is killed


def messages(entry: Entry, only: Collection[str] = ()) -> list[bytes]:
    """What is sent of a judged file: its verdict, with the `id` and the `time` when it was judged, then what it told of
    drift, with an `id` of its own. Of a file that could not be judged there is nothing.

    Where `only` is not empty it holds the verdicts that are sent, and "drift" where that is.
    """
    found: dict[str, dict[str, Any]] = {}
    if entry.kind != UNREADABLE:
        found[entry.kind] = {"id": entry.id, "time": entry.time, **entry.row}
    if entry.event is not None:
        found[DRIFT_EVENT] = {"id": f"{entry.id}-{DRIFT_EVENT}", "event": DRIFT_EVENT, **entry.event}
    return [json.dumps(content).encode() for kind, content in found.items() if not only or kind in only]


class Delivery:
    """The thread that sends what a journal says, to the receiver of this `name`; `begin` it, and `close` it at the end.

    What is sent are `messages`, in the order of the journal. Where nothing was sent to this name from this folder
    before, it begins with what is judged from now on. `note` is given a sentence when the receiver cannot be reached,
    and when it can again. Raises `InputError` where the file that says how far it came holds anything else.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        output: Path,
        journal: Journal,
        *,
        only: Collection[str] = (),
        note: Callable[[str], None],
    ) -> None:
        self._name, self._send, self._only, self._note = name, send, frozenset(only), note
        self._journal_file, self._place = output / JOURNAL, output / f"{name}.sent"
        self._end = journal.length
        self._done, self._kept, self._kept_at = self._read_place(), 0, 0.0
        self._keep_place()
        self.waiting = sum(
            len(messages(each, self._only)) for _, each in entries_of(self._journal_file, self._done, self._end)
        )
        self._changed = threading.Condition()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._work, name=f"softpatch-{name}", daemon=True)

    def begin(self) -> None:
        """Start sending."""
        self._thread.start()

    def announce(self, entries: Collection[Entry], end: int) -> None:
        """Say that these entries are in the journal, which is on the disk up to the byte `end`."""
        with self._changed:
            self._end = end
            self.waiting += sum(len(messages(entry, self._only)) for entry in entries)
            self._changed.notify()

    def close(self, patience: float) -> None:
        """Send what waits, for at most so many seconds, then stop. The rest is kept."""
        with self._changed:
            self._deadline = time.monotonic() + patience
            self._changed.notify()
        self._thread.join(patience)
        if self.waiting:
            self._note(f"{self._name}: {self.waiting} not sent yet; the next watcher into the same folder sends them")

    def _work(self) -> None:
        try:
            while (end := self._next_end()) is not None:
                for place, entry in entries_of(self._journal_file, self._done, end):
                    if not all(self._deliver(content) for content in messages(entry, self._only)):
                        return
                    self._done = place
                    if time.monotonic() - self._kept_at > _KEPT_EVERY:
                        self._keep_place()
                self._keep_place()
        except InputError as error:
            self._note(f"{self._name}: {error}; nothing more is sent until the watcher is started again")
        finally:
            with suppress(InputError):
                self._keep_place()

    def _next_end(self) -> int | None:
        """Up to which byte there is something to send, once there is; None at the end."""
        with self._changed:
            while self._done == self._end and self._deadline == math.inf:
                self._changed.wait()
            return None if self._done == self._end else self._end

    def _deliver(self, content: bytes) -> bool:
        """Send a message, however often it takes; False where the end came before that."""
        wait = 0.0
        while time.monotonic() < self._deadline:
            try:
                self._send(content)
            except ConnectionError as error:
                if not wait:
                    self._note(f"{self._name}: {error}; verdicts are kept, and sending them is tried again")
                wait = min(2 * wait, _LONGEST_WAIT) or _FIRST_WAIT
                self._pause(wait)
                continue
            if wait:
                self._note(f"{self._name}: sending works again")
            with self._changed:
                self.waiting -= 1
            return True
        return False

    def _pause(self, seconds: float) -> None:
        """Wait, at most until the end."""
        until = time.monotonic() + seconds
        with self._changed:
            while (left := min(until, self._deadline) - time.monotonic()) > 0:
                self._changed.wait(left)

    def _read_place(self) -> int:
        """The byte of the journal up to which everything is sent."""
        if not self._place.exists():
            return self._end
        found: Any = None
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            found = json.loads(self._place.read_bytes())["sent_bytes"]
        if isinstance(found, int) and found > 0 and begins_line(self._journal_file, min(found, self._end)):
            return min(found, self._end)
        raise InputError(f"{self._place} does not say how much was sent; remove it to send what is judged from now on")

    def _keep_place(self) -> None:
        if self._kept != self._done:
            with replacing(self._place) as temporary:
                temporary.write_text(f'{{"sent_bytes": {self._done}}}\n')
            self._kept, self._kept_at = self._done, time.monotonic()
