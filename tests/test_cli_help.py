"""Help, choices, errors in the words of the command line, completion, and the reference that is made of them."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from softpatch import cli
from softpatch.cli.reference import reference
from softpatch.cli.verb import with_options
from softpatch.config import DEVICES, LAYOUTS, PRESETS, SYMMETRIES
from softpatch.data import layouts

ROOT = Path(__file__).parent.parent


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


def verbs(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for word, part in getattr(command, "commands", {}).items():
        yield (*words, word), part
        yield from verbs(part, (*words, word))


VERBS = dict(verbs(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("words", [(), *VERBS], ids=" ".join)
def test_help_ends_in_examples_that_can_be_typed(words: tuple[str, ...], capsys) -> None:
    code, out, err = run(capsys, *words, "-h")
    assert (code, err) == (0, "")
    assert run(capsys, *words, "--help")[1] == out
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() in ("Example:", "Examples:"))
    assert lines[start + 1 :]
    for line in lines[start + 1 :]:
        program, *arguments = shlex.split(line)
        assert program == "softpatch"
        depth = 2 if arguments[0] == "bench" else 1
        VERBS[tuple(arguments[:depth])].make_context(program, arguments[depth:])


def test_the_list_of_commands_is_not_cut() -> None:
    for words, command in VERBS.items():
        assert len(command.get_short_help_str(63)) <= 63
        assert "..." not in command.get_short_help_str(63), words


@pytest.mark.parametrize(
    ("arguments", "value", "meant", "choices"),
    [
        ("fit . --preset", "softpach+", "softpatch+", PRESETS),
        ("fit . --device", "cude", "cuda", DEVICES),
        ("fit . --layout", "mvtek", "mvtec", LAYOUTS),
        ("fit . --symmetries", "fond", "find", SYMMETRIES),
        ("predict m . --layout", "mv-tec-loco", "mvtec-loco", LAYOUTS),
        ("bench run --method", "padin", "padim", ["padim", "cflow", "softpatch+", "agreement"]),
        ("bench run --protocol", "no_overlap", "no-overlap", ["clean", "overlap"]),
        ("bench run --budget", "smal", "small", ["paper"]),
    ],
)
def test_a_wrong_choice_says_which_there_are(arguments: str, value: str, meant: str, choices: Any, capsys) -> None:
    words = arguments.split()
    code, out, err = run(capsys, *words, value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"Invalid value for '{words[-1]}': {value!r} is unknown; choose from " in err
    assert all(choice in err for choice in choices)
    verb = "bench run" if words[0] == "bench" else words[0]
    assert err.endswith(f"did you mean {meant!r}? See softpatch {verb} --help.\n")
    help_text = " ".join(run(capsys, *verb.split(), "-h")[1].split())
    assert all(choice in help_text for choice in choices)


def test_nothing_similar_is_not_guessed_at(capsys) -> None:
    assert "did you mean" not in run(capsys, "fit", ".", "--preset", "zzz")[2]
    assert "did you mean" not in run(capsys, "fit", ".", "--device", "gpu")[2]  # not cpu


def test_a_choice_in_capitals_is_taken(capsys, tmp_path: Path) -> None:
    code, _, err = run(capsys, "fit", tmp_path, "--preset", "PatchCore", "--layout", "MVTec")
    assert (code, "'mvtec' needs a category" in err) == (2, True)


def test_the_layouts_of_the_command_line_are_those_there_are() -> None:
    assert (layouts._PLAIN.name, *layouts._LAYOUTS) == LAYOUTS


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--resize", 1),
        ("--crop", 500),
        ("--coreset-ratio", 7),
        ("--false-alarm-rate", 0),
        ("--check-share", 2),
        ("--seed", -1),
        ("--batch-size", 0),
        ("--workers", 0),
        ("--memory-budget", "much"),
    ],
)
def test_an_error_names_the_option_and_the_help(option: str, value: object, tmp_path: Path, capsys) -> None:
    code, out, err = run(capsys, "fit", tmp_path, option, value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert option in err
    assert option[2:].replace("-", "_") not in err.replace(option, "")
    assert "`" not in err
    assert err.endswith(". See softpatch fit --help.\n")


@pytest.mark.parametrize(
    ("arguments", "verb"),
    [
        ("fly", ""),
        ("predict", " predict"),
        ("predict a b --nope", " predict"),
        ("evaluate a b c", " evaluate"),
        ("threshold a --set high", " threshold"),
        ("bench", " bench"),
        ("bench run --jobs 0", " bench run"),
        ("bench run --data d", " bench run"),
        ("bench summary rows.jsonl", " bench summary"),
    ],
)
def test_an_error_names_the_verb_whose_help_to_read(arguments: str, verb: str, capsys) -> None:
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.endswith(f" See softpatch{verb} --help.\n")


def test_an_argument_is_an_option_only_where_there_is_one() -> None:
    parameters = VERBS[("predict",)].params
    message = "`batch_size` and `crop` of `softpatch fit` and `model`, batch_size"
    assert with_options(message, parameters) == message.replace("`batch_size`", "--batch-size")
    assert with_options("`threshold`", VERBS[("threshold",)].params) == "--set"


def test_the_library_names_arguments_not_options() -> None:
    notes = {"terminal.py", "samples.py"}  # which are for the command line alone
    for path in (ROOT / "src/softpatch").rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.parent.name == "cli" or path.name in notes:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and re.search(r"[\s'\"({]--[a-z]", ast.unparse(node)):
                pytest.fail(f"{path.name} names an option: {ast.unparse(node)}")


def quick(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, with exit status 9 if it imported anything slow."""
    code = (
        "import sys\nfrom softpatch import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit as leaving:\n    code = leaving.code\n"
        "slow = {'torch', 'scipy', 'sklearn', 'PIL', 'numba', 'timm', 'matplotlib'} & set(sys.modules)\n"
        "print(*slow, file=sys.stderr)\nsys.exit(9 if slow else code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "nowhere"],
        ["fit", ".", "--crop", "500"],
        ["fit", ".", "--weights", "nowhere.safetensors"],
        ["fit", ".", "-o", __file__],
        ["predict", "nowhere.safetensors", "."],
        ["watch", "nowhere.safetensors", "."],
        ["watch", __file__, "nowhere"],
        ["watch", __file__, ".", "--webhook", "ftp://plant"],
        ["watch", __file__, ".", "--mqtt", "plant"],
        ["predict", __file__, "nowhere"],
        ["evaluate", __file__, "nowhere"],
        ["threshold", __file__, "--max-missed", "0.1"],
        ["threshold", __file__, "--labelled", ".", "--max-missed", "2"],
        ["threshold", __file__, "--false-alarm-rate", "2"],
        ["threshold", __file__, "--set", "nan"],
        ["predict", __file__, ".", "--threshold", "nan"],
        ["info", __file__],
        ["bench", "run", "nowhere.toml"],
        ["bench", "run", "--data", "d", "--method", "padim", "--budget", "small"],
        ["bench", "summary", "nowhere.jsonl", "-o", "."],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_told_before_anything_slow_is_imported(arguments: list[str]) -> None:
    assert quick(arguments).returncode == 2


@pytest.mark.parametrize(
    ("typed", "word", "completed"),
    [
        (
            "softpatch ",
            1,
            {
                "fit",
                "audit",
                "predict",
                "evaluate",
                "report",
                "watch",
                "info",
                "threshold",
                "add",
                "remove",
                "refit",
                "export",
                "serve",
                "demo",
                "bench",
            },
        ),
        ("softpatch fit --pre", 2, {"--preset"}),
        ("softpatch fit --preset soft", 3, {"softpatch", "softpatch+"}),
        ("softpatch bench run --protocol o", 4, {"overlap", "overlap-distinct"}),
    ],
)
def test_the_shell_completes(typed: str, word: int, completed: set[str]) -> None:
    ended = quick([], _SOFTPATCH_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(word))
    assert (ended.returncode, set(ended.stdout.split())) == (0, completed)


def test_completion_can_be_shown(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    code, out, _ = run(capsys, "--show-completion")
    assert (code, "complete -o default -F _softpatch_completion softpatch" in out) == (0, True)


def test_the_reference_is_that_of_the_code() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    assert page == reference(), "write it anew: python -m softpatch.cli.reference > docs/reference/command-line.md"
    for words, command in VERBS.items():
        assert hasattr(command, "commands") or f"## softpatch {' '.join(words)}\n" in page
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or f"`{', '.join(parameter.opts)}`" in page
