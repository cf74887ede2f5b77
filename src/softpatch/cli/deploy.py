"""Deploy: `softpatch watch`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softpatch.cli.options import Model, Output, Overlays, Weights, choice, with_runtime
from softpatch.cli.paths import check_given, load_model
from softpatch.config import VERDICTS, Runtime, check_threshold
from softpatch.errors import InputError

if TYPE_CHECKING:
    from softpatch.deploy.delivery import Send

_PATIENCE, _PATIENCE_ONCE = 2.0, 10.0  # seconds for what waits to be sent at the end


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
        list[str] | None, choice("Send only this verdict; can be given again", VERDICTS, default="all are sent")
    ] = None,
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
    from softpatch.deploy.places import check_places, sole_watcher

    check_places(folder, output, move)
    with stopped_by_signal() as stopping, ExitStack() as stack:
        from softpatch.deploy.delivery import Delivery
        from softpatch.deploy.journal import open_journal
        from softpatch.deploy.watch import Watch, Watched
        from softpatch.terminal import printable, progress_bar, say, status_line

        watched = Watched(folder, output, move, settle, poll, once, threshold, maps, overlays)
        for place in {path.resolve() for path in (output, move) if path}:
            stack.enter_context(sole_watcher(place))
        journal, notes = stack.enter_context(open_journal(output, folder))
        for text in notes:
            say(f"Note: {text}")
        with progress_bar() as progress:
            estimator = load_model(model, weights, runtime, progress)
        show = stack.enter_context(status_line(quiet=quiet))
        deliveries = [
            Delivery(name, send, output, journal, only=only or (), note=say) for name, send in receivers.items()
        ]
        for delivery in deliveries:
            delivery.begin()
            stack.callback(delivery.close, _PATIENCE_ONCE if once else _PATIENCE)
        Watch(estimator.detector, watched, journal, deliveries, stopping=stopping, show=show, note=say).run()
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
        from softpatch.deploy.webhook import post_to

        receivers["webhook"] = post_to(webhook, token_file)
    if mqtt is not None:
        from softpatch.deploy.mqtt import publish_to

        receivers["mqtt"] = publish_to(mqtt)
    return receivers
