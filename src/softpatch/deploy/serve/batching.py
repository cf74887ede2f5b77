"""Images that wait for the same model are judged together, in one thread, so that torch's threads do not fight.

Nobody waits for a batch to fill unless asked to: while one is judged the next gathers by itself.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from softpatch.data.images import ImageRef, SkippedImage, as_asked
from softpatch.deploy.serve.catalogue import ModelFile
from softpatch.detector import Detector
from softpatch.results import Prediction

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, eq=False)
class Judged:
    """An image, read as its detector reads it, and what was said of it: a prediction, or why there is none."""

    ref: ImageRef
    answer: Prediction | str


def judge(detector: Detector, refs: Sequence[ImageRef]) -> list[Judged]:
    """Judge images in order, whatever their names; reasons name no file."""
    numbered = [replace(ref, name=str(number)) for number, ref in enumerate(refs)]
    skipped: list[SkippedImage] = []
    found = {prediction.path: prediction for prediction in detector.predict(numbered, on_skip=skipped.append)}
    reasons = {image.name: image.reason for image in skipped}
    judged = []
    for number, ref in enumerate(as_asked(refs, detector.settings)):
        prediction = found.get(str(number))
        if prediction is not None:
            judged.append(Judged(ref, replace(prediction, path=ref.name)))
            continue
        reason = reasons[str(number)]
        if ref.path is not None:
            reason = reason.replace(str(ref.path), ref.name).replace(ref.path.name, ref.name)
        judged.append(Judged(ref, reason))
    return judged


@dataclass(frozen=True, eq=False)
class _Job(Generic[_Answer]):
    file: ModelFile
    refs: Sequence[ImageRef]
    future: Future[list[_Answer]]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[_Answer]):
    """A thread that gives the images of waiting jobs to `work`, those of one model together.

    `work` gives an answer for each image, in order. A batch has at most `size` images, or is a single job, whose images
    stay together; it waits at most `wait` seconds for others. `on_batch` is told how many images a batch has. Where
    `work` fails for several jobs, each is tried alone.
    """

    def __init__(
        self,
        work: Callable[[ModelFile, Sequence[ImageRef]], Sequence[_Answer]],
        *,
        size: int,
        wait: float,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._work, self._size, self._wait, self._on_batch = work, size, wait, on_batch
        self._jobs: list[_Job[_Answer]] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="softpatch-judge", daemon=True)
        self._thread.start()

    def submit(self, file: ModelFile, refs: Sequence[ImageRef]) -> Future[list[_Answer]]:
        """Have images judged by a model; a job that is cancelled while it waits is dropped."""
        job: _Job[_Answer] = _Job(file, refs, Future())
        with self._changed:
            if self._is_closed:
                job.future.cancel()
            else:
                self._jobs.append(job)
                self._changed.notify()
        return job.future

    def waiting(self) -> int:
        """How many images wait."""
        with self._changed:
            return sum(len(job.refs) for job in self._jobs)

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            live = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if live:
                self._on_batch(sum(len(job.refs) for job in live))
                self._answer(live)

    def _next_batch(self) -> list[_Job[_Answer]]:
        """The jobs to be done next, as soon as there are enough or they have waited; none at the end."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            if not self._jobs:
                return []
            first = self._jobs[0]
            while len(batch := self._together()) == len(self._jobs) and not self._is_closed:
                rest = first.since + self._wait - time.monotonic()
                if rest <= 0 or sum(len(job.refs) for job in batch) >= self._size:
                    break
                self._changed.wait(rest)
            self._jobs = [job for job in self._jobs if job not in batch]
            return batch

    def _together(self) -> list[_Job[_Answer]]:
        """The first job, and those of the same model that fit into a batch with it."""
        first, *others = self._jobs
        batch, images = [first], len(first.refs)
        for job in others:
            if job.file.key == first.file.key and images + len(job.refs) <= self._size:
                batch.append(job)
                images += len(job.refs)
        return batch

    def _answer(self, jobs: Sequence[_Job[_Answer]]) -> None:
        try:
            answers = list(self._work(jobs[-1].file, [ref for job in jobs for ref in job.refs]))
        except BaseException as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job in jobs:
            job.future.set_result(answers[: len(job.refs)])
            del answers[: len(job.refs)]
