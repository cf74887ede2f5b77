"""The server's log: a line of JSON for each event, on standard error."""

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any


def log(event: str, **values: Any) -> None:
    """Write a line with the time, the event and what else is known of it; never what an image shows."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    with suppress(OSError, ValueError):  # whoever reads the log may be gone
        print(json.dumps({"time": time, "event": event, **values}, default=str), file=sys.stderr, flush=True)


class LogHandler(logging.Handler):
    """Has what libraries say by `logging` in the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as a line."""
        error = record.exc_info[1] if record.exc_info else None
        log("server", level=record.levelname, message=record.getMessage(), error=None if error is None else repr(error))
