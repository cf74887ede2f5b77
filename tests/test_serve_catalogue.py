"""Which files are which models, and when they are loaded, replaced and dropped."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from softpatch.deploy.serve.catalogue import ModelFile, check_models, find_models
from softpatch.deploy.serve.models import Models
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.errors import InputError, ModelFileError


def written(path: Path, text: str = "model") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*paths: Path) -> dict[str, list[int]]:
    return {name: list(versions) for name, versions in find_models(paths).items()}


def test_files_are_named_by_their_stems_and_versions_by_their_folders(tmp_path: Path) -> None:
    for name in ("flange", "screw/2", "screw/10", "screw/notes", ".hidden", "007"):
        written(tmp_path / f"{name}.safetensors")
    written(tmp_path / "readme.txt")
    written(tmp_path / "deep/er/1.safetensors")
    assert names(tmp_path) == {"007": [1], "flange": [1], "screw": [2, 10]}
    assert names(tmp_path / "screw") == {"notes": [1], "screw": [2, 10]}
    assert names(tmp_path / "screw/10.safetensors", tmp_path / "flange.safetensors") == {"flange": [1], "screw": [10]}


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_not_utf_8_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path / "flange.safetensors")
    odd = tmp_path / os.fsdecode(b"\xff.safetensors")
    written(odd)
    assert names(tmp_path) == {"flange": [1]}
    with pytest.raises(InputError, match="give model files"):
        check_models([odd])


@pytest.mark.parametrize("path", ["nowhere", "empty", "notes.txt"])
def test_a_path_without_a_model_is_told(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    written(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=f"{path}.* give model files that `softpatch fit` wrote"):
        check_models([tmp_path / path])


def test_two_files_of_one_name_are_told_and_one_given_twice_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = tmp_path / "a/x.safetensors", tmp_path / "b/x.safetensors"
    for path in (first, second):
        save_file({"x": np.zeros(1)}, path, metadata={"softpatch": "{}"})
    check_models([first, tmp_path / "a"])
    with pytest.raises(InputError, match="are both version 1 of the model 'x'"):
        check_models([first, second])


def test_a_named_file_has_to_begin_as_a_model(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"x": np.zeros(1)}, weights)
    for path in (weights, written(tmp_path / "text.safetensors")):
        with pytest.raises(ModelFileError, match=f"{path.name} is cut short or not a model file"):
            check_models([path])
    check_models([tmp_path])  # of a folder, files may yet come


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """Models whose detectors are the text of their files; "broken" cannot be loaded."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.told: list[tuple[str, int, str]] = []
        self.clock = Clock()
        load: Any = self.load
        self.models = Models([folder], load, keep=keep, on_load=self.tell, clock=self.clock)

    def load(self, path: Path) -> str:
        if path.read_text() == "broken":
            raise ModelFileError(f"{path} is cut short")
        return path.read_text()

    def tell(self, file: ModelFile, outcome: str, _: str) -> None:
        self.told.append((file.name, file.version, outcome))

    def ask(self, name: str | None = None, version: str | None = None) -> str:
        text: Any = self.models.detector(self.models.find(name, version))
        return text


def test_the_highest_version_is_used_unless_another_is_named(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        written(tmp_path / f"screw/{version}.safetensors", f"v{version}")
    shelf = Shelf(tmp_path)
    assert (shelf.ask(), shelf.ask("screw"), shelf.ask("screw", "2")) == ("v10", "v10", "v2")
    (tmp_path / "screw/10.safetensors").unlink()
    written(tmp_path / "screw/3.safetensors", "v3")
    assert shelf.ask() == "v10"  # files were looked at just now
    shelf.clock.now = 1.1
    assert shelf.ask() == "v3"


@pytest.mark.parametrize(
    ("name", "version", "status", "words"),
    [
        ("bolt", None, 404, "there is no model 'bolt'; there is flange, screw"),
        (None, None, 400, "2 models are served; ask for one of them: flange, screw"),
        ("screw", "7", 404, "model 'screw' has no version '7'; it has 1, 2"),
        ("screw", "\N{SUPERSCRIPT TWO}", 404, "has no version"),
        ("screw", "-1", 404, "has no version"),
        ("../screw", None, 404, "there is no model"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, name: str, version: str, status: int, words: str) -> None:
    for each in ("flange", "screw/1", "screw/2"):
        written(tmp_path / f"{each}.safetensors")
    with pytest.raises(RequestError, match=words) as raised:
        Shelf(tmp_path).ask(name, version)
    assert raised.value.status == status


def test_those_used_last_are_kept(tmp_path: Path) -> None:
    for name in "abc":
        written(tmp_path / f"{name}.safetensors", name)
    shelf = Shelf(tmp_path, keep=2)
    assert [shelf.ask(name) for name in "abacab"] == [*"abacab"]
    assert [name for name, _, _ in shelf.told] == [*"abcb"]  # c took the place of b, b that of c
    assert shelf.models.count_loaded() == 2


def test_a_changed_file_is_read_and_a_broken_one_leaves_the_one_before(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", "first")
    shelf = Shelf(tmp_path)
    assert shelf.ask() == "first"
    for now, text, expected in ((2, "second", "second"), (4, "broken", "second"), (6, "broken", "second")):
        if path.read_text() != text:
            path.write_text(text)
            os.utime(path, ns=(now, now))
        shelf.clock.now = now
        assert shelf.ask() == expected
    assert [outcome for _, _, outcome in shelf.told] == ["loaded", "loaded", "failed"]
    shelf.clock.now = 15  # a file that did not change is tried once more
    assert shelf.ask() == "second"
    path.write_text("third one")
    shelf.clock.now = 17
    assert shelf.ask() == "third one"
    assert [outcome for _, _, outcome in shelf.told][3:] == ["failed", "loaded"]


def test_a_model_that_was_never_whole_is_not_tried_for_every_request(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "broken")
    shelf = Shelf(tmp_path)
    assert shelf.models.is_usable(shelf.models.find("a"))
    for _ in range(3):
        with pytest.raises(RequestError, match="model 'a' cannot be loaded; the server's log says why") as raised:
            shelf.ask()
        assert (raised.value.status, raised.value.headers["Retry-After"]) == (503, "10")
    assert shelf.told == [("a", 1, "failed")]
    assert not shelf.models.is_usable(shelf.models.find("a"))


def test_what_is_gone_is_dropped(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / f"{name}.safetensors", name)
    shelf = Shelf(tmp_path, keep=5)
    shelf.ask("a"), shelf.ask("b")
    (tmp_path / "a.safetensors").unlink()
    shelf.clock.now = 2
    assert shelf.ask() == "b"
    assert shelf.models.count_loaded() == 1
