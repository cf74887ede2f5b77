from collections.abc import Callable
from functools import partial

import pytest
import torch

from softpatch.data.images import ImageRef, SkippedImage, pixel_digests, read_in_batches
from softpatch.errors import ImageError


def constant(value: int) -> Callable[[object], torch.Tensor]:
    return lambda _: torch.full((3, 2, 4), float(value))


def fails(_: object) -> torch.Tensor:
    raise ImageError("the file is empty")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_keep_the_order_and_leave_out_what_fails(workers: int) -> None:
    refs = [ImageRef(str(i), fails if i == 3 else constant(i)) for i in range(11)]
    skipped: list[SkippedImage] = []
    batches = list(
        read_in_batches(refs, lambda image: image[:1], batch_size=4, workers=workers, on_skip=skipped.append)
    )
    assert [len(names) for names, _, _ in batches] == [4, 4, 2]
    values = torch.cat([stack for _, _, stack in batches])
    assert values.shape == (10, 1, 2, 4)
    names = [ref.name for names, _, _ in batches for ref in names]
    assert names == [str(int(value)) for value in values[:, 0, 0, 0]] == [str(i) for i in range(11) if i != 3]
    assert batches[0][1] == [(4, 2)] * 4  # width, height
    assert skipped == [SkippedImage("3", "the file is empty")]


def test_without_on_skip_the_first_failure_is_raised_with_its_name() -> None:
    refs = [ImageRef("good", constant(1)), ImageRef("bad.png", fails)]
    with pytest.raises(ImageError, match=r"bad\.png: the file is empty"):
        list(read_in_batches(refs, torch.clone, batch_size=1, workers=2))


def test_reading_runs_only_a_little_ahead() -> None:
    read: list[int] = []

    def note(value: int, _: object) -> torch.Tensor:
        read.append(value)
        return torch.zeros(3, 1, 1)

    refs = [ImageRef(str(i), partial(note, i)) for i in range(100)]
    next(batches := read_in_batches(refs, torch.clone, batch_size=2, workers=1))
    batches.close()  # type: ignore[attr-defined]
    assert len(read) <= 8


def test_equal_pixels_have_equal_digests() -> None:
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images[2] = images[0]
    first, second, third = pixel_digests(images)
    assert (first == third, first == second) == (True, False)
    assert pixel_digests(images.contiguous(memory_format=torch.channels_last)) == [first, second, third]
