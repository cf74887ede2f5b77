"""Deploy: `softpatch export`."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from softpatch.cli.options import Category, Layout, Model, Weights, choice, with_runtime
from softpatch.cli.paths import check_given, load_model
from softpatch.config import EXPORT_FORMATS, PRECISIONS, Runtime


@with_runtime
def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the graph and model.json.")] = Path(
        "exported"
    ),
    file_format: Annotated[str, choice("What runs it", EXPORT_FORMATS, name="--format")] = "onnx",
    precision: Annotated[str, choice("What it computes with", PRECISIONS)] = "fp32",
    check: Annotated[
        Path | None,
        typer.Option(
            help="Images, or a dataset with labels, that the graph and the model are compared on.",
            show_default="some of those that the model learned from",
        ),
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    weights: Weights = None,
    *,
    runtime: Runtime,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO.

    It answers as the model does: nothing is written where the two do not agree. It takes softpatch[export], or
    softpatch[openvino].
    """
    check_given(model=model, weights=weights, images=[check])
    from softpatch.deploy.agreement import images_to_check, training_images
    from softpatch.deploy.export import export_detector
    from softpatch.deploy.graph_file import FILES, needed
    from softpatch.terminal import printable, progress_bar, say

    needed(file_format)
    with progress_bar() as progress:
        detector = load_model(model, weights, runtime, progress).detector
        images, labels = (
            (training_images(detector), None) if check is None else images_to_check(check, layout, category)
        )
        found = export_detector(
            detector,
            output,
            file_format=file_format,
            precision=precision,
            images=images,
            labels=labels,
            model_digest=sha256(model.read_bytes()).hexdigest(),
            progress=progress,
        )
    say(
        f"Checked on {found.images} images: scores differ by {found.score_deviation:.1g} of themselves at most, "
        f"{found.changed_verdicts} verdicts changed."
    )
    if found.image_auroc is not None and found.exported_image_auroc is not None:
        say(f"Image AUROC: {found.exported_image_auroc:.4f} exported, {found.image_auroc:.4f} as it was.")
    print(f"{printable(str(output / FILES[file_format][0]))}: {precision}, described in model.json")
