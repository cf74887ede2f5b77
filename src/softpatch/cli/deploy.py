"""Put models to work: `softpatch serve`."""

from pathlib import Path
from typing import Annotated

import typer

from softpatch.cli.options import Weights, with_runtime
from softpatch.cli.paths import check_given
from softpatch.config import Runtime
from softpatch.errors import InputError

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODELS",
        help="Model files, or folders of them; NAME/2.safetensors is version 2 of the model NAME.",
        show_default=False,
    ),
]


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
