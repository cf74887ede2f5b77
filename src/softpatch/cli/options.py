"""Every option that more than one command has, declared once."""

from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[
    list[str],
    typer.Argument(help="Images, folders of them (searched whole), @list.txt (a path per line), or - to read those."),
]
Model = Annotated[Path, typer.Argument(help="A model file that `softpatch fit` wrote.")]
Weights = Annotated[
    str | None, typer.Option(help="Backbone weights: 'pretrained', 'random', or a .safetensors or torch file.")
]
Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu or cuda.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never try the network.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per pass through the network.")]
MemoryBudget = Annotated[
    str, typer.Option(help="Memory to stay within: fit keeps the rest on disk, or says what would not fit.")
]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read images.")]
Layout = Annotated[
    str, typer.Option(help="How the folder is laid out: auto, folder (no labels), mvtec, visa, btad or another.")
]
Category = Annotated[str | None, typer.Option(help="The category, where the dataset holds several.")]
ListOnly = Annotated[bool, typer.Option("--list", help="Only list which files would be taken or passed over, and why.")]
CoresetRatio = Annotated[float, typer.Option(help="Size of the memory bank over all patches.")]
FalseAlarmRate = Annotated[float, typer.Option(help="Share of good images that may be called anomalous.")]
CheckShare = Annotated[float, typer.Option(help="Share of good images, beside those, that somebody is to check.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
