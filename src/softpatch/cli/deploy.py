"""Deploy: `softpatch export` and `softpatch serve`."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from softpatch.cli.options import Category, Layout, Model, Weights, choice, with_runtime
from softpatch.cli.paths import check_given, load_model
from softpatch.config import EXPORT_FORMATS, PRECISIONS, Runtime
from softpatch.errors import InputError

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL...",
        help="Model files, or folders of them; NAME/2.safetensors is version 2 of the model NAME.",
        show_default=False,
    ),
]


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
    from softpatch.deploy.export.agreement import images_to_check, training_images
    from softpatch.deploy.export.export import export_detector
    from softpatch.deploy.export.graph_file import FILES, needed
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


@with_runtime
def serve(
    models: Models,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this computer's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that requests have to bear; or the variable SOFTPATCH_TOKEN."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other computers in without a token.")] = False,
    loaded: Annotated[int, typer.Option(min=1, help="Models in memory at once; others are loaded when asked for.")] = 4,
    batch_wait: Annotated[
        float, typer.Option(help="Milliseconds that an image waits for others to be judged with.")
    ] = 0.0,
    max_request_mb: Annotated[int, typer.Option(min=1, help="Megabytes of a request at most.")] = 64,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Requests at work at once; more are turned away.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 30.0,
    drain: Annotated[float, typer.Option(help="Seconds of being not ready before no more is taken, at the end.")] = 1.0,
    weights: Weights = None,
    *,
    runtime: Runtime,
) -> None:
    """Serve models over HTTP: a page, JSON, and KServe's protocol.

    It takes softpatch[serve], and ends when interrupted or terminated, after what is at work. What answers share is
    said in docs/how-to/behind-http.md.
    """
    from softpatch.deploy.serve.catalogue import check_models, find_models
    from softpatch.deploy.serve.settings import ServeSettings, read_token

    settings = ServeSettings(
        tuple(models),
        runtime=runtime,
        weights=weights,
        host=host,
        port=port,
        loaded=loaded,
        batch_wait=batch_wait,
        max_request_mb=max_request_mb,
        max_in_flight=max_in_flight,
        timeout=timeout,
        drain=drain,
        token=read_token(token_file),
        insecure=insecure,
    )
    check_given(weights=weights)
    check_models(settings.models)
    try:
        from softpatch.deploy.serve import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("softpatch"):
            raise
        raise InputError(f"to serve takes {error.name}, which is not installed; install softpatch[serve]") from error
    from softpatch.terminal import printable

    names = ", ".join(find_models(settings.models))
    server.serve(settings, on_start=lambda address: print(printable(f"{address}/ serves {names}"), flush=True))
