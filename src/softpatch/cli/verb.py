"""A command whose errors are in the words of who typed it: options, not the names of arguments in Python."""

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from softpatch.config import OVERLAY_STYLES
from softpatch.errors import SoftPatchError

_VALUES_LEFT_OUT = {"--overlays": OVERLAY_STYLES}
"""Options that may stand alone, which means the first of their values."""


class Verb(TyperCommand):
    """A command that ends an error on one of its options with where to read about them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as any command does, with what options mean that stand alone."""
        return super().parse_args(ctx, with_values(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises an error of the same kind as the library's, in the words of the command line."""
        try:
            return super().invoke(ctx)
        except SoftPatchError as error:
            message = with_options(str(error), self.params)
            if message == str(error):
                raise
            raise type(error)(see_help(message, ctx)) from error


def with_values(arguments: list[str]) -> list[str]:
    """The arguments with the first value for every option that may stand alone and does.

    >>> with_values(["model", "--overlays", "new", "--overlays", "plain"])
    ['model', '--overlays=side-by-side', 'new', '--overlays', 'plain']
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    values = [_VALUES_LEFT_OUT.get(argument, ()) if n < end else () for n, argument in enumerate(arguments)]
    return [
        f"{argument}={known[0]}" if known and after not in known else argument
        for argument, known, after in zip(arguments, values, [*arguments[1:], ""], strict=False)
    ]


def with_options(message: str, parameters: Iterable[Any]) -> str:
    """The message with options in place of arguments: the library writes `coreset_ratio`, a user --coreset-ratio.

    Only names between backticks are replaced, and of those only what is an option among the `parameters`.
    """
    options = {each.name: max(each.opts, key=len) for each in parameters if each.param_type_name == "option"}
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), message)


def see_help(message: str, ctx: Any) -> str:
    """The message, then the command whose help to read; `ctx` is None where none was begun."""
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} See {ctx.command_path if ctx else 'softpatch'} --help."


def examples(*lines: str) -> str:
    """What a command's help ends in."""
    return "\n".join(["\b", f"Example{'s' if len(lines) > 1 else ''}:", *(f"  {line}" for line in lines)])
