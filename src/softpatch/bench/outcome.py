"""What a method made of a task, before it is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Outcome:
    """Image scores (n,), anomaly maps (H, W) each of the n test images, and seconds.

    `fit_seconds` and `predict_seconds` are those after the features are there, which tasks share. What else was `found`
    is for the row.
    """

    image_scores: NDArray[np.float32]
    maps: list[NDArray[np.float32]]
    fit_seconds: float
    predict_seconds: float
    found: Mapping[str, float] = field(default_factory=dict)
