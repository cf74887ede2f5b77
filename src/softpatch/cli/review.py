"""Look into a folder: `softpatch audit`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from softpatch.cli.options import Category, Decisions, Layout, Output, Paths, Strict, Weights, choice, with_runtime
from softpatch.cli.paths import check_given, given_paths, load_model
from softpatch.config import DEFAULT_PRESET, PRESETS, Runtime
from softpatch.errors import InputError

_GROUPS_SHOWN = 10


@with_runtime
def audit(
    images: Paths,
    output: Output = Path("audit"),
    model: Annotated[
        Path | None, typer.Option(help="A model that learned from these images; default: one is fitted to look by.")
    ] = None,
    preset: Annotated[str, choice("The method to fit, without --model", PRESETS)] = DEFAULT_PRESET,
    decisions: Decisions = None,
    fiftyone: Annotated[
        bool, typer.Option("--fiftyone", help="Write the suspects as a dataset of FiftyOne too.")
    ] = False,
    weights: Weights = None,
    layout: Layout = "auto",
    category: Category = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Show which training images look anomalous, and why.

    Writes a page to look through and to answer on, index.html, its tables, and the suspects in COCO format.
    """
    if model is not None and preset != DEFAULT_PRESET:
        raise InputError(f"`preset` {preset!r} is what to fit, but `model` names one that is fitted; give one of them")
    paths = given_paths(images)
    check_given(model=model, weights=weights, images=[*paths, decisions])
    from softpatch.atomic import check_can_write
    from softpatch.data.decisions import decisions_for, read_decisions
    from softpatch.data.images import SkippedImage, as_asked
    from softpatch.data.inputs import choose_images
    from softpatch.estimator import SoftPatch
    from softpatch.memory.estimate import Contamination
    from softpatch.review.audit import audit_folder
    from softpatch.review.audit_page import PAGE, write_audit_page
    from softpatch.review.audit_tables import AUDIT_TABLES, check_can_replace_audit, write_audit_tables
    from softpatch.review.exports import SUSPECTS, write_coco, write_fiftyone
    from softpatch.terminal import list_passed_over, list_skipped, printable, progress_bar, say

    for name in (PAGE, SUSPECTS, *AUDIT_TABLES):
        check_can_write(output / name)
    check_can_replace_audit(output, (PAGE, SUSPECTS))
    chosen = choose_images(paths, "train", layout=layout, category=category)
    decided = decisions_for({} if decisions is None else read_decisions(decisions), chosen.refs)
    skipped: list[SkippedImage] = []
    on_skip = None if strict else skipped.append
    try:
        with progress_bar() as progress:
            if model is None:
                estimator = SoftPatch(preset=preset, weights=weights, **asdict(runtime))
                estimator.fit(chosen.refs, decisions=decided, on_skip=on_skip, progress=progress)
                skipped.clear()  # they are met again
            else:
                estimator = load_model(model, weights, runtime, progress)
            found = audit_folder(estimator.detector, chosen.refs, decisions=decided, on_skip=on_skip, progress=progress)
            by_name = {ref.name: ref for ref in as_asked(chosen.refs, estimator.detector.settings)}
            output.mkdir(parents=True, exist_ok=True)
            write_audit_page(found, output, lambda name: by_name[name].read(), progress=progress)
            write_audit_tables(found, output)
            write_coco(found, output / SUSPECTS)
            if fiftyone:
                write_fiftyone(found, output / "fiftyone")
    finally:
        list_skipped(skipped)
    list_passed_over(chosen)
    for group in found.groups[:_GROUPS_SHOWN]:
        say(f"{group.kind.capitalize()}: {group.evidence}.")
    contamination = Contamination(found.belief.contamination, found.belief.low, found.belief.high)
    print(f"{printable(str(output / PAGE))}: {len(found.images)} images; {contamination}")
