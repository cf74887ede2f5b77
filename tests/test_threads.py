"""Workers that are kept: torch uses one thread in each, elsewhere as many as before; a fork has workers of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, get_ident

import numpy as np
import pytest
import torch

from softpatch.estimator import SoftPatch
from softpatch.features.backbone import load_backbone
from softpatch.threads import one_ahead, single_threaded_workers


def test_the_next_item_is_made_while_one_is_in_use() -> None:
    made = [Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number
        raise OSError("no more")

    ahead = one_ahead(items())
    for number in range(4):
        assert next(ahead) == number
        assert made[min(number + 1, 3)].wait(timeout=60)
    with pytest.raises(OSError, match="no more"):
        next(ahead)


def test_of_what_nobody_waits_for_only_one_item_is_made() -> None:
    made: list[int] = []
    ahead = one_ahead(made.append(number) or number for number in range(10))  # type: ignore[func-returns-value]
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert made == [0, 1]


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_workers() -> None:
    together = Barrier(3)

    def meet(_: int) -> tuple[int, int]:
        together.wait(timeout=60)  # all three are there
        return get_ident(), torch.get_num_threads()

    met = list(single_threaded_workers().map(meet, range(3)))
    assert len({who for who, _ in met}) == 3
    assert {threads for _, threads in met} == {1}
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:  # in threads yet to begin, too
        assert pool.submit(torch.get_num_threads).result() == 3
    assert single_threaded_workers() is single_threaded_workers()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_workers_of_its_own() -> None:
    script = """
import os, sys
from softpatch.threads import single_threaded_workers

assert list(single_threaded_workers().map(abs, [-1])) == [1]
child = os.fork()
if child == 0:
    os._exit(sum(single_threaded_workers().map(abs, [-3, 4])))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], timeout=120, check=False).returncode == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_forked_after_predicting_says_that_it_cannot(
    fitted: SoftPatch, defective_images: np.ndarray, tmp_path: Path
) -> None:
    # OpenMP's threads are gone in the child, and it would wait for them; where nothing ran before, all is well
    model, frame = tmp_path / "model.safetensors", tmp_path / "frame.npy"
    fitted.save(model)
    np.save(frame, defective_images[0].repeat(4, axis=0).repeat(4, axis=1))
    script = f"""
import os, signal, sys
import numpy as np
import torch
from softpatch import InputError, SoftPatch

torch.set_num_threads(2)
frame = np.load({str(frame)!r})
child = os.fork()
if child == 0:
    signal.alarm(100)  # leaves nothing behind that hangs
    detector = SoftPatch.load({str(model)!r}, device="cpu")
    os._exit(3 if detector.predict(frame).is_anomalous in (True, False) else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
detector = SoftPatch.load({str(model)!r}, device="cpu")
detector.predict(frame)
child = os.fork()
if child == 0:
    signal.alarm(100)
    try:
        detector.predict(frame)
    except InputError as error:
        os._exit(4 if "was forked" in str(error) else 2)
sys.exit(status + os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], timeout=120, check=False).returncode == 7


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_threads_that_share_out_images_change_no_map(count: int) -> None:
    backbone = load_backbone("builtin-v1")
    images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (found,) = backbone.feature_maps(images)
    expected = torch.cat([backbone.feature_maps(image[None])[0] for image in images])
    assert found.shape == (count, 128, 8, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
