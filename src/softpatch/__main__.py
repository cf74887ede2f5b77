"""The commands `softpatch` and `python -m softpatch`, ready to be stopped before anything slow is imported."""

import gc
import os
import signal
import sys
from contextlib import suppress

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_received: list[int] = []


def main() -> None:
    """Run the command line; Ctrl-C, a request to terminate and a closed terminal tidy up and leave: 130, 143, 129."""
    for name in ("stdout", "stderr"):  # closed ones: the next file that is opened must not take their place
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  pathlib is slow to import
    for number in _SIGNALS:
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:  # nohup does so
            signal.signal(number, _leave)
    try:
        from softpatch import cli

        cli.main()
    except SystemExit as leaving:
        if not _received:
            _received.append(0)  # the end is not to be disturbed either
            raise
        with suppress(OSError):
            if leaving.code == 128 + signal.SIGINT:
                print("softpatch: interrupted", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(128 + _received[0])  # a thread still at work in compiled code would abort an orderly end
    finally:
        gc.freeze()  # else the end of the process looks for garbage among all that torch made, for a second


def _leave(number: int, _: object) -> None:
    _received.append(number)
    if len(_received) == 1:  # the tidying up must not be disturbed by a second, which may be here already
        raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
