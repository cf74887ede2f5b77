"""The command line: parse, call, print. A module per group of commands; `options.py` declares what they share."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

import softpatch
from softpatch.cli import bench, judge, learn, model
from softpatch.errors import SoftPatchError, is_out_of_memory

# typer brings its own copy of click or uses the installed one; its base exception has no public name
_USAGE_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find defects in product images, learning from a folder as it is: unlabelled, and partly defective.",
)
for command in (learn.fit, judge.predict, judge.evaluate, model.threshold, learn.demo):
    app.command()(command)
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
        status = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message()} See softpatch --help.")
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
