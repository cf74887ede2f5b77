"""Verdicts are sent elsewhere, each at least once, by a thread that judging never waits for.

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
from softpatch.deploy.watch.journal import JOURNAL, UNREADABLE, Entry, Journal, entries_of
from softpatch.errors import InputError

Send = Callable[[bytes], None]
"""Deliver a message, which is JSON. Raises `ConnectionError`, with the reason, where it may not have arrived."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds from a failure to the next try, doubled each time
_KEPT_EVERY = 1.0  # seconds; what is sent in that time is sent twice where the watcher is killed


def message(entry: Entry) -> bytes:
    """What is sent of a judged file: the row of it, with the `id` and the `time` when it was judged."""
    return json.dumps({"id": entry.id, "time": entry.time, **entry.row}).encode()


class Delivery:
    """The thread that sends what a journal says, to the receiver of this `name`; `begin` it, and `close` it at the end.

    Of the verdicts those in `only` are sent, all where it is empty; files that could not be judged have none. Where
    nothing was sent to this name from this folder before, it begins with what is judged from now on. `note` is given a
    sentence when the receiver cannot be reached, and when it can again. Raises `InputError` where the file that says
    how far it came holds anything else.
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
        self.waiting = sum(self._is_sent(each) for _, each in entries_of(self._journal_file, self._done, self._end))
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
            self.waiting += sum(self._is_sent(entry) for entry in entries)
            self._changed.notify()

    def close(self, patience: float) -> None:
        """Send what waits, for at most so many seconds, then stop. The rest is kept."""
        with self._changed:
            self._deadline = time.monotonic() + patience
            self._changed.notify()
        self._thread.join(patience)
        if self.waiting:
            self._note(f"{self._name}: {self.waiting} not sent yet; the next watcher into the same folder sends them")

    def _is_sent(self, entry: Entry) -> bool:
        return entry.kind != UNREADABLE and (not self._only or entry.kind in self._only)

    def _work(self) -> None:
        try:
            while (end := self._next_end()) is not None:
                for place, entry in entries_of(self._journal_file, self._done, end):
                    if self._is_sent(entry) and not self._deliver(entry):
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

    def _deliver(self, entry: Entry) -> bool:
        """Send an entry, however often it takes; False where the end came before that."""
        wait = 0.0
        while time.monotonic() < self._deadline:
            try:
                self._send(message(entry))
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
        if isinstance(found, int) and found > 0 and self._begins_line(min(found, self._end)):
            return min(found, self._end)
        raise InputError(f"{self._place} does not say how much was sent; remove it to send what is judged from now on")

    def _begins_line(self, place: int) -> bool:
        with self._journal_file.open("rb") as file:
            file.seek(place - 1)
            return file.read(1) == b"\n"

    def _keep_place(self) -> None:
        if self._kept != self._done:
            with replacing(self._place) as temporary:
                temporary.write_text(f'{{"sent_bytes": {self._done}}}\n')
            self._kept, self._kept_at = self._done, time.monotonic()
