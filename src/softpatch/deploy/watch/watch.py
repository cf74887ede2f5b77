"""A folder that files come into is watched: each is judged once when it is complete, written down, moved and sent."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from softpatch.atomic import remove_leftovers
from softpatch.config import OverlayStyle
from softpatch.data.images import SkippedImage, as_asked, file_ref
from softpatch.deploy.watch.arrivals import Arrival, Arrivals
from softpatch.deploy.watch.delivery import Delivery
from softpatch.deploy.watch.drift import WatchedDrift
from softpatch.deploy.watch.journal import JOURNAL, UNREADABLE, Entry, Journal, kinds_of
from softpatch.deploy.watch.moving import move_file
from softpatch.detector import Detector
from softpatch.errors import ImageError, InputError
from softpatch.results import Prediction
from softpatch.review.outputs import draw, file_state, is_disk_full
from softpatch.review.run import Run

_AT_ONCE = 256  # files that are given to the detector together
_COMMIT_EVERY = 0.2  # seconds
_MOVE_AGAIN = 30.0  # seconds, for a file that could not be moved
_SHARE_OF_LOOKING = 4  # a pause is at least so many times as long as the look before it
_SLICE = 0.1  # seconds of a pause, after which it is asked whether to stop


@dataclass(frozen=True)
class Watched:
    """What to watch, and what to do with what comes.

    Results go to `output`, and judged files to a folder of their verdict below `move`, if given. `settle` seconds
    without a change make a file complete, and `poll` seconds pass between two looks; with `once` the watch ends when
    nothing waits. `threshold` replaces the detector's. Raises `InputError` for times out of their range.
    """

    folder: Path
    output: Path
    move: Path | None = None
    settle: float = 1.0
    poll: float = 0.5
    once: bool = False
    threshold: float | None = None
    maps: bool = False
    overlays: OverlayStyle | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.settle) and self.settle >= 0):
            raise InputError(f"`settle` is {self.settle}; give seconds, 0 or more")
        if not (math.isfinite(self.poll) and self.poll >= 0.01):
            raise InputError(f"`poll` is {self.poll}; give seconds, 0.01 or more")

    @property
    def drawing(self) -> Run:
        """What is drawn of an image, and where, as `softpatch predict` would."""
        root = os.path.abspath(self.folder)  # noqa: PTH100  no links are followed
        return Run("", "", self.threshold, self.maps, self.overlays, root)


class Watch:
    """A watch at work: `run` it. `drift` is told what is judged, where it is given. It is asked through `stopping`
    whether to end, after the file in hand; `show` is given a line about its state, and `note` sentences that a user
    should read."""

    def __init__(
        self,
        detector: Detector,
        watched: Watched,
        journal: Journal,
        deliveries: Sequence[Delivery] = (),
        *,
        drift: WatchedDrift | None = None,
        stopping: Callable[[], bool] = lambda: False,
        show: Callable[[str], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._detector, self._watched, self._journal, self._deliveries = detector, watched, journal, deliveries
        self._drift, self._stopping, self._show, self._note = drift, stopping, show, note
        leave_out = [watched.output, *([watched.move] if watched.move else [])]
        self._arrivals = Arrivals(
            watched.folder, journal.judged.__contains__, settle=watched.settle, leave_out=leave_out
        )
        self._unmoved: dict[Arrival, str] = {}  # judged files with their kinds
        self._stuck: dict[Arrival, str] = {}  # those of them that could not be moved
        self._move_again_at = 0.0
        self._tidy = cache(remove_leftovers)
        self._is_away = False

    def run(self) -> None:
        """Judge what comes until asked to stop, or with `once` until nothing waits.

        Raises `InputError` where results cannot be written.
        """
        self._tell()
        self._judge_what_comes()
        self._draw_drift()

    def _judge_what_comes(self) -> None:
        while not self._stopping():
            began = time.monotonic()
            complete = self._look()
            pause = max(self._watched.poll, _SHARE_OF_LOOKING * (time.monotonic() - began))
            for start in range(0, len(complete), _AT_ONCE):
                self._judge(complete[start : start + _AT_ONCE])
                if self._stopping():
                    return
            self._move()
            self._tell()
            if self._watched.once and not self._arrivals.waiting:
                return
            self._pause(pause)

    def _look(self) -> list[Arrival]:
        """The files that are complete; none while the folder cannot be listed."""
        try:
            look = self._arrivals.look(time.monotonic())
        except OSError as error:
            if self._watched.once:
                raise InputError(f"{self._watched.folder} cannot be listed: {error.strerror or error}") from error
            if not self._is_away:
                self._note(f"{self._watched.folder} cannot be listed ({error.strerror or error}); waiting for it")
            self._is_away = True
            return []
        if self._is_away:
            self._note(f"{self._watched.folder} is there again")
        self._is_away = False
        if self._watched.move and look.judged:
            ids = {arrival.identity.hex(): arrival for arrival in look.judged if arrival not in self._stuck}
            self._unmoved |= {ids[id_]: kind for id_, kind in kinds_of(self._watched.output / JOURNAL, ids).items()}
        return look.complete

    def _judge(self, arrivals: Sequence[Arrival]) -> None:
        """Judge files, and write down every so often what was found."""
        judged: list[tuple[Arrival, Entry]] = []
        written = time.monotonic()
        for arrival, row in self._rows(arrivals):
            judged.append((arrival, Entry.of(arrival, row, datetime.now(UTC).isoformat(timespec="seconds"))))
            if time.monotonic() - written > _COMMIT_EVERY or self._stopping():
                self._write_down(judged)
                judged, written = [], time.monotonic()
            if self._stopping():
                return
        self._write_down(judged)

    def _rows(self, arrivals: Sequence[Arrival]) -> Iterator[tuple[Arrival, dict[str, Any]]]:
        """Files with what is written of each: its row, or why it cannot be judged. Others are judged another time:
        those that changed meanwhile, and those that may be readable soon."""
        refs = [file_ref(self._watched.folder / arrival.name) for arrival in arrivals]
        by_name = {ref.name: (ref, arrival) for ref, arrival in zip(refs, arrivals, strict=True)}
        skipped: list[SkippedImage] = []
        threshold = self._watched.threshold
        for answer in self._detector.predict(refs, threshold=threshold, on_skip=skipped.append):
            ref, arrival = by_name[answer.path]
            state = file_state(ref)
            if state not in (arrival.state, None):  # gone it was read whole before
                continue
            self._draw(answer, arrival)
            yield arrival, answer.as_dict()
        for image in skipped:
            ref, arrival = by_name[image.name]
            if file_state(ref) != arrival.state or self._arrivals.try_later(arrival, time.monotonic()):
                continue
            yield arrival, {"path": image.name, "reason": image.reason}

    def _draw(self, answer: Prediction, arrival: Arrival) -> None:
        """Draw what is asked for of an image; a verdict is worth more than a picture that cannot be drawn."""
        drawing, output = self._watched.drawing, self._watched.output
        places = [output / picture for picture in drawing.pictures(answer.path)]
        for place in places:
            self._tidy(place.parent)
        drawn = answer
        if any(place.exists() for place in places):  # of another file that had the name
            drawn = replace(answer, path=f"{answer.path}.{arrival.identity.hex()[:8]}")
        try:
            (ref,) = as_asked([file_ref(self._watched.folder / arrival.name)], self._detector.settings)
            draw(drawn, ref, arrival.state, drawing, output)
        except (ImageError, InputError) as error:
            if is_disk_full(error):
                raise
            self._note(f"no picture of {answer.path}: {error}")

    def _write_down(self, judged: Sequence[tuple[Arrival, Entry]]) -> None:
        if not judged:
            return
        entries = [entry for _, entry in judged]
        if self._drift is not None:
            entries = self._drift.follow(entries)
        self._journal.append(entries)
        for delivery in self._deliveries:
            delivery.announce(entries, self._journal.length)
        for arrival, entry in judged:
            self._arrivals.done(arrival)
            self._unmoved[arrival] = entry.kind
        self._move()
        if self._drift is not None:
            self._drift.keep(self._journal.length)
            self._tell_drift(entries)
        self._tell()

    def _tell_drift(self, entries: Sequence[Entry]) -> None:
        """Say what entries told of drift, and draw it."""
        told = [entry.drift for entry in entries if entry.drift is not None]
        for event in told:
            begin = event["first_path"]
            self._note(event["sentence"] + (f" (it begins at {begin})" if begin else ""))
        if told:
            self._draw_drift()

    def _draw_drift(self) -> None:
        try:
            if self._drift is not None:
                self._drift.draw()
        except InputError as error:
            if is_disk_full(error):
                raise
            self._note(f"no picture of drift: {error}")

    def _move(self) -> None:
        """Move judged files away; those that cannot be moved are tried again every while."""
        now, waiting = time.monotonic(), self._unmoved
        self._unmoved = {}
        if self._watched.move is None:
            return
        if now >= self._move_again_at:
            waiting, self._stuck = {**self._stuck, **waiting}, {}
        for arrival, kind in waiting.items():
            source = self._watched.folder / arrival.name
            if file_state(file_ref(source)) != arrival.state:  # another file has its name by now, or it is gone
                continue
            try:
                move_file(source, self._watched.move / kind / arrival.name)
            except (OSError, InputError) as error:
                if not self._stuck:
                    self._note(f"{source} cannot be moved ({error}); tried again every {_MOVE_AGAIN:.0f} s")
                    self._move_again_at = now + _MOVE_AGAIN
                self._stuck[arrival] = kind

    def _tell(self) -> None:
        """Show where the watch stands."""
        counts = self._journal.counts
        parts = [f"{self._journal.total} judged", f"{counts['anomalous']} anomalous"]
        parts += [f"{counts[UNREADABLE]} unreadable"] if counts[UNREADABLE] else []
        parts += [f"{self._arrivals.waiting} waiting"]
        unsent = sum(delivery.waiting for delivery in self._deliveries)
        parts += [f"{unsent} to send"] if unsent else []
        alarm = None if self._drift is None else self._drift.drift.alarm
        parts += [f"alarm: {alarm.kind}"] if alarm else []
        self._show(f"watching {self._watched.folder}: {', '.join(parts)}")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))
