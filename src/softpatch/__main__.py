"""The commands `softpatch` and `python -m softpatch`, ready to be stopped before anything slow is imported."""

import os
import signal
import sys
from contextlib import suppress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the command line; Ctrl-C and a request to terminate tidy up and leave with 130 and 143."""
    for number in _SIGNALS:
        signal.signal(number, _leave)
    try:
        from softpatch import cli

        cli.main()
    except SystemExit as leaving:
        if leaving.code not in [128 + number for number in _SIGNALS]:
            raise
        with suppress(OSError):
            if leaving.code == 128 + signal.SIGINT:
                print("softpatch: interrupted", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(int(leaving.code))  # a thread still at work in compiled code would abort an orderly end


def _leave(number: int, _: object) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not disturb the tidying up
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
