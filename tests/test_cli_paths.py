"""Lists, standard input and patterns in place of paths."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from softpatch import cli
from softpatch.cli.paths import check_given, given_paths
from softpatch.errors import InputError, SoftPatchError


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


def test_one_way_to_load_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def load(path: Path, **values: object) -> None:
        seen.append({"path": path, **values})
        raise InputError("seen")

    monkeypatch.setattr("softpatch.SoftPatch.load", load)
    model = tmp_path / "m.safetensors"
    model.write_bytes(b"")
    options = ["--device", "cpu", "--batch-size", "3", "--workers", "1", "--offline", "--memory-budget", "2GB"]
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    for words in (["predict", model, tmp_path], ["threshold", model]):
        with pytest.raises(SystemExit):
            cli.main([*map(str, words), *options])
        runtime = {"device": "cpu", "batch_size": 3, "workers": 1, "offline": True, "memory_budget": "2GB"}
        assert seen[-1].items() >= {"path": model, "weights": None, **runtime}.items()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "m"}, "m does not exist; give a model file"),
        ({"model": "."}, r"\. is a folder; first comes the model file"),
        ({"weights": "w.safetensors"}, "weights file w.safetensors does not exist"),
        ({"images": ["here.png", "there"]}, "there does not exist; give an image file or a folder"),
    ],
)
def test_what_is_not_there(given: dict[str, Any], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.png").write_bytes(b"")
    check_given(weights="pretrained", images=["here.png", None, ""])
    with pytest.raises(SoftPatchError, match=message):
        check_given(**{**given, "model": Path(given["model"])} if "model" in given else given)
