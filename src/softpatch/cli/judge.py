"""Judge: `softpatch predict`, `softpatch evaluate` and `softpatch report`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from softpatch.cli.options import (
    Category,
    Dataset,
    Every,
    Layout,
    ListOnly,
    Model,
    Output,
    Overlays,
    Paths,
    Strict,
    Weights,
    with_runtime,
)
from softpatch.cli.paths import check_given, given_paths, load_model
from softpatch.config import Runtime, check_threshold
from softpatch.errors import InputError


@with_runtime
def predict(
    model: Model,
    images: Paths,
    output: Output = Path("results"),
    maps: Annotated[bool, typer.Option("--maps", help="Write a float32 TIFF map per image.")] = False,
    overlays: Overlays = None,
    regions: Annotated[
        bool,
        typer.Option("--regions", help="Write every outlined region, with its contours, as JSON and for COCO tools."),
    ] = False,
    min_area: Annotated[
        int | None, typer.Option(min=0, help="Leave out regions of fewer pixels of the original image.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html, a page to look through: counts, scores, pictures.")
    ] = False,
    timeline: Annotated[
        bool,
        typer.Option(
            "--timeline", help="Write timeline.png and intervals.csv: images in sequence, or a video's frames."
        ),
    ] = False,
    smooth: Annotated[
        int, typer.Option(min=1, help="Intervals of the timeline are those of the median of so many scores.")
    ] = 1,
    drift: Annotated[
        bool,
        typer.Option("--drift", help="Tell whether images changed in the order they come: drift.png and drift.json."),
    ] = False,
    every: Every = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run into the same folder that was stopped.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Image score above which an image is anomalous; default the model's.")
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    list_only: ListOnly = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Leave with status 3 where any image is anomalous.")
    ] = False,
    weights: Weights = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Judge images: write tables, and what else is asked for.

    The tables are predictions.csv, predictions.jsonl and skipped.csv; regions go to regions.jsonl and regions.json, the
    page is report.html. Frames of a video are judged like images, which takes softpatch[video].
    """
    if threshold is not None:
        check_threshold(threshold)
    if min_area is not None and not regions:
        raise InputError(f"`min_area` {min_area} leaves out regions, and none are asked for; give `regions` too")
    if smooth > 1 and not timeline:
        raise InputError(f"`smooth` {smooth} is of a timeline, and none is asked for; give `timeline` too")
    paths = given_paths(images)
    check_given(model=model, weights=weights, images=paths)
    from softpatch.atomic import check_can_write
    from softpatch.data.images import SkippedImage, as_asked
    from softpatch.data.inputs import choose_images
    from softpatch.review.drift import DRIFT, drift_in_words
    from softpatch.review.outputs import refuse_overwriting, write_outputs
    from softpatch.review.page import REPORT, check_can_replace_page
    from softpatch.review.region_tables import REGION_TABLES
    from softpatch.review.run import Run, running
    from softpatch.review.tables import SKIPPED, TABLES
    from softpatch.review.timeline import TIMELINE
    from softpatch.terminal import list_files, list_passed_over, list_skipped, printable, progress_bar, say

    if not list_only:
        for name in (
            *TABLES,
            *(REGION_TABLES if regions else ()),
            *(TIMELINE if timeline else ()),
            *(DRIFT if drift else ()),
        ):
            check_can_write(output / name)
        if report:
            check_can_replace_page(output / REPORT)
    chosen = choose_images(paths, "predict", layout=layout, category=category, every=every)
    if list_only:
        list_files(chosen)
        return
    run = Run.of(
        chosen.refs,
        model=model,
        threshold=threshold,
        maps=maps,
        overlays=overlays,
        min_area=min_area or 0 if regions else None,
        report=report,
        timeline=smooth if timeline else None,
        drift=drift,
    )
    refuse_overwriting(run, chosen.refs, output, keep=[model])
    skipped: list[SkippedImage] = []
    table: Path | None = None
    place: Path | None = None
    try:
        with (
            progress_bar() as progress,
            running(output, run, chosen.refs, "resume" if resume else "refuse") as unfinished,
        ):
            place = unfinished.folder
            estimator = load_model(model, weights, runtime, progress)
            used = estimator.detector if threshold is None else estimator.detector.with_threshold(threshold)
            usual = used.drift() if drift else None
            predictions = estimator.predict_each(
                unfinished.remaining(chosen.refs),
                threshold=threshold,
                on_skip=None if strict else skipped.append,
                progress=progress,
            )
            verdicts, unlike = write_outputs(
                predictions,
                as_asked(chosen.refs, estimator.detector.settings),
                run,
                unfinished,
                drift=usual,
                skipped=None if strict else skipped,
            )
        table = output / SKIPPED
    finally:
        list_skipped(skipped, table)
        if place is not None and place.is_dir():
            say(f"What was judged is kept in {place}; the same command with --resume goes on from there.")
    list_passed_over(chosen)
    if unlike > verdicts.total() / 2:
        say(
            f"Note: {unlike} of {verdicts.total()} images look unlike anything learned; "
            "is it the same product, camera and light?"
        )
    for sentence in drift_in_words(output) if drift else ():
        say(f"Note: {sentence}")
    found = f"{verdicts.total()} images, {verdicts['anomalous']} anomalous, {verdicts['check']} to check"
    print(f"{printable(str(output / 'predictions.csv'))}: {found}")
    if exit_code and verdicts["anomalous"]:
        raise typer.Exit(3)


