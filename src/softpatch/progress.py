"""How long work reports where it is, without knowing who listens."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` while work goes on; the last call of a stage has done == total."""


def silent(stage: str, done: int, total: int) -> None:
    """The default listener: does nothing."""
