"""What the routes of the server share: models, the thread that judges, limits, uploads and metrics."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from starlette.requests import Request

from softpatch.config import Runtime, check_threshold
from softpatch.data.images import ImageRef
from softpatch.deploy.serve.batching import Batcher, Job, Judged, judge
from softpatch.deploy.serve.catalogue import ModelFile
from softpatch.deploy.serve.drift import Drifts
from softpatch.deploy.serve.limits import Limits
from softpatch.deploy.serve.log import log
from softpatch.deploy.serve.metrics import Metrics, make_metrics
from softpatch.deploy.serve.models import Models, Outcome
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.deploy.serve.settings import ServeSettings
from softpatch.deploy.serve.uploads import Uploads, uploads
from softpatch.detector import Detector
from softpatch.errors import is_out_of_memory
from softpatch.estimator import SoftPatch
from softpatch.features.backbone import torch_device
from softpatch.results import Prediction


@dataclass(eq=False)
class Service:
    """A server's parts. `is_ready` turns false when it is to end."""

    settings: ServeSettings
    models: Models
    batcher: Batcher[Judged]
    limits: Limits
    uploads: Uploads
    drifts: Drifts
    metrics: Metrics
    is_ready: bool = True

    async def find(self, name: str | None, version: str | None = None) -> ModelFile:
        """See `Models.find`; files are looked at beside the event loop."""
        return await asyncio.to_thread(self.models.find, name, version)

    async def judged(
        self, request: Request, file: ModelFile, refs: Sequence[ImageRef], threshold: float | None, *, drift: bool
    ) -> list[Judged]:
        """Have images judged, at a threshold that replaces the model's, and note what was said of them.

        `drift` says whether they are the next of those whose change is to be told.
        """
        job = self.batcher.submit(file, refs, counts=drift)
        try:
            answers = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.abandon()
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise RequestError(503, "the server is short of memory; try again later", retry_after=5) from error
            raise
        judged = [answer.at(threshold) for answer in answers]
        predictions = [each.answer for each in judged if isinstance(each.answer, Prediction)]
        for prediction in predictions:
            self.metrics.note_prediction(file.name, prediction)
        request.state.noted.update(
            model=file.name,
            version=file.version,
            images=[each.ref.name for each in judged],
            verdicts=[each.answer.verdict if isinstance(each.answer, Prediction) else "error" for each in judged],
        )
        return judged


@contextmanager
def running_service(settings: ServeSettings) -> Iterator[Service]:
    """The parts of a server, at work while the block runs."""
    limits = Limits(
        max_in_flight=settings.max_in_flight, max_bytes=settings.max_request_bytes, seconds=settings.timeout
    )
    metrics = make_metrics(
        waiting=lambda: batcher.waiting(),
        loaded=lambda: models.count_loaded(),
        in_flight=lambda: limits.in_flight,
        drifts=lambda: drifts.current(),
    )

    def on_load(file: ModelFile, outcome: Outcome, reason: str) -> None:
        metrics.loads.labels(file.name, outcome).inc()
        if outcome == "loaded":
            drifts.loaded(file)
        log("model", model=file.name, version=file.version, outcome=outcome, path=str(file.path), reason=reason)

    models = Models(settings.models, _loader(settings), keep=settings.loaded, on_load=on_load)
    drifts = Drifts(models.catalogue)

    def work(file: ModelFile, refs: Sequence[ImageRef], is_wanted: Callable[[], bool]) -> list[Judged]:
        return judge(models.detector(file), refs, is_wanted)

    def on_answers(job: Job[Judged], answers: Sequence[Judged]) -> None:
        if job.counts and not job.is_abandoned:  # whose client will ask again
            drifts.follow(job.file, answers)

    batcher: Batcher[Judged] = Batcher(
        work,
        size=settings.runtime.batch_size,
        wait=settings.batch_wait / 1000,
        on_batch=metrics.batches.observe,
        on_answers=on_answers,
    )
    with uploads() as kept:
        try:
            yield Service(settings, models, batcher, limits, kept, drifts, metrics)
        finally:
            batcher.close()


def _loader(settings: ServeSettings) -> Callable[[Path], Detector]:
    """How a model file is read: on a CPU its images go through the network one by one.

    An answer then does not depend, in its last digits, on what else was asked; together they take a tenth less time.
    """
    is_cpu = torch_device(settings.runtime.device).type == "cpu"
    runtime: Runtime = replace(settings.runtime, batch_size=1) if is_cpu else settings.runtime

    def load(path: Path) -> Detector:
        return SoftPatch.load(path, weights=settings.weights, **asdict(runtime)).detector

    return load


def given_threshold(text: str | None) -> float | None:
    """The threshold in a query. Raises `RequestError` for what is no number of 0 or more."""
    if text is None:
        return None
    try:
        value = float(text)
        check_threshold(value)
    except ValueError as error:
        raise RequestError(400, f"the threshold is {text[:20]!r}; it must be a number of 0 or more") from error
    return value