@with_runtime
def evaluate(
    model: Model,
    dataset: Dataset,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a row per test image to this file.")] = None,
    layout: Layout = "auto",
    category: Category = None,
    weights: Weights = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Measure a model on a labelled dataset: image and pixel metrics."""
    check_given(model=model, weights=weights, images=[dataset])
    from softpatch.atomic import check_can_write, replacing
    from softpatch.data.images import SkippedImage
    from softpatch.data.layouts import Sample, open_dataset
    from softpatch.results import Prediction
    from softpatch.review import evaluation
    from softpatch.review.tables import check_can_replace_judged, judged_row, write_judged
    from softpatch.terminal import list_skipped, printable, progress_bar, say

    if json_file is not None:
        check_can_write(json_file)
        evaluation.check_can_replace(json_file)
    if csv_file is not None:
        check_can_write(csv_file)
        check_can_replace_judged(csv_file)
    judged: list[dict[str, object]] = []

    def keep(sample: Sample, answer: Prediction) -> None:
        judged.append(judged_row(sample.kind, sample.is_anomalous, answer))

    opened = open_dataset(dataset, layout=layout, category=category)
    skipped: list[SkippedImage] = []
    with progress_bar() as progress:
        estimator = load_model(model, weights, runtime, progress)
        result = evaluation.evaluate(
            estimator.detector,
            opened.test,
            on_prediction=None if csv_file is None else keep,
            on_skip=None if strict else skipped.append,
            progress=progress,
        )
    record = result.as_dict()
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")
    if csv_file is not None:
        write_judged(judged, csv_file)
    list_skipped(skipped)
    for note in (*opened.notes, *evaluation.notes(result)):
        say(f"Note: {note}")
    for name, value in record.items():
        if name != "kinds":
            print(f"{name:>18}  {_readable(value)}")
    print(f"\n{'kind':>18}  images  anomalous  mean score  image_auroc")
    for kind in result.kinds:
        auroc = "" if kind.image_auroc is None else f"{kind.image_auroc:.4f}"
        counts = f"{kind.images:>6}  {kind.called_anomalous:>9}"
        print(f"{printable(kind.kind):>18}  {counts}  {kind.mean_score:>10.4g}  {auroc}")


@with_runtime
def report(
    model: Model,
    dataset: Dataset,
    output: Output = Path("report"),
    layout: Layout = "auto",
    category: Category = None,
    weights: Weights = None,
    strict: Strict = False,
    *,
    runtime: Runtime,
) -> None:
    """Show how a model does on a labelled dataset, as a web page.

    It is one file, report.html, with figures, curves, what other thresholds would mean, and pictures of the mistakes.
    """
    check_given(model=model, weights=weights, images=[dataset])
    from softpatch.data.images import SkippedImage
    from softpatch.data.layouts import open_dataset
    from softpatch.review.evaluation import notes
    from softpatch.review.evaluation_report import report_evaluation
    from softpatch.review.page import REPORT, check_can_replace_page
    from softpatch.terminal import list_skipped, printable, progress_bar, say

    check_can_replace_page(output / REPORT)
    opened = open_dataset(dataset, layout=layout, category=category)
    skipped: list[SkippedImage] = []
    with progress_bar() as progress:
        estimator = load_model(model, weights, runtime, progress)
        result = report_evaluation(
            estimator.detector,
            opened,
            output / REPORT,
            model=model,
            on_skip=None if strict else skipped.append,
            progress=progress,
        )
    list_skipped(skipped)
    for note in (*opened.notes, *notes(result)):
        say(f"Note: {note}")
    missed = f"{result.missed} of {result.anomalous_images} defects missed, {result.missed_to_check} of them to check"
    false_alarms = f"{result.false_alarms} of {result.nominal_images} good images called anomalous"
    print(f"{printable(str(output / REPORT))}: {missed}, {false_alarms}")


def _readable(value: Any) -> str:
    if value is None:
        return "not defined here"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
