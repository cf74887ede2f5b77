"""Lists, standard input and patterns in place of paths."""

import io
import sys
from pathlib import Path

import pytest

from softpatch.cli.paths import given_paths
from softpatch.errors import InputError


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a.png", "c.jpg", "[x].png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def test_plain_paths_stay_as_they_are() -> None:
    assert given_paths(["b.png", "missing.png", "./a.png"]) == ["b.png", "missing.png", "./a.png"]


@pytest.mark.parametrize("content", ["a.png\nb c.png\n", "\ufeffa.png\r\n\r\nb c.png", "\na.png\nb c.png\n  \n"])
def test_a_list_names_a_path_per_line(content: str) -> None:
    Path("list.txt").write_bytes(content.encode())
    assert given_paths(["@list.txt", "c.jpg"]) == ["a.png", "b c.png", "c.jpg"]


def test_standard_input_names_a_path_per_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\n\xff.png\n")))
    assert given_paths(["-"]) == ["a.png", "\udcff.png"]


def test_a_pattern_that_the_shell_left_is_expanded_unless_a_file_is_named_so() -> None:
    assert given_paths(["*.png"]) == ["[x].png", "a.png", "b.png"]
    assert given_paths(["[x].png"]) == ["[x].png"]
    Path("@a").touch()
    assert given_paths(["@a"]) == ["@a"]


@pytest.mark.parametrize(
    ("argument", "content", "message"),
    [
        ("*.tiff", b"", r"no file matches '\*\.tiff', a pattern that the shell left"),
        ("@none.txt", b"", r"the list 'none\.txt' cannot be read \(No such file"),
        ("@.", b"", r"the list '\.' cannot be read"),
        ("@", b"", "the list '' cannot be read"),
        ("@list", b"\n \n", "the list 'list' names no image"),
        ("@list", b"\x89PNG\0", "the list 'list' is not text"),
    ],
)
def test_what_names_nothing_is_told(argument: str, content: bytes, message: str) -> None:
    Path("list").write_bytes(content)
    with pytest.raises(InputError, match=message):
        given_paths([argument])
