"""The command line: parse, call, print. A module per group of commands; `options.py` declares what they share."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

import softpatch
from softpatch.cli import bench, change, deploy, judge, learn, model, review
from softpatch.cli.verb import Verb, examples, see_help
from softpatch.errors import SoftPatchError, is_out_of_memory

# typer brings its own copy of click or uses the installed one; its base exception has no public name
_USAGE_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes in half the time
    help="Find defects in product images, learning from a folder as it is: unlabelled, and partly defective.",
    epilog=examples(
        "softpatch fit photos/ -o product.safetensors", "softpatch predict product.safetensors new/ -o results"
    ),
)
_VERBS = (
    (learn.fit, ["softpatch fit photos/ -o product.safetensors"]),
    (review.audit, ["softpatch audit photos/ -o audit"]),
    (judge.predict, ["softpatch predict product.safetensors new/ -o results --overlays"]),
    (judge.evaluate, ["softpatch evaluate product.safetensors dataset/bottle --csv judged.csv"]),
    (judge.report, ["softpatch report product.safetensors dataset/bottle -o report"]),
    (deploy.watch, ["softpatch watch product.safetensors incoming/ -o watched --move sorted/"]),
    (model.info, ["softpatch info product.safetensors"]),
    (
        model.threshold,
        [
            "softpatch threshold product.safetensors --false-alarm-rate 0.05",
            "softpatch threshold product.safetensors --labelled sorted/ --max-missed 0.02",
        ],
    ),
    (change.add, ["softpatch add product.safetensors photos/november/"]),
    (change.remove, ["softpatch remove product.safetensors photos/0417.png"]),
    (change.refit, ["softpatch refit product.safetensors"]),
    (
        deploy.export,
        ["softpatch export product.safetensors --format openvino --check dataset/bottle -o exported"],
    ),
    (deploy.serve, ["softpatch serve product.safetensors", "softpatch serve models/ --port 8080"]),
    (learn.demo, ["softpatch demo -o demo"]),
)
for command, lines in _VERBS:
    app.command(cls=Verb, epilog=examples(*lines))(command)
app.add_typer(bench.app, name="bench")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        print(f"softpatch {softpatch.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit status 0, or 2 for a user's error, which is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(arguments, prog_name="softpatch", standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        _fail(see_help(error.format_message(), getattr(error, "ctx", None)))
    except SoftPatchError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output left; say no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, BrokenPipeError):  # which typer makes a failure
            raise
        status = 0
    except OSError as error:
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}")
    except Exception as error:
        if is_out_of_memory(error):
            _fail(
                "the memory is used up; give fewer or smaller images, a smaller --crop, --batch-size or --workers, "
                "or free some memory"
            )
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
