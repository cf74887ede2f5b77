"""Change what a model learned from: `softpatch add`, `softpatch remove` and `softpatch refit`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softpatch.cli.options import Model, Paths, Strict, Weights, with_runtime
from softpatch.cli.paths import check_given, given_paths, load_model
from softpatch.config import Runtime

if TYPE_CHECKING:
    from softpatch.data.images import SkippedImage
    from softpatch.estimator import SoftPatch
    from softpatch.progress import Progress

NewModel = Annotated[
    Path | None, typer.Option("--output", "-o", help="The model file to write; default: in place of MODEL.")
]
Change = Callable[["SoftPatch", "list[SkippedImage]", "list[str]", "Progress"], object]


@with_runtime
def add(
    model: Model,
    images: Paths,
    output: NewModel = None,
    known_good: Annotated[bool, typer.Option("--known-good", help="Trust all of them: somebody has looked.")] = False,
    weights: Weights = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Learn from further images, without those of before.

    They are judged against what is there, so that their defects are not learned.
    """
    paths = given_paths(images)
    check_given(model=model, weights=weights, images=paths)
    from softpatch.data.inputs import choose_images

    chosen = choose_images(paths, "train")

    def change(estimator: "SoftPatch", skipped: "list[SkippedImage]", notes: list[str], progress: "Progress") -> None:
        on_skip = None if strict else skipped.append
        estimator.add(chosen.refs, known_good=known_good, on_skip=on_skip, on_note=notes.append, progress=progress)

    _change(model, output, weights, runtime, change)


@with_runtime
def remove(
    model: Model,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS", help="Training images, as they were named, patterns such as '*_003.png', or @list.txt."
        ),
    ],
    output: NewModel = None,
    weights: Weights = None,
    *,
    runtime: Runtime,
) -> None:
    """Forget training images: their patches and scores.

    Nothing is learned anew but the threshold.
    """
    named = given_paths(paths, of_files=False)
    check_given(model=model, weights=weights)

    def change(estimator: "SoftPatch", _: object, notes: list[str], progress: "Progress") -> None:
        estimator.remove(named, on_note=notes.append, progress=progress)

    _change(model, output, weights, runtime, change)


@with_runtime
def refit(
    model: Model,
    root: Annotated[
        Path | None, typer.Option(help="Where the folder of the training images is now, if it has moved.")
    ] = None,
    output: NewModel = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Learn from the files that are still there.")
    ] = False,
    weights: Weights = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Learn anew from the files that a model recorded.

    Its settings and decisions are used again.
    """
    check_given(model=model, weights=weights, images=[root])

    def change(estimator: "SoftPatch", skipped: "list[SkippedImage]", notes: list[str], progress: "Progress") -> None:
        on_skip = None if strict else skipped.append
        estimator.refit(root, skip_missing=skip_missing, on_skip=on_skip, on_note=notes.append, progress=progress)

    _change(model, output, weights, runtime, change)


def _change(model: Path, output: Path | None, weights: str | None, runtime: Runtime, change: Change) -> None:
    """Load a model, change it, write it, and say what has changed."""
    from softpatch.stored_model import check_can_save
    from softpatch.terminal import list_skipped, printable, progress_bar, say

    target = output or model
    check_can_save(target)
    skipped: list[SkippedImage] = []
    notes: list[str] = []
    try:
        with progress_bar() as progress:
            estimator = load_model(model, weights, runtime, progress)
            before = estimator.detector
            change(estimator, skipped, notes, progress)
        estimator.save(target)
    finally:
        list_skipped(skipped)
    for note in notes:
        say(f"Note: {note}.")
    after = estimator.detector
    counts = [
        f"{old:,} {what}" if old == new else f"{old:,} to {new:,} {what}"
        for old, new, what in (
            (before.training_images, after.training_images, "images"),
            (len(before.banks.classification.patches), len(after.banks.classification.patches), "patches"),
        )
    ]
    print(f"{printable(str(target))}: {', '.join(counts)}; threshold {before.threshold:.4g} to {after.threshold:.4g}")
