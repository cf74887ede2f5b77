"""Jobs become batches of one model, in order; answers go where they belong; failures stay where they arise."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from conftest import plate
from softpatch.config import Runtime
from softpatch.data.frames import frame_refs
from softpatch.data.images import ImageRef, file_ref
from softpatch.data.pixels import ValueRange
from softpatch.deploy.serve.batching import AbandonedError, Batcher, judge
from softpatch.deploy.serve.catalogue import ModelFile
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction


def model(name: str) -> ModelFile:
    return ModelFile(name, 1, Path(f"{name}.safetensors"), (0, 0, 0))


def images(*names: str) -> list[ImageRef]:
    return [ImageRef(name, lambda _: pytest.fail("nothing is read here")) for name in names]


class Held:
    """Work that waits until it is let go, and notes what it was given."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.batches: list[tuple[str, list[str]]] = []

    def __call__(self, file: ModelFile, refs: Sequence[ImageRef], is_wanted: Callable[[], bool]) -> list[str]:
        names = [ref.name for ref in refs]
        self.batches.append((file.name, names))
        self.begun.set()
        assert self.go.wait(10)
        if "bad" in names:
            raise ValueError("bad")
        if not is_wanted():
            raise AbandonedError
        return [f"{file.name}:{name}" for name in names]


@contextmanager
def batcher(work: Held, **options: float) -> Iterator[Batcher[str]]:
    made: Batcher[str] = Batcher(work, **{"size": 4, "wait": 0.0, **options})  # type: ignore[arg-type]
    try:
        yield made
    finally:
        work.go.set()
        made.close()


def test_what_waits_for_one_model_goes_together_and_other_models_keep_their_turn() -> None:
    work = Held()
    with batcher(work) as made:
        first = made.submit(model("a"), images("0"))
        assert work.begun.wait(10)
        rest = [made.submit(model(name), images(*names)) for name, names in
                (("a", "12"), ("b", "3"), ("a", "4"), ("a", "56"), ("b", "78"), ("a", "9abcdef"))]  # fmt: skip
        assert made.waiting() == 15
        work.go.set()
        answers = [job.future.result(10) for job in [first, *rest]]
    assert answers[1:4] == [["a:1", "a:2"], ["b:3"], ["a:4"]]
    assert work.batches == [
        ("a", ["0"]), ("a", ["1", "2", "4"]), ("b", ["3", "7", "8"]), ("a", ["5", "6"]), ("a", [*"9abcdef"])
    ]  # fmt: skip


def test_a_failure_is_that_of_the_job_which_has_it() -> None:
    work = Held()
    with batcher(work) as made:
        made.submit(model("a"), images("0"))
        assert work.begun.wait(10)
        jobs = [made.submit(model("a"), images(name)) for name in ("good", "bad", "better")]
        work.go.set()
        assert jobs[0].future.result(10) == ["a:good"]
        assert jobs[2].future.result(10) == ["a:better"]
        with pytest.raises(ValueError, match="bad"):
            jobs[1].future.result(10)


def test_a_job_that_is_abandoned_is_not_done_or_stopped() -> None:
    work = Held()
    with batcher(work) as made:
        first = made.submit(model("a"), images("0"))
        assert work.begun.wait(10)
        made.submit(model("a"), images("1")).abandon()
        first.abandon()
    assert work.batches == [("a", ["0"])]
    assert isinstance(first.future.exception(0), AbandonedError)


def test_a_batch_goes_on_while_anybody_wants_it() -> None:
    work = Held()
    with batcher(work, wait=60, size=2) as made:
        one, other = (made.submit(model("a"), images(name)) for name in "12")
        assert work.begun.wait(10)
        one.abandon()
        work.go.set()
        assert other.future.result(10) == ["a:2"]
    assert work.batches == [("a", ["1", "2"])]


def test_a_batch_waits_for_others_only_while_it_is_not_full() -> None:
    work = Held()
    work.go.set()
    with batcher(work, size=2, wait=60) as made:
        pair = [made.submit(model("a"), images(name)) for name in "01"]
        assert [job.future.result(10) for job in pair] == [["a:0"], ["a:1"]]
    assert work.batches == [("a", ["0", "1"])]


def test_what_waits_is_finished_at_the_end_and_nothing_taken_after() -> None:
    work = Held()
    with batcher(work, wait=60) as made:
        last = made.submit(model("a"), images("0"))
    assert last.future.result(0) == ["a:0"]
    assert made.submit(model("a"), images("1")).future.cancelled()


def test_judging_is_predicting(fitted: SoftPatch, good_images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = ImageRef("mine.png", file_ref(tmp_path / "broken.png").load, tmp_path / "broken.png")
    refs = [*frame_refs(good_images[:1]), broken, *frame_refs(plate(7, defective=True))]
    judged = judge(fitted.detector, refs)
    expected = fitted.predict([good_images[0], plate(7, defective=True)])
    said = [each.answer for each in judged if isinstance(each.answer, Prediction)]
    assert [each.as_dict() | {"path": ""} for each in said] == [each.as_dict() | {"path": ""} for each in expected]
    assert [each.path for each in said] == ["image 0", "image 0"]
    assert str(judged[1].answer).startswith("the file is not a PNG")


@pytest.mark.parametrize("is_broken", [False, True])
def test_judging_stops_after_an_image_that_nobody_wants(fitted: SoftPatch, tmp_path: Path, is_broken: bool) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    one = file_ref(tmp_path / "broken.png") if is_broken else frame_refs(plate(7))[0]
    read: list[None] = []

    def load(given: ValueRange | None) -> Tensor:
        read.append(None)
        return one.load(given)

    detector = replace(fitted.detector, runtime=Runtime(device="cpu", batch_size=1))
    with pytest.raises(AbandonedError):
        judge(detector, [replace(one, load=load)] * 40, lambda: False)
    assert 0 < len(read) < 15
