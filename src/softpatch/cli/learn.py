"""Learn: `softpatch fit` and `softpatch demo`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softpatch.cli.options import (
    Align,
    Category,
    Channels,
    CheckShare,
    CoresetRatio,
    Decisions,
    Every,
    FalseAlarmRate,
    Layout,
    ListOnly,
    Output,
    Paths,
    Roi,
    SmallestDefect,
    Strict,
    Tile,
    ValueRange,
    Weights,
    choice,
    with_runtime,
)
from softpatch.cli.paths import check_given, given_paths
from softpatch.config import AUTO, DEFAULT_PRESET, PRESETS, SYMMETRIES, Runtime, Settings, preset_settings
from softpatch.errors import InputError

if TYPE_CHECKING:
    from softpatch.data.images import ImageRef

_FEW_IMAGES = 50


@with_runtime
def fit(
    images: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to write.")] = Path(
        "model.safetensors"
    ),
    preset: Annotated[str, choice("The method", PRESETS)] = DEFAULT_PRESET,
    backbone: Annotated[str, typer.Option(help="builtin-v1, or a timm model's name.")] = Settings.backbone,
    weights: Weights = None,
    layers: Annotated[str | None, typer.Option(help="Its layers, as layer2,layer3; default strides 8 and 16.")] = None,
    resize: Annotated[int, typer.Option(help="Resize images to this many pixels square.")] = Settings.resize,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Look at the centre of this many pixels square.", show_default="all; the paper's presets 224"
        ),
    ] = None,
    tile: Tile = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = Settings.tile_overlap,
    smallest_defect: SmallestDefect = None,
    roi: Roi = None,
    channels: Channels = None,
    value_range: ValueRange = None,
    align: Align = False,
    symmetries: Annotated[
        str | None,
        choice(
            "Learn from turned and mirrored copies where the product looks the same so",
            SYMMETRIES,
            default="the preset's",
        ),
    ] = None,
    coreset_ratio: CoresetRatio = Settings.coreset_ratio,
    false_alarm_rate: FalseAlarmRate = Settings.false_alarm_rate,
    check_share: CheckShare = Settings.check_share,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = Settings.seed,
    decisions: Decisions = None,
    layout: Layout = "auto",
    category: Category = None,
    every: Every = 1,
    list_only: ListOnly = False,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Learn a product from images, some of them defective.

    Writes a model file.
    """
    settings: dict[str, Any] = {
        "backbone": backbone,
        "weights": weights,
        "layers": None if layers is None else tuple(name.strip() for name in layers.split(",") if name.strip()),
        "resize": resize,
        "crop": crop,
        "tile": tile,
        "tile_overlap": overlap,
        "smallest_defect": smallest_defect,
        "align": "find" if align else None,
        "channels": channels,
        "value_range": value_range,
        "symmetries": symmetries,
        "coreset_ratio": coreset_ratio,
        "false_alarm_rate": false_alarm_rate,
        "check_share": check_share,
        "seed": seed,
    }
    preset_settings(preset, settings)  # a value out of its range is told of before anything slow is imported
    paths = given_paths(images)
    propose = str(roi) == AUTO and not Path(AUTO).exists()
    check_given(weights=weights, images=[*paths, decisions, None if propose else roi])
    from softpatch.stored_model import check_can_save

    if not list_only:
        check_can_save(output)
    from softpatch.data.images import SkippedImage
    from softpatch.data.inputs import choose_images
    from softpatch.estimator import SoftPatch
    from softpatch.terminal import list_files, list_passed_over, list_skipped, printable, progress_bar, say

    estimator = SoftPatch(preset=preset, roi=None if propose else roi, **settings, **asdict(runtime))
    chosen = choose_images(paths, "train", layout=layout, category=category, every=every)
    if list_only:
        list_files(chosen)
        return
    if propose:
        _propose_region(chosen.refs, estimator.settings, output)
        return
    skipped: list[SkippedImage] = []
    notes: list[str] = []
    try:
        with progress_bar() as progress:
            estimator.fit(
                chosen.refs,
                decisions=decisions or {},
                on_skip=None if strict else skipped.append,
                on_note=notes.append,
                progress=progress,
            )
        estimator.save(output)
    finally:
        list_skipped(skipped)
    list_passed_over(chosen)
    for note in notes:
        say(f"Note: {note}.")
    if tile is not None:
        width, height = estimator.detector.settings.size or (0, 0)
        say(f"Images are looked at as {width} x {height} pixels, in tiles of {estimator.detector.settings.tile}.")
    elif estimator.settings.seen_side < resize:
        share = 1 - (estimator.settings.seen_side / resize) ** 2
        say(f"Note: the outer border, {share:.0%} of each image, is not looked at; --crop {resize} covers it.")
    fitted = estimator.detector
    if fitted.record is not None and (fitted.record.rejected or fitted.record.kept):
        say(f"Decisions: {len(fitted.record.rejected)} images rejected, {len(fitted.record.kept)} kept.")
    if fitted.training_images < _FEW_IMAGES:
        say(f"Note: {fitted.training_images} images are few; take {_FEW_IMAGES} or more for a threshold to rely on.")
    if fitted.contamination is not None:
        say(f"Contamination: {fitted.contamination}.")
    if fitted.copies > 1:
        say(f"Note: the product has symmetries; {fitted.copies} copies of each image, turned or mirrored, were used.")
    print(f"{printable(str(output))}: learned from {fitted.training_images} images; threshold {fitted.threshold:.4g}")


def _propose_region(refs: "Sequence[ImageRef]", settings: Settings, output: Path) -> None:
    """Write a proposal beside where the model would be, and say what to do with it."""
    from softpatch.atomic import check_can_write
    from softpatch.data.images import as_asked
    from softpatch.data.roi_proposal import propose_roi
    from softpatch.review.roi_pictures import write_proposal
    from softpatch.terminal import printable

    mask, preview = (output.with_name(f"{output.stem}-{name}.png") for name in ("roi", "roi-preview"))
    if mask.exists():
        raise InputError(f"{mask} exists; fit with it as `roi`, or remove it to have another proposed")
    for path in (mask, preview):
        check_can_write(path)
    found = as_asked(refs, settings)
    write_proposal(found, propose_roi(found), mask, preview)
    print(
        f"{printable(str(preview))}: a proposal of what is looked at; nothing was learned. If it is right, or once "
        f"{printable(mask.name)} is painted over, fit with --roi {printable(str(mask))}"
    )


def demo(
    output: Output = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the pictures and of the fit.")] = 0,
) -> None:
    """Make a small contaminated dataset, and compare two methods.

    The default and PatchCore are fitted on it, and the difference is shown.
    """
    from softpatch.review.demo import run_demo
    from softpatch.terminal import progress_bar

    with progress_bar() as progress:
        lines = run_demo(output, seed=seed, progress=progress)
    print("\n".join(lines))
