"""Every option that more than one command has, declared once."""

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from softpatch.config import AUTO, DEVICES, LAYOUTS, OVERLAY_STYLES, OverlayStyle, Runtime, choose_from


def choice(text: str, values: Collection[str], *, default: str | bool = True, name: str | None = None) -> Any:
    """An option that takes one of a closed set of values; its help is `text`, these, and the default, as it says.

    It is called by its parameter, or by `name`.
    """
    *others, last = values

    def read(value: str) -> str:
        if value.lower() not in values:
            raise typer.BadParameter(f"{value!r} is unknown; {choose_from(value, tuple(values))}")
        return value.lower()

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    text = f"{text}: {', '.join(others)} or {last}."
    names = [] if name is None else [name]
    return typer.Option(*names, parser=read, metavar="<name>", autocompletion=complete, help=text, show_default=default)


def _tile(text: str) -> int | str:
    return AUTO if text.lower() == AUTO else int(_pixels(text))


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise typer.BadParameter(f"{text!r} is no list of channels; it is one or three numbers, such as 0,1,3")
    return tuple(map(int, parts))


def _pixels(text: str) -> float:
    number = text.strip().lower().removesuffix("px").strip()
    if not number.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number of pixels; it is like 40 or 40px")
    return float(number)


Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES",
        help="Images, folders of them (searched whole), @list.txt (a path per line), or - to read those.",
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `softpatch fit` wrote.")]
Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset with test images, labels and masks.")]
Weights = Annotated[
    str | None, typer.Option(help="Backbone weights: 'pretrained', 'random', or a .safetensors or torch file.")
]
Device = Annotated[str, choice("Where the network runs", DEVICES)]
Offline = Annotated[bool, typer.Option("--offline", help="Never try the network.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per pass through the network.")]
MemoryBudget = Annotated[
    str, typer.Option(help="Memory to stay within: fit keeps the rest on disk, or says what would not fit.")
]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read images.")]
Every = Annotated[int, typer.Option(min=1, help="Take one of so many images, or frames of a video.")]
Layout = Annotated[str, choice("How the folder is laid out", ("auto", *LAYOUTS))]
Category = Annotated[str | None, typer.Option(help="The category, where the dataset holds several.")]
ListOnly = Annotated[bool, typer.Option("--list", help="Only list which files would be taken or passed over, and why.")]
Decisions = Annotated[
    Path | None,
    typer.Option(
        help="What people decided on the images: decisions.csv, what a labelling tool exported, or a manifest."
    ),
]
Roi = Annotated[
    Path | None,
    typer.Option(
        help="What is looked at: a mask, white where it is, or polygons in JSON of LabelMe or COCO; auto proposes one."
    ),
]
Channels = Annotated[
    Any,
    typer.Option(
        parser=_numbers,
        metavar="NUMBERS",
        help="Which one or three channels or pages of TIFFs are looked at, such as 0,1,3.",
        show_default="those of plain images",
    ),
]
Align = Annotated[
    bool, typer.Option("--align", help="Bring parts that lie turned or shifted to lie alike, where that helps.")
]
ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--range", metavar="BLACK WHITE", help="Values of images of more than 8 bits; default: found in the images."
    ),
]
Tile = Annotated[
    Any,
    typer.Option(
        parser=_tile,
        metavar="PIXELS|auto",
        help="Look at images whole and at their own size, in tiles of so many pixels, such as 512; auto chooses.",
        show_default="images are squeezed to --resize",
    ),
]
SmallestDefect = Annotated[
    Any,
    typer.Option(
        parser=_pixels,
        metavar="PIXELS",
        help="Side of the smallest defect to find, such as 40px: larger ones let tiled images be made smaller.",
        show_default="images keep their size",
    ),
]
CoresetRatio = Annotated[float, typer.Option(help="Size of the memory bank over all patches.")]
FalseAlarmRate = Annotated[float, typer.Option(help="Share of good images that may be called anomalous.")]
CheckShare = Annotated[float, typer.Option(help="Share of good images, beside those, that somebody is to check.")]
Overlays = Annotated[
    OverlayStyle | None, choice("Write each image with its heat map over it, beside the image or plain", OVERLAY_STYLES)
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]

_OF_RUNTIME = {
    "device": Device,
    "batch_size": BatchSize,
    "workers": Workers,
    "offline": Offline,
    "memory_budget": MemoryBudget,
}


def with_runtime(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the options that a `Runtime` is made of, in place of its parameter `runtime`."""

    @wraps(verb)
    def command(**values: Any) -> None:
        runtime = Runtime(**{name: values.pop(name) for name in _OF_RUNTIME})
        verb(**values, runtime=runtime)

    parameters: list[inspect.Parameter] = []
    for each in inspect.signature(verb).parameters.values():
        if each.name == "runtime":
            parameters += [
                inspect.Parameter(name, each.kind, default=getattr(Runtime, name), annotation=kind)
                for name, kind in _OF_RUNTIME.items()
            ]
        else:
            parameters.append(each)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
