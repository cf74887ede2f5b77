"""The reference of the command line, docs/reference/command-line.md, made from what the commands declare.

`python -m softpatch.cli.reference > docs/reference/command-line.md` writes it anew.
"""

from collections.abc import Iterator
from typing import Any

import typer

from softpatch.cli import app

_BEGINNING = """\
# Command line

Made from the code, by `python -m softpatch.cli.reference`; `softpatch COMMAND -h` says the same.

A command leaves with status 0, with 2 after an error that the user can mend, which is one line on standard error, with 1 after an unexpected one, and with 3 where `predict --exit-code` found an anomalous image. `softpatch --install-completion` has the shell complete commands, options and their values from its next start on; `softpatch --show-completion` prints what would be installed.
"""  # noqa: E501  a paragraph is a line


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_BEGINNING, *_sections(typer.main.get_command(app), "softpatch")]).rstrip() + "\n"


def _sections(command: Any, name: str) -> Iterator[str]:
    for word, part in getattr(command, "commands", {}).items():
        full = f"{name} {word}"
        if hasattr(part, "commands"):
            yield from _sections(part, full)
            continue
        arguments = [each for each in part.params if each.param_type_name == "argument"]
        options = [each for each in part.params if each.param_type_name == "option"]
        usage = " ".join([full, *map(_usage, arguments), "[OPTIONS]"])
        yield f"## {full}\n\n{_flowing(part.help)}\n\n```\n{usage}\n```\n"
        yield "| argument or option | default | meaning |\n|---|---|---|"
        yield from (_row(each.metavar, each) for each in arguments)
        yield from (_row(", ".join(each.opts), each) for each in options)
        yield f"\n```sh\n{_examples(part.epilog)}\n```\n"


def _usage(argument: Any) -> str:
    name = f"{argument.metavar}..." if argument.nargs == -1 else str(argument.metavar)
    return name if argument.required else f"[{name}]"


def _row(name: str, parameter: Any) -> str:
    shown, value = parameter.show_default, parameter.default
    if isinstance(shown, str):
        default = shown
    elif parameter.required:
        default = "required"
    else:
        default = "" if value is None or value is False else f"`{value}`"
    meaning = parameter.help.replace("|", r"\|").replace("<", r"\<")
    return f"| `{name}` | {default} | {meaning} |"


def _flowing(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _examples(epilog: str) -> str:
    return "\n".join(line.strip() for line in epilog.splitlines()[2:])


if __name__ == "__main__":
    print(reference(), end="")
