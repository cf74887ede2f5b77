"""Deploy: `softpatch export`, `softpatch serve` and `softpatch watch`."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softpatch.cli.options import Category, Layout, Model, Output, Overlays, Weights, choice, with_runtime
from softpatch.cli.paths import check_given, load_with_digest
from softpatch.config import EXPORT_FORMATS, PRECISIONS, VERDICTS, Runtime, check_threshold
from softpatch.errors import InputError

if TYPE_CHECKING:
    from softpatch.deploy.watch.delivery import Send

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODELS",
        help="Model files, or folders of them; NAME/2.safetensors is version 2 of the model NAME.",
        show_default=False,
    ),
]
_PATIENCE, _PATIENCE_ONCE = 2.0, 10.0  # seconds for what waits to be sent at the end


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
    from softpatch.deploy.export.agreement import images_to_check
    from softpatch.deploy.export.export import export_detector
    from softpatch.deploy.export.graph_file import FILES, needed
    from softpatch.terminal import printable, progress_bar, say

    needed(file_format)
    with progress_bar() as progress:
        estimator, digest = load_with_digest(model, weights, replace(runtime, device="cpu"), progress)
        images, labels = (None, None) if check is None else images_to_check(check, layout, category)
        found = export_detector(
            estimator.detector,
            output,
            file_format=file_format,
            precision=precision,
            images=images,
            labels=labels,
            model_digest=digest,
            on_note=lambda text: say(f"Note: {text}"),
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

    It takes softpatch[serve], and ends when interrupted or terminated, after what is at work. What may be asked is said
    in docs/how-to/behind-http.md.
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


@with_runtime
def watch(
    model: Model,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that images are put into, at any time.")],
    output: Output = Path("watched"),
    settle: Annotated[
        float, typer.Option(help="Seconds without a change that make a file complete; 0 trusts that all are renamed.")
    ] = 1.0,
    poll: Annotated[float, typer.Option(help="Seconds between two looks at the folder.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Judge what is there, and leave.")] = False,
    move: Annotated[
        Path | None,
        typer.Option(
            help="Move judged files to good, check, anomalous or unreadable in this folder.",
            show_default="they stay",
        ),
    ] = None,
    maps: Annotated[bool, typer.Option("--maps", help="Write a float32 TIFF map per image.")] = False,
    overlays: Overlays = None,
    threshold: Annotated[
        float | None, typer.Option(help="Image score above which an image is anomalous; default the model's.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="Post each verdict to this address, as JSON.")] = None,
    webhook_token_file: Annotated[
        Path | None, typer.Option(help="A file that holds the token to post with.", show_default="none is sent")
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(metavar="HOST[:PORT]/TOPIC", help="Publish each verdict to this MQTT broker and topic."),
    ] = None,
    only: Annotated[
        list[str] | None,
        choice("Send only this verdict, or alarms; can be given again", (*VERDICTS, "drift"), default="all are sent"),
    ] = None,
    no_drift: Annotated[
        bool, typer.Option("--no-drift", help="Do not tell when images change, or more are defective than usual.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is wrong.")] = False,
    weights: Weights = None,
    *,
    runtime: Runtime,
) -> None:
    """Judge images as they come into a folder.

    Each is judged once, when it is complete, until the command is stopped (Ctrl-C, or a request to terminate), which
    leaves with status 0; a stopped or killed one goes on where it was. The tables are those of `softpatch predict`.
    """
    if threshold is not None:
        check_threshold(threshold)
    check_given(model=model, weights=weights)
    receivers = _receivers(webhook, webhook_token_file, mqtt)
    if only and not receivers:
        raise InputError("`only` is of verdicts that are sent, and nothing is; give `webhook` or `mqtt` too")
    from softpatch.cli.stopping import stopped_by_signal
    from softpatch.deploy.watch.places import check_places, sole_watcher

    check_places(folder, output, move)
    with stopped_by_signal() as stopping, ExitStack() as stack:
        from softpatch.deploy.watch.delivery import Delivery
        from softpatch.deploy.watch.drift import ModelIdentity, forget_drift, open_drift
        from softpatch.deploy.watch.journal import open_journal
        from softpatch.deploy.watch.watch import Watch, Watched
        from softpatch.terminal import printable, progress_bar, say, status_line

        watched = Watched(folder, output, move, settle, poll, once, threshold, maps, overlays)
        for place in {path.resolve() for path in (output, move) if path}:
            stack.enter_context(sole_watcher(place))
        journal, notes = stack.enter_context(open_journal(output, folder))
        for text in notes:
            say(f"Note: {text}")
        with progress_bar() as progress:
            estimator, digest = load_with_digest(model, weights, runtime, progress)
        drift = None
        if no_drift:
            forget_drift(output)
        else:
            judging = estimator.detector if threshold is None else estimator.detector.with_threshold(threshold)
            drift, notes = open_drift(output, journal, judging, ModelIdentity(digest, threshold))
            for text in notes:
                say(f"Note: {text}")
        show = stack.enter_context(status_line(quiet=quiet))
        deliveries = [
            Delivery(name, send, output, journal, only=only or (), note=say) for name, send in receivers.items()
        ]
        for delivery in deliveries:
            delivery.begin()
            stack.callback(delivery.close, _PATIENCE_ONCE if once else _PATIENCE)
        Watch(
            estimator.detector, watched, journal, deliveries, drift=drift, stopping=stopping, show=show, note=say
        ).run()
    if not quiet:
        counts = journal.counts
        found = f"{journal.total} images, {counts['anomalous']} anomalous, {counts['check']} to check"
        print(f"{printable(str(output / 'predictions.csv'))}: {found}")


def _receivers(webhook: str | None, token_file: Path | None, mqtt: str | None) -> dict[str, "Send"]:
    """What sends verdicts, by the name under which it is remembered how far it came."""
    if token_file is not None and webhook is None:
        raise InputError("`webhook_token_file` is of a webhook, and none is given; give `webhook` too")
    receivers: dict[str, Send] = {}
    if webhook is not None:
        from softpatch.deploy.watch.webhook import post_to

        receivers["webhook"] = post_to(webhook, token_file)
    if mqtt is not None:
        from softpatch.deploy.watch.mqtt import publish_to

        receivers["mqtt"] = publish_to(mqtt)
    return receivers
