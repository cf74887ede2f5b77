"""A person who is asked about training images and knows the truth: the paper's "few labels", as an audit asks for them.

Images are asked about as the page of an audit does, each time whose answer is least foreseen; or at random, which is
what a person does who looks through a folder.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softpatch.memory.belief import Belief, Hypotheses, believe, next_question


def ask(
    evidence: NDArray[np.float64],
    hypotheses: Hypotheses,
    truth: Sequence[bool],
    count: int,
    *,
    asked: str = "page",
    seed: int = 0,
) -> tuple[dict[int, bool], Belief]:
    """Ask about so many of the images with `evidence` (N,), whose `truth` says which are anomalous.

    Gives the answers, by the images' numbers, and what is believed then. "random" draws from `seed`.
    """
    order = np.argsort(-evidence, kind="stable")  # as the page has them
    x = evidence[order]
    drawn = np.random.default_rng(seed).permutation(len(x))
    answers: dict[int, bool] = {}
    for turn in range(min(count, len(x))):
        place: int | None = int(drawn[turn])
        if asked == "page":
            place = next_question(believe(x, hypotheses, answers).suspicion, frozenset(answers))
        if place is not None:
            answers[place] = bool(truth[order[place]])
    return {int(order[place]): answer for place, answer in answers.items()}, believe(x, hypotheses, answers)


def rejected_first(answers: dict[int, bool], count: int) -> tuple[Tensor, dict[int, bool]]:
    """The order (N,) of images in which those found anomalous come first, and the answers by their places in it."""
    order = sorted(range(count), key=lambda number: not answers.get(number, False))
    places = {number: place for place, number in enumerate(order)}
    return torch.tensor(order), {places[number]: answer for number, answer in answers.items()}
