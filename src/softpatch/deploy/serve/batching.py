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


class AbandonedError(Exception):
    """Nobody waits any more for what was being judged."""


@dataclass(frozen=True, eq=False)
class Judged:
    """An image, read as its detector reads it, and what that said of it: a prediction, or why there is none."""

    ref: ImageRef
    answer: Prediction | str
    detector: Detector

    def at(self, threshold: float | None) -> "Judged":
        """The same at another threshold, as `Detector.predict` has it; None leaves the model's."""
        if threshold is None or isinstance(self.answer, str):
            return self
        other = self.detector.with_threshold(threshold)
        moved = replace(
            self.answer,
            threshold=other.threshold,
            check_threshold=other.check_threshold,
            map_threshold=other.map_threshold,
        )
        return replace(self, answer=moved)


def judge(detector: Detector, refs: Sequence[ImageRef], is_wanted: Callable[[], bool] = lambda: True) -> list[Judged]:
    """Judge images in order, whatever their names; reasons name no file.

    Raises `AbandonedError` after an image when they are no longer wanted.
    """
    numbered = [replace(ref, name=str(number)) for number, ref in enumerate(refs)]
    found: dict[str, Prediction] = {}
    reasons: dict[str, str] = {}

    def check_wanted() -> None:
        if not is_wanted():
            raise AbandonedError

    def note_skipped(image: SkippedImage) -> None:
        reasons[image.name] = image.reason
        check_wanted()

    for prediction in detector.predict(numbered, on_skip=note_skipped):
        found[prediction.path] = prediction
        check_wanted()
    judged = []
    for number, ref in enumerate(as_asked(refs, detector.settings)):
        if str(number) in found:
            judged.append(Judged(ref, replace(found[str(number)], path=ref.name), detector))
            continue
        reason = reasons[str(number)]
        if ref.path is not None:
            reason = reason.replace(str(ref.path), ref.name).replace(ref.path.name, ref.name)
        judged.append(Judged(ref, reason, detector))
    return judged


@dataclass(eq=False)
class Job(Generic[_Answer]):
    """Images to be judged together by a model, which count for its drift or not. Where nobody waits for them any more,
    `is_abandoned` is set."""

    file: ModelFile
    refs: Sequence[ImageRef]
    counts: bool = True
    future: Future[list[_Answer]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    is_abandoned: bool = False

    def abandon(self) -> None:
        """Have the job dropped where it waits, and stopped after an image where it is at work."""
        self.is_abandoned = True
        self.future.cancel()


class Batcher(Generic[_Answer]):
    """A thread that gives the images of waiting jobs to `work`, those of one model together.

    `work` gives an answer for each image, in order, and may raise `AbandonedError` once nobody wants them, which its
    last argument says. A batch has at most `size` images, or is a single job, whose images
    stay together; it waits at most `wait` seconds for others. `on_batch` is told how many images a batch has, and
    `on_answers` each job with its answers, in the order in which they are judged and before anybody else has them.
    Where `work` fails for several jobs, each is tried alone.
    """

    def __init__(
        self,
        work: Callable[[ModelFile, Sequence[ImageRef], Callable[[], bool]], Sequence[_Answer]],
        *,
        size: int,
        wait: float,
        on_batch: Callable[[int], None] = lambda _: None,
        on_answers: Callable[[Job[_Answer], Sequence[_Answer]], None] = lambda *_: None,
    ) -> None:
        self._work, self._size, self._wait, self._on_batch, self._on_answers = work, size, wait, on_batch, on_answers
        self._jobs: list[Job[_Answer]] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="softpatch-judge", daemon=True)
        self._thread.start()

    def submit(self, file: ModelFile, refs: Sequence[ImageRef], *, counts: bool = True) -> Job[_Answer]:
        """Have images judged by a model."""
        job: Job[_Answer] = Job(file, refs, counts)
        with self._changed:
            if self._is_closed:
                job.future.cancel()
            else:
                self._jobs.append(job)
                self._changed.notify()
        return job

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

    def _next_batch(self) -> list[Job[_Answer]]:
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

    def _together(self) -> list[Job[_Answer]]:
        """The first job, and those of the same model that fit into a batch with it."""
        first, *others = self._jobs
        batch, images = [first], len(first.refs)
        for job in others:
            if job.file.key == first.file.key and images + len(job.refs) <= self._size:
                batch.append(job)
                images += len(job.refs)
        return batch

    def _answer(self, jobs: Sequence[Job[_Answer]]) -> None:
        try:
            refs = [ref for job in jobs for ref in job.refs]
            answers = list(self._work(jobs[-1].file, refs, lambda: not all(job.is_abandoned for job in jobs)))
        except BaseException as error:
            if len(jobs) == 1 or isinstance(error, AbandonedError):
                for job in jobs:
                    job.future.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job in jobs:
            self._on_answers(job, answers[: len(job.refs)])
            job.future.set_result(answers[: len(job.refs)])
            del answers[: len(job.refs)]
