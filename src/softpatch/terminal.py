"""What a terminal shows: progress with stage names, notes and errors. Everything goes to standard error."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from softpatch.progress import Progress, silent

if TYPE_CHECKING:
    from softpatch.data.images import SkippedImage
    from softpatch.data.inputs import ChosenImages

_SHOWN = 10
_BETWEEN_LINES = 60.0  # seconds, where no terminal shows a line that changes


def printable(text: str) -> str:
    """The text on one line, without characters that would command a terminal."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar per stage while the block runs, on a terminal; stay quiet elsewhere."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(stage: str, done: int, total: int) -> None:
            if not bars.tasks or bars.tasks[-1].description != stage or bars.tasks[-1].finished:
                bars.add_task(stage, total=total)
            bars.update(bars.tasks[-1].id, completed=done, total=total)

        yield report


@contextmanager
def status_line(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Give what shows the state of work that goes on: on a terminal one line that changes while the block runs.

    Elsewhere a line is printed when the state has changed, at most every minute, and the last one at the end.
    """
    if quiet:
        yield lambda _: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("") as status:
            yield lambda text: status.update(Text(printable(text)))
        return
    shown, latest, said_at = "", "", -_BETWEEN_LINES

    def show(text: str) -> None:
        nonlocal shown, latest, said_at
        latest = text
        if text != shown and time.monotonic() - said_at >= _BETWEEN_LINES:
            say(text)
            shown, said_at = text, time.monotonic()

    try:
        yield show
    finally:
        if latest != shown:
            say(latest)


def say(message: str) -> None:
    """Print a line of information to standard error, whatever characters a file name brings into it."""
    with suppress(OSError):  # whoever reads errors may be gone; that is none
        print(printable(message), file=sys.stderr, flush=True)


def list_files(chosen: "ChosenImages") -> None:
    """Print every file that would be taken or was passed over, a line each, and how many to standard error."""
    lines = [(ref.name, "image") for ref in chosen.refs]
    lines += [(str(each.path), f"{each.kind}, passed over") for each in chosen.passed_over]
    for name, what in sorted(lines):
        print(f"{printable(name)}: {what}")
    say(f"{len(chosen.refs)} images")
    list_passed_over(chosen)


def list_passed_over(chosen: "ChosenImages") -> None:
    """Close a run with what was passed over beside the images, and notes on them."""
    from softpatch.data.folder import summary

    if chosen.passed_over:
        say(f"Passed over: {summary(chosen.passed_over)}; --list shows all.")
    for note in chosen.notes:
        say(f"Note: {note}")


def list_skipped(skipped: Sequence["SkippedImage"], table: Path | None = None) -> None:
    """Close a run with the images that were left out, and why: all, or the first few where a `table` holds all."""
    if not skipped:
        return
    say(f"{len(skipped)} image{'s' if len(skipped) > 1 else ''} left out:")
    shown = skipped[:_SHOWN] if table else skipped
    for image in shown:
        say(f"  {image.name}: {image.reason}")
    if len(skipped) > len(shown):
        say(f"  and {len(skipped) - len(shown)} more, see {table}")
