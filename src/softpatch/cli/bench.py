"""Compare: `softpatch bench run` and `softpatch bench summary`."""

from pathlib import Path
from typing import Annotated

import typer

from softpatch.bench.methods import BUDGETS, METHODS
from softpatch.cli.options import Category, Device, Layout, Offline, Output, Workers, choice
from softpatch.cli.verb import Verb, examples, with_options
from softpatch.config import PROTOCOLS, Runtime, Settings
from softpatch.errors import InputError

app = typer.Typer(
    help="Compare methods on labelled, contaminated datasets.",
    epilog=examples(
        "softpatch bench run --data mvtec_ad/bottle --method softpatch+ -o rows.jsonl",
        "softpatch bench summary rows.jsonl -o tables",
    ),
)


@app.command(
    "run",
    cls=Verb,
    epilog=examples(
        "softpatch bench run --data mvtec_ad/bottle --method softpatch+ --noise 0.1",
        "softpatch bench run table01 --root /data -o table01.jsonl",
    ),
)
def bench_run(
    context: typer.Context,
    tasks: Annotated[
        Path | None,
        typer.Argument(
            metavar="TASKS", help="A TOML file of tasks, or a name such as table01; else the options are one."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File of rows; those in it are not run again.")] = Path(
        "rows.jsonl"
    ),
    root: Annotated[Path, typer.Option(help="Folder from which the datasets' folders are seen.")] = Path(),
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the tasks.")] = 1,
    data: Annotated[str | None, typer.Option(help="Folder of a dataset, or of one of its categories.")] = None,
    layout: Layout = "auto",
    category: Category = None,
    method: Annotated[str | None, choice("The method", METHODS)] = None,
    protocol: Annotated[str, choice("Contamination", PROTOCOLS)] = "overlap",
    noise_ratio: Annotated[
        float | None,
        typer.Option("--noise", help="Anomalous images added, over good training images; 0.1, or 0 if clean."),
    ] = None,
    backbone: Annotated[str, typer.Option(help="builtin-v1, or a timm model's name.")] = Settings.backbone,
    weights: Annotated[str, typer.Option(help="Its weights.")] = Settings.weights,
    seed: Annotated[int, typer.Option(help="Seed of contamination and method.")] = 0,
    coreset_ratio: Annotated[float | None, typer.Option(help="Size of the memory bank over all patches.")] = None,
    budget: Annotated[str, choice("Training of cflow and igd, small for a CPU", BUDGETS)] = "paper",
    maps: Annotated[bool, typer.Option("--maps", help="Keep a few anomaly maps of each task for the summary.")] = False,
    device: Device = Runtime.device,
    workers: Workers = Runtime.workers,
    offline: Offline = Runtime.offline,
    memory_budget: Annotated[str, typer.Option(help="Memory that the images of a category may take.")] = "16GB",
) -> None:
    """Run tasks, and append a row of figures for each."""
    from softpatch.atomic import check_can_write
    from softpatch.bench.task import read_tasks, task_of

    of_task = {
        "data": data,
        "layout": layout,
        "category": category,
        "method": method,
        "protocol": protocol,
        "noise_ratio": noise_ratio,
        "backbone": backbone,
        "weights": weights,
        "seed": seed,
        "coreset_ratio": coreset_ratio,
        "budget": budget,
    }
    runtime = Runtime(device, workers=workers, offline=offline, memory_budget=memory_budget)
    if tasks is not None:
        sources = {name: context.get_parameter_source(name) for name in of_task}
        stray = next((name for name, source in sources.items() if source and source.name == "COMMANDLINE"), None)
        if stray:
            raise InputError(f"`{stray}` is of one task, not of the list {tasks}; write it there")
        chosen = read_tasks(tasks)
    else:
        given = {name: value for name, value in of_task.items() if value is not None}
        chosen = [task_of({"noise_ratio": 0.0 if protocol == "clean" else 0.1, **given})]
        run = METHODS[chosen[0].method].run
        if budget != "paper" and run not in ("cflow", "igd"):
            raise InputError(f"`budget` {budget} does not apply: {method} trains no network")
        if coreset_ratio is not None and run not in ("patches", "images"):
            raise InputError(f"`coreset_ratio` {coreset_ratio} does not apply: {method} has no coreset")
    check_can_write(output)
    from softpatch.bench.rows import Row
    from softpatch.bench.runner import failures, run_tasks
    from softpatch.terminal import printable, progress_bar, say

    found: list[Row] = []
    with progress_bar() as progress:
        run_tasks(chosen, output, root, runtime, jobs=jobs, maps=maps, on_row=found.append, progress=progress)
    failed = failures(found)
    for failure in failed:
        say(printable(failure if tasks else with_options(failure, context.command.params)))
    print(f"{printable(str(output))}: {len(found)} of {len(chosen)} tasks were run, {len(failed)} failed")
    if failed:
        raise typer.Exit(2)


@app.command("summary", cls=Verb, epilog=examples("softpatch bench summary rows.jsonl -o tables"))
def bench_summary(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="A file of rows that `softpatch bench run` wrote.")],
    output: Output,
    paper: Annotated[bool, typer.Option("--paper", help="Beside the numbers of the SoftPatch+ paper.")] = False,
) -> None:
    """Make tables (Markdown and CSV) and figures of rows."""
    if not rows.is_file():
        problem = "is a folder" if rows.is_dir() else "does not exist"
        raise InputError(f"{rows} {problem}; give a file of rows that `softpatch bench run` wrote")
    if rows.resolve().parent == output.resolve() and rows.suffix in (".md", ".csv", ".png"):
        raise InputError(f"{rows} may be overwritten by a result; choose another folder with -o")
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
