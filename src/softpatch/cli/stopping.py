"""A command that runs until it is stopped, and then ends what it has in hand."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_by_signal() -> Iterator[Callable[[], bool]]:
    """Give what tells whether Ctrl-C or a request to terminate came while the block runs.

    The second one does what it does to other commands, which is to leave at once.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        handler = before[signal.Signals(number)]
        if len(received) > 1 and callable(handler):
            handler(number, frame)

    for each in _SIGNALS:
        signal.signal(each, note)
    try:
        yield lambda: bool(received)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
