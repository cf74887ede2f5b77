"""Folders of a watch that would lead to judging what was written, and a second watcher."""

import os
from pathlib import Path

import pytest

from softpatch.deploy.watch.places import check_places, sole_watcher
from softpatch.errors import InputError


@pytest.mark.parametrize(
    ("folder", "output", "move", "words"),
    [
        ("file", "out", None, "is a file"),
        ("nowhere", "out", None, "does not exist"),
        ("in", "in", None, "another folder as `output`"),
        ("in", "in/sub/..", None, "another folder as `output`"),
        ("out/maps", "out", None, "where maps are written"),
        ("out/overlays/sub", "out", None, "where overlays are written"),
        ("in", "out", "in", "another folder as `move`"),
        ("in/sub", "out", "in", "another folder as `move`"),
    ],
)
def test_places_that_go_round_in_circles(
    folder: str, output: str, move: str | None, words: str, tmp_path: Path
) -> None:
    for name in ("in/sub", "out/maps", "out/overlays/sub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=words):
        check_places(tmp_path / folder, tmp_path / output, tmp_path / move if move else None)


def test_places_that_are_fine(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    check_places(tmp_path / "in", tmp_path, None)
    check_places(tmp_path / "in", tmp_path / "in/watched", tmp_path / "in/sorted")
    check_places(tmp_path / "in", tmp_path / "out", tmp_path / "out")


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_a_second_watcher_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    with sole_watcher(tmp_path / "new"):
        with pytest.raises(InputError, match="another watcher writes to"), sole_watcher(tmp_path / "new"):
            pass
        with sole_watcher(tmp_path / "other"):
            pass
    with sole_watcher(tmp_path / "new"):
        pass


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="cannot write"), sole_watcher(tmp_path / "out"):
        pass
