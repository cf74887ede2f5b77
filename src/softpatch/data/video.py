"""The frames of a video as images, read one after the other; PyAV decodes them.

Frames are named by their number, `line.mp4#000120`. They are read in order but for what a few threads change of it, and
perhaps once more a little later; so a few decoders stand where frames were read, and go on from there.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softpatch.data.image_bounds import check_image_size
from softpatch.data.images import ImageRef
from softpatch.data.pixels import ValueRange, pixels_tensor
from softpatch.errors import ImageError, InputError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts")
_CONTAINERS = {  # playlists, which lead to other files and to the network, are not among them
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf",
    "protocol_whitelist": "file",
}
_DECODERS = 2  # one for judging, one for drawing what was judged
_AHEAD = 300  # frames that a decoder runs through rather than that another is begun
_KEPT = 6  # frames, for threads that ask out of order


def is_video(path: Path) -> bool:
    """Whether a file is taken for a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_refs(path: Path) -> tuple[ImageRef, ...]:
    """Name every frame of a video, without decoding any.

    Raises `InputError` where PyAV is not installed, and for a file that is no video or has no frames.
    """
    try:
        with _opened(path) as (container, stream):
            stamps = sorted({packet.pts for packet in container.demux(stream) if packet.pts is not None})
            base = float(stream.time_base)
            check_image_size(stream.width, stream.height)
    except ImageError as error:
        raise InputError(f"the video {path} cannot be read: {error}") from error
    if not stamps:
        raise InputError(f"the video {path} has no frames with times; save it as MP4 or MKV")
    video = _Video(path, stamps)
    return tuple(
        ImageRef(f"{path}#{number:06d}", partial(video.frame, number), seconds=(stamp - stamps[0]) * base)
        for number, stamp in enumerate(stamps)
    )


class _Video:
    """Decoders of one file, each at the frame that it gave last, and the frames that were given last."""

    def __init__(self, path: Path, stamps: list[int]) -> None:
        self.path, self.stamps = path, stamps
        self.lock = threading.Lock()
        self.decoders: list[tuple[int, Iterator[tuple[int, NDArray[np.uint8]]]]] = []
        self.kept: dict[int, NDArray[np.uint8]] = {}

    def frame(self, number: int, value_range: ValueRange | None) -> Tensor:
        """A frame as RGB (3, H, W) in [0, 1]. Raises `ImageError` where it cannot be decoded."""
        with self.lock:
            if number not in self.kept:
                self._read(number)
            return pixels_tensor(self.kept[number], value_range)

    def _read(self, number: int) -> None:
        near = [each for each in self.decoders if each[0] < number <= each[0] + _AHEAD]
        decoder = max(near, key=lambda each: each[0], default=None)
        if decoder is not None:
            self.decoders.remove(decoder)
        frames = decoder[1] if decoder else self._frames_from(number)
        for place, pixels in frames:
            if place >= number - _KEPT:
                self.kept[place] = pixels
            if place >= number:
                break
        if number not in self.kept:
            raise ImageError("the video ends before this frame, or is damaged there")
        self.decoders = [*self.decoders[-(_DECODERS - 1) :], (number, frames)]
        while len(self.kept) > _KEPT * _DECODERS:
            del self.kept[next(iter(self.kept))]

    def _frames_from(self, number: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Frames with their numbers, from the last one at or before a number that can be decoded alone."""
        with _opened(self.path) as (container, stream):
            container.seek(self.stamps[number], stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None:
                    place = min(bisect_left(self.stamps, frame.pts), len(self.stamps) - 1)
                    pixels = frame.to_ndarray(format="rgb24")
                    yield place, np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90)).copy()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream; whatever goes wrong in the block is an `ImageError`."""
    try:
        import av
    except ImportError as error:
        raise InputError(f"{path} is a video, which takes PyAV to read; install softpatch[video]") from error
    try:
        av.logging.set_level(av.logging.PANIC)  # or decoders write what they think to stderr
        with av.open(str(path), options=dict(_CONTAINERS)) as container:
            if not container.streams.video:
                raise ImageError("it holds no pictures")
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise ImageError(f"the video is damaged or of an unsupported kind ({error})") from error
