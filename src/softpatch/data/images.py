"""Images that are named but not read yet, and reading them in batches, in order.

Nothing is decoded before it is needed, so a long list costs nothing.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from softpatch.config import Settings
from softpatch.data.decode import read_image
from softpatch.data.folder import photographs
from softpatch.data.image_bounds import a_large_image_at_a_time
from softpatch.data.pixels import ValueRange
from softpatch.errors import ImageError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ImageRef:
    """An image that has not been read yet: the name it is reported under, how to read it, and its file if it has one.

    `load` takes the value range of images of more than 8 bits, or None, returns an RGB float32 tensor (3, H, W) in
    [0, 1], and raises `ImageError` where it cannot. `seconds` is the time of a frame in its video.
    """

    name: str
    load: Callable[[ValueRange | None], Tensor]
    path: Path | None = None
    value_range: ValueRange | None = None
    seconds: float | None = None

    def read(self) -> Tensor:
        """Load the image in its value range."""
        return self.load(self.value_range)


@dataclass(frozen=True)
class SkippedImage:
    """An image that was left out, and the reason in one sentence; `copy_of` names the image that it equals, if that is
    why."""

    name: str
    reason: str
    copy_of: str | None = None


def image_files(path: Path) -> list[Path]:
    """List the photographs at `path`, masks and the like passed over (see `softpatch.data.folder.look_into`).

    Raises `InputError` where there is none.
    """
    return list(photographs(path).images)


def file_ref(path: Path) -> ImageRef:
    """The image in a file, under its path as name."""
    return ImageRef(str(path), partial(read_image, path), path)


def some_of(refs: Sequence[ImageRef], count: int) -> list[ImageRef]:
    """At most so many of the images, evenly spaced."""
    return [refs[number] for number in torch.linspace(0, len(refs) - 1, min(len(refs), count)).long().tolist()]


def readable(refs: Iterable[ImageRef]) -> Iterator[Tensor]:
    """Those of the images that can be read, (3, H, W), one after the other."""
    for ref in refs:
        try:
            image = ref.read()
        except ImageError:
            continue
        yield image


def as_asked(refs: Sequence[ImageRef], settings: Settings) -> list[ImageRef]:
    """The images, read in the range of values and of the channels that `settings` say."""
    return [replace(ref, value_range=settings.value_range) for ref in with_channels(refs, settings.channels)]


def with_channels(refs: Sequence[ImageRef], channels: tuple[int, ...] | None) -> list[ImageRef]:
    """The images, of whose files those channels are read; None leaves each file its own."""
    if channels is None:
        return list(refs)
    return [
        ref if ref.path is None else replace(ref, load=partial(read_image, ref.path, channels=channels)) for ref in refs
    ]


def read_in_batches(
    refs: Sequence[ImageRef],
    prepare: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int,
    on_skip: Callable[[SkippedImage], None] | None = None,
) -> Iterator[tuple[list[ImageRef], list[tuple[int, int]], Tensor]]:
    """Read and prepare images in `workers` threads and yield them in order, a batch at a time.

    Yields the refs, their original (width, height) and the prepared images (B, 3, h, w), which lie in memory as files
    have them and networks want them, channels last. An image that cannot be read goes to `on_skip`; without it,
    `ImageError` with the image's name is raised.
    """

    def read(ref: ImageRef) -> tuple[tuple[int, int], Tensor]:
        with a_large_image_at_a_time():
            image = ref.read()
            return (image.shape[2], image.shape[1]), prepare(image)

    names: list[ImageRef] = []
    sizes: list[tuple[int, int]] = []
    prepared: list[Tensor] = []
    for ref, future in _ahead(read, refs, workers=workers, depth=2 * batch_size):
        try:
            size, image = future.result()
        except ImageError as error:
            if on_skip is None:
                raise ImageError(f"{ref.name}: {error}") from error
            on_skip(SkippedImage(ref.name, str(error)))
            continue
        names.append(ref)
        sizes.append(size)
        prepared.append(image)
        if len(names) == batch_size:
            yield names, sizes, _stacked(prepared)
            names, sizes, prepared = [], [], []
    if names:
        yield names, sizes, _stacked(prepared)


def pixel_digests(images: Tensor) -> list[bytes]:
    """Tell prepared images (B, 3, h, w) apart by what is seen of them: equal pixels have equal digests."""
    rows = images.permute(0, 2, 3, 1).contiguous().numpy()  # as they lie in memory
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def _stacked(images: Sequence[Tensor]) -> Tensor:
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _ahead(
    work: Callable[[_Item], _Result], items: Sequence[_Item], *, workers: int, depth: int
) -> Iterator[tuple[_Item, Future[_Result]]]:
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="softpatch-read")
    try:
        waiting: deque[tuple[_Item, Future[_Result]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
