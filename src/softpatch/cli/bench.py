"""Compare: `softpatch bench run` and `softpatch bench summary`."""

from pathlib import Path
from typing import Annotated

import typer

from softpatch.cli.options import Category, Device, Layout, Offline, Output, Workers
from softpatch.config import Runtime, Settings
from softpatch.errors import InputError

_OF_A_TASK = (
    *("data", "layout", "category", "method", "protocol", "noise", "backbone", "weights", "seed", "coreset_ratio"),
    "budget",
)
"""Options that describe one task."""

app = typer.Typer(help="Compare methods on labelled datasets whose training images were contaminated.")


@app.command("run")
def bench_run(
    context: typer.Context,
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
    memory_budget: Annotated[str, typer.Option(help="Memory that the images of a category may take.")] = "16GB",
) -> None:
    """Run tasks, and append a row with everything that was measured for each."""
    from softpatch.atomic import check_can_write
    from softpatch.bench.methods import METHODS
    from softpatch.bench.rows import Row
    from softpatch.bench.runner import failures, run_tasks
    from softpatch.bench.task import read_tasks, task_of
    from softpatch.terminal import printable, progress_bar, say

    if tasks is not None:
        sources = {name: context.get_parameter_source(name) for name in _OF_A_TASK}
        stray = next((name for name, source in sources.items() if source and source.name == "COMMANDLINE"), None)
        if stray:
            raise InputError(f"--{stray.replace('_', '-')} is of one task, not of the list {tasks}; write it there")
        chosen = read_tasks(tasks)
    else:
        noise = (0.0 if protocol == "clean" else 0.1) if noise is None else noise
        values = {"data": data, "category": category, "method": method, "protocol": protocol, "noise_ratio": noise}
        more = {"layout": layout, "backbone": backbone, "weights": weights, "seed": seed, "budget": budget}
        given = {**values, **more, "coreset_ratio": coreset_ratio}
        chosen = [task_of({name: value for name, value in given.items() if value is not None})]
        run = METHODS[chosen[0].method].run
        if budget != "paper" and run not in ("cflow", "igd"):
            raise InputError(f"--budget {budget} does not apply: {method} trains no network")
        if coreset_ratio is not None and run not in ("patches", "images"):
            raise InputError(f"--coreset-ratio {coreset_ratio} does not apply: {method} has no coreset")
    check_can_write(output)
    found: list[Row] = []
    runtime = Runtime(device, workers=workers, offline=offline, memory_budget=memory_budget)
    with progress_bar() as progress:
        run_tasks(chosen, output, root, runtime, jobs=jobs, maps=maps, on_row=found.append, progress=progress)
    failed = failures(found)
    for failure in failed:
        say(printable(failure))
    print(f"{printable(str(output))}: {len(found)} of {len(chosen)} tasks were run, {len(failed)} failed")
    if failed:
        raise typer.Exit(2)


@app.command("summary")
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

    if not rows.is_file():
        problem = "is a folder" if rows.is_dir() else "does not exist"
        raise InputError(f"{rows} {problem}; give a file of rows that `softpatch bench run` wrote")
    if rows.resolve().parent == output.resolve() and rows.suffix in (".md", ".csv", ".png"):
        raise InputError(f"{rows} may be overwritten by a result; choose another folder with -o")
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
