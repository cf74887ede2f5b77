"""How large an image may be, and how many large ones are in memory at once."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from softpatch.errors import ImageError

MAX_PIXELS = 100_000_000
"""An image of more pixels (10,000 x 10,000) is refused: reading it takes about 30 bytes a pixel."""
MAX_ASPECT = 100
"""An image so many times longer than wide is refused: no photograph is, and to bring it to a square takes memory."""
_ONE_AT_A_TIME = 16_000_000  # pixels, from which on images wait for each other

_large = threading.RLock()
_turn = threading.local()


def check_image_size(width: int, height: int) -> None:
    """Raise `ImageError` for an absurd size."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"the image has {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")
    if max(width, height) > MAX_ASPECT * min(width, height) > 0:
        raise ImageError(f"the image has {width} x {height} pixels; one side is at most {MAX_ASPECT} times the other")


@contextmanager
def bounded(width: int, height: int) -> Iterator[None]:
    """Refuse an absurd size, and let the largest images be read one at a time."""
    check_image_size(width, height)
    with ExitStack() as here:
        if width * height > _ONE_AT_A_TIME:
            getattr(_turn, "stack", here).enter_context(_large)
        yield


@contextmanager
def a_large_image_at_a_time() -> Iterator[None]:
    """Keep a large image that is read in the block the only one that any thread has, until the block ends."""
    with ExitStack() as stack:
        _turn.stack = stack
        try:
            yield
        finally:
            del _turn.stack
