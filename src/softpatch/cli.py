"""The command line: parse, call, print."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import softpatch
from softpatch.config import DEFAULT_PRESET, Runtime, Settings
from softpatch.errors import SoftPatchError

# typer brings its own copy of click or uses the installed one; its base exception has no public name
_USAGE_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_FEW_IMAGES = 50

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find defects in product images, learning from a folder as it is: unlabelled, and partly defective.",
)

Paths = Annotated[list[Path], typer.Argument(help="Images, or folders of images (walked recursively).")]
Weights = Annotated[
    str | None, typer.Option(help="Backbone weights: 'pretrained', 'random', or a .safetensors or torch file.")
]
Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu or cuda.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never try the network.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per pass through the network.")]
MemoryBudget = Annotated[str, typer.Option(help="Memory to stay within; what does not fit goes to disk.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read images.")]
Layout = Annotated[str, typer.Option(help="How the folder is laid out: auto, folder, mvtec, visa or btad.")]
Category = Annotated[str | None, typer.Option(help="The category, where the dataset holds several.")]
Version = Annotated[bool, typer.Option("--version", help="Show the version and leave.")]
CoresetRatio = Annotated[float, typer.Option(help="Size of the memory bank over all patches.")]
FalseAlarmRate = Annotated[float, typer.Option(help="Share of good images that may be called anomalous.")]
CheckShare = Annotated[float, typer.Option(help="Share of good images, beside those, that somebody is to check.")]
ModelOutput = Annotated[Path, typer.Option("--output", "-o", help="The model file to write.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]


@app.command()
def fit(
    images: Paths,
    output: ModelOutput = Path("model.safetensors"),
    preset: Annotated[
        str, typer.Option(help="The method: agreement, softpatch+, softpatch or patchcore.")
    ] = DEFAULT_PRESET,
    backbone: Annotated[
        str | None, typer.Option(help="builtin-v1, or a timm model's name.", show_default=Settings.backbone)
    ] = None,
    weights: Weights = None,
    layers: Annotated[str | None, typer.Option(help="Its layers, as layer2,layer3; default strides 8 and 16.")] = None,
    resize: Annotated[int, typer.Option(help="Resize images to this many pixels square.")] = Settings.resize,
    crop: Annotated[int, typer.Option(help="Look at the centre of this many pixels square.")] = Settings.crop,
    symmetries: Annotated[
        str | None,
        typer.Option(
            help="find: learn from turned and mirrored copies, where the product looks the same so; or none.",
            show_default="the preset's",
        ),
    ] = None,
    coreset_ratio: CoresetRatio = Settings.coreset_ratio,
    false_alarm_rate: FalseAlarmRate = Settings.false_alarm_rate,
    check_share: CheckShare = Settings.check_share,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = Settings.seed,
    layout: Layout = "auto",
    category: Category = None,
    device: Device = Runtime.device,
    batch_size: BatchSize = Runtime.batch_size,
    workers: Workers = Runtime.workers,
    offline: Offline = Runtime.offline,
    memory_budget: MemoryBudget = Runtime.memory_budget,
    strict: Strict = False,
) -> None:
    """Learn a product from images of which some may be defective, and write a model file."""
    from softpatch.data.images import SkippedImage
    from softpatch.data.layouts import split_refs
    from softpatch.estimator import SoftPatch
    from softpatch.model_file import check_can_save
    from softpatch.terminal import list_skipped, printable, progress_bar, say

    detector = SoftPatch(
        preset=preset,
        backbone=backbone,
        weights=weights,
        layers=None if layers is None else tuple(name.strip() for name in layers.split(",") if name.strip()),
        resize=resize,
        crop=crop,
        symmetries=symmetries,
        coreset_ratio=coreset_ratio,
        false_alarm_rate=false_alarm_rate,
        check_share=check_share,
        seed=seed,
        device=device,
        batch_size=batch_size,
        workers=workers,
        offline=offline,
        memory_budget=memory_budget,
    )
    check_can_save(output)
    training, note = split_refs(images, "train", layout=layout, category=category)
    skipped: list[SkippedImage] = []
    try:
        with progress_bar() as progress:
            detector.fit(training, on_skip=None if strict else skipped.append, progress=progress)
        detector.save(output)
    finally:
        list_skipped(skipped)
    if note:
        say(note)
    if crop < resize:
        share = 1 - (crop / resize) ** 2
        say(f"Note: the outer border, {share:.0%} of each image, is not looked at; --crop {resize} covers it.")
    fitted = detector.detector
    if fitted.training_images < _FEW_IMAGES:
        say(f"Note: {fitted.training_images} images are few; take {_FEW_IMAGES} or more for a threshold to rely on.")
    if fitted.contamination is not None:
        say(f"Contamination: {fitted.contamination}.")
    if fitted.copies > 1:
        say(f"Note: the product has symmetries; {fitted.copies} copies of each image, turned or mirrored, were used.")
    print(f"{printable(str(output))}: learned from {fitted.training_images} images; threshold {fitted.threshold:.4g}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model file that `softpatch fit` wrote.")],
    images: Paths,
    output: Output,
    maps: Annotated[bool, typer.Option("--maps", help="Write a float32 TIFF map per image.")] = False,
    overlays: Annotated[bool, typer.Option("--overlays", help="Write each image with its heat map over it.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Image score above which an image is anomalous; default the model's.")
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    weights: Weights = None,
    device: Device = Runtime.device,
    batch_size: BatchSize = Runtime.batch_size,
    workers: Workers = Runtime.workers,
    offline: Offline = Runtime.offline,
    strict: Strict = False,
) -> None:
    """Judge images: write predictions.csv, predictions.jsonl, skipped.csv, and maps and overlays if asked."""
    from softpatch.atomic import check_can_write
    from softpatch.data.images import SkippedImage
    from softpatch.data.layouts import split_refs
    from softpatch.estimator import SoftPatch
    from softpatch.review.outputs import write_outputs
    from softpatch.review.tables import write_skipped
    from softpatch.terminal import list_skipped, printable, progress_bar, say

    for name in ("predictions.csv", "predictions.jsonl", "skipped.csv"):
        check_can_write(output / name)
    refs, note = split_refs(images, "test", layout=layout, category=category)
    skipped: list[SkippedImage] = []
    table: Path | None = None
    try:
        with progress_bar() as progress:
            detector = SoftPatch.load(
                model,
                weights=weights,
                device=device,
                batch_size=batch_size,
                workers=workers,
                offline=offline,
                progress=progress,
            )
            predictions = detector.predict_each(
                refs, threshold=threshold, on_skip=None if strict else skipped.append, progress=progress
            )
            verdicts = write_outputs(predictions, refs, output, maps=maps, overlays=overlays)
        write_skipped(skipped, output / "skipped.csv")
        table = output / "skipped.csv"
    finally:
        list_skipped(skipped, table)
    if note:
        say(note)
    found = f"{verdicts.total()} images, {verdicts['anomalous']} anomalous, {verdicts['check']} to check"
    print(f"{printable(str(output / 'predictions.csv'))}: {found}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file that `softpatch fit` wrote.")],
    dataset: Annotated[Path, typer.Argument(help="A dataset with test images, labels and masks.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    layout: Layout = "auto",
    category: Category = None,
    weights: Weights = None,
    device: Device = Runtime.device,
    batch_size: BatchSize = Runtime.batch_size,
    workers: Workers = Runtime.workers,
    offline: Offline = Runtime.offline,
    strict: Strict = False,
) -> None:
    """Measure a model on a labelled dataset: image and pixel metrics."""
    from softpatch.atomic import check_can_write, replacing
    from softpatch.data.images import SkippedImage
    from softpatch.data.layouts import open_dataset
    from softpatch.estimator import SoftPatch
    from softpatch.review import evaluation
    from softpatch.terminal import list_skipped, progress_bar

    if json_file is not None:
        check_can_write(json_file)
        if json_file.exists() and json_file.suffix != ".json":
            _fail(f"{json_file} exists and is no .json file; name another with --json")
    samples = open_dataset(dataset, layout=layout, category=category).test
    skipped: list[SkippedImage] = []
    with progress_bar() as progress:
        detector = SoftPatch.load(
            model,
            weights=weights,
            device=device,
            batch_size=batch_size,
            workers=workers,
            offline=offline,
            progress=progress,
        )
        result = evaluation.evaluate(
            detector.detector, samples, on_skip=None if strict else skipped.append, progress=progress
        )
    record = result.as_dict()
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")
    list_skipped(skipped)
    for name, value in record.items():
        print(f"{name:>18}  {_readable(value)}")


@app.command()
def demo(
    output: Output = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the pictures and of the fit.")] = 0,
) -> None:
    """Make a small contaminated dataset, fit SoftPatch+ and PatchCore on it, and show the difference."""
    from softpatch.review.demo import run_demo
    from softpatch.terminal import progress_bar

    with progress_bar() as progress:
        lines = run_demo(output, seed=seed, progress=progress)
    print("\n".join(lines))


bench = typer.Typer(help="Compare methods on labelled datasets whose training images were contaminated.")
app.add_typer(bench, name="bench")


@bench.command("run")
def bench_run(
    tasks: Annotated[
        Path | None,
        typer.Argument(help="A TOML file of tasks, or a name such as table01; else the options are one."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File of rows; those in it are not run again.")] = Path(
        "rows.jsonl"
    ),
    root: Annotated[Path, typer.Option(help="Folder from which the datasets' folders are seen.")] = Path(),
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the tasks.")] = 1,
    data: Annotated[str | None, typer.Option(help="Dataset folder.")] = None,
    layout: Layout = "auto",
    category: Category = None,
    method: Annotated[str | None, typer.Option(help="A method, such as softpatch+, patchcore or padim.")] = None,
    protocol: Annotated[
        str, typer.Option(help="Contamination: clean, no-overlap, overlap or overlap-distinct.")
    ] = "overlap",
    noise: Annotated[
        float | None, typer.Option(help="Anomalous images added, over good training images; 0.1, or 0 if clean.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="builtin-v1, or a timm model's name.")] = Settings.backbone,
    weights: Annotated[str, typer.Option(help="Its weights.")] = Settings.weights,
    seed: Annotated[int, typer.Option(help="Seed of contamination and method.")] = 0,
    coreset_ratio: Annotated[float | None, typer.Option(help="Size of the memory bank over all patches.")] = None,
    budget: Annotated[str, typer.Option(help="Training of cflow and igd: paper, or small for a CPU.")] = "paper",
    maps: Annotated[bool, typer.Option("--maps", help="Keep a few anomaly maps of each task for the summary.")] = False,
    device: Device = Runtime.device,
    workers: Workers = Runtime.workers,
    offline: Offline = Runtime.offline,
) -> None:
    """Run tasks, and append a row with everything that was measured for each."""
    from softpatch.atomic import check_can_write
    from softpatch.bench.rows import Row
    from softpatch.bench.runner import failures, run_tasks
    from softpatch.bench.task import read_tasks, task_of
    from softpatch.terminal import printable, progress_bar, say

    if tasks is None:
        noise = (0.0 if protocol == "clean" else 0.1) if noise is None else noise
        values = {"data": data, "category": category, "method": method, "protocol": protocol, "noise_ratio": noise}
        more = {"layout": layout, "backbone": backbone, "weights": weights, "seed": seed, "budget": budget}
        given = {**values, **more, "coreset_ratio": coreset_ratio}
        chosen = [task_of({name: value for name, value in given.items() if value is not None})]
    else:
        chosen = read_tasks(tasks)
    check_can_write(output)
    found: list[Row] = []
    runtime = Runtime(device, workers=workers, offline=offline)
    with progress_bar() as progress:
        run_tasks(chosen, output, root, runtime, jobs=jobs, maps=maps, on_row=found.append, progress=progress)
    failed = failures(found)
    for failure in failed:
        say(printable(failure))
    print(f"{printable(str(output))}: {len(found)} of {len(chosen)} tasks were run, {len(failed)} failed")
    if failed:
        raise typer.Exit(2)


@bench.command("summary")
def bench_summary(
    rows: Annotated[Path, typer.Argument(help="A file of rows that `softpatch bench run` wrote.")],
    output: Output,
    paper: Annotated[bool, typer.Option("--paper", help="Beside the numbers of the SoftPatch+ paper.")] = False,
) -> None:
    """Make tables (Markdown and CSV) and figures of rows."""
    from softpatch.atomic import replacing
    from softpatch.bench.figures import draw_figures
    from softpatch.bench.panel import draw_panels
    from softpatch.bench.rows import read_rows
    from softpatch.bench.summary import as_csv, as_markdown, beside_paper, tables
    from softpatch.terminal import printable

    measured = read_rows(rows)
    found = tables(measured)
    parts = {"summary.md": as_markdown(found), "summary.csv": as_csv(found)}
    if paper:
        parts["paper.md"] = beside_paper(found)
    for name, text in parts.items():
        with replacing(output / name) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    drawn = draw_figures(measured, output) + draw_panels(measured, rows.parent, output)
    print(f"{printable(str(output))}: {', '.join([*parts, *(path.name for path in drawn)])}")


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Version = False) -> None:
    if version:
        print(f"softpatch {softpatch.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit status 0, or 2 for a user's error, which is one line on standard error."""
    try:
        status = app(arguments, standalone_mode=False)
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message()} See softpatch --help.")
    except SoftPatchError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output left; say no more
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        if os.environ.get("SOFTPATCH_TRACEBACK"):
            raise
        from softpatch.terminal import say

        reason = " ".join(str(error).split())
        say(
            f"softpatch: unexpected {type(error).__name__}: {reason} "
            "(SOFTPATCH_TRACEBACK=1 shows where; please report it)"
        )
        sys.exit(1)
    sys.exit(status or 0)


def _fail(message: str) -> NoReturn:
    from softpatch.terminal import say

    say(f"softpatch: error: {' '.join(message.split())}")
    sys.exit(2)


def _readable(value: Any) -> str:
    if value is None:
        return "not defined here"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
