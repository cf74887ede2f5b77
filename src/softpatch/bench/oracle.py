"""A person who is asked about training images and knows the truth: the paper's "few labels", as an audit asks for them.

Images are asked about as the page of an audit does, each time whose answer is least foreseen; or at random, which is
what a person does who looks through a folder.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from softpatch.config import Settings
from softpatch.memory.agreement import Audit, audit_images
from softpatch.memory.belief import Belief, believe, first_hypotheses, next_question
from softpatch.memory.projection import project
from softpatch.memory.selection import judge_patches
from softpatch.review.audit import audit_settings


def audit_of(embeddings: Tensor, settings: Settings) -> Audit:
    """What training images make of each other, by their patch embeddings (N, P, D) float16."""
    settings = audit_settings(settings)
    projected = project(embeddings, settings.projected_dim, settings.seed)
    noise = judge_patches(projected, settings)
    return audit_images(projected, noise.nearest, noise.lof)


def ask(audit: Audit, truth: Sequence[bool], count: int, *, asked: str, seed: int) -> tuple[dict[int, bool], Belief]:
    """Ask about so many images, whose `truth` says which are anomalous: the answers, and what is believed then.

    Answers are by the images' numbers. "random" draws from `seed`.
    """
    order = np.argsort(-audit.evidence.numpy(), kind="stable")  # as the page has them
    x = audit.evidence.numpy()[order]
    hypotheses = first_hypotheses(x, audit.contamination)
    drawn = np.random.default_rng(seed).permutation(len(x))
    answers: dict[int, bool] = {}
    for turn in range(min(count, len(x))):
        place: int | None = int(drawn[turn])
        if asked == "page":
            place = next_question(believe(x, hypotheses, answers).suspicion, frozenset(answers))
        if place is not None:
            answers[place] = truth[order[place]]
    return {int(order[place]): answer for place, answer in answers.items()}, believe(x, hypotheses, answers)


def rejected_first(answers: dict[int, bool], count: int) -> tuple[Tensor, dict[int, bool]]:
    """The order (N,) of images in which those found anomalous come first, and the answers by their places in it."""
    order = sorted(range(count), key=lambda number: not answers.get(number, False))
    places = {number: place for place, number in enumerate(order)}
    return torch.tensor(order), {places[number]: answer for number, answer in answers.items()}
