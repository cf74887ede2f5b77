"""A command whose errors are in the words of who typed it: options, not the names of arguments in Python."""

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from softpatch.errors import SoftPatchError


class Verb(TyperCommand):
    """A command that ends an error on one of its options with where to read about them."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises an error of the same kind as the library's, in the words of the command line."""
        try:
            return super().invoke(ctx)
        except SoftPatchError as error:
            message = with_options(str(error), self.params)
            if message == str(error):
                raise
            raise type(error)(see_help(message, ctx)) from error


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
