"""Decisions come back as they were written, belong to the images they are about, and are told when they do not."""

import csv
import os
from pathlib import Path

import pytest
import torch

from softpatch.data.cells import path_cell
from softpatch.data.decisions import DECISIONS, decisions_for, read_decisions
from softpatch.data.images import ImageRef, file_ref
from softpatch.errors import InputError

HOSTILE = [
    "plain.png",
    "=1+1.png",
    " =1+1.png",
    "-2.png",
    "@SUM(A1).png",
    "a;=b.png",
    "'quoted'.png",
    '"double", comma.png',
    "two\nlines.png",
    "carriage\rreturn.png",
    "tab\t=1.png",
    "\u202egnp.exe",
    "\u2028line.png",
    "\ufeffmark.png",
    "caf\udce9.png",
    "\uff1d1.png",
    "'=1.png",
    "'a;=b",
    "back\\slash.png",
    "<script>&amp;.png",
]


def refs(*names: str | Path) -> list[ImageRef]:
    return [file_ref(Path(name)) for name in names]


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Written as any program would that knows nothing of what it writes."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "decision"), *rows])
    return path


@pytest.mark.parametrize("folder", ["", "photos/", "/photos/"])
def test_hostile_names_come_back(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [folder + name for name in HOSTILE]
    decided = {name: DECISIONS[number % 3] for number, name in enumerate(names)}
    path = table(tmp_path / "decisions.csv", [(path_cell(name), decision) for name, decision in decided.items()])
    assert decisions_for(read_decisions(path), refs(*names)) == decided


def test_keys_are_harmless_in_a_spreadsheet() -> None:
    assert [path_cell(name) for name in ("=1.png", "a;=b.png", "caf\udce9.png", "good/1.png")] == [
        "./=1.png",
        "'a;=b.png",
        "caf\\udce9.png",
        "good/1.png",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "path,decision\na.png,keep\nb/c.png,reject\n",
        "path,decision\r\na.png,keep\r\n\r\nb/c.png,reject",
        '\ufeffpath;"decision"\n"a.png";keep\nb/c.png;reject\nd.png;\n',
        " Decision \tnote\tPATH\nKeep\t\ta.png\n reject\tx\tb/c.png\n",
        "path,decision\na.png,keep\na.png,keep\nb/c.png,reject\n",
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.csv").write_text(text, newline="")
    assert read_decisions(tmp_path / "d.csv") == {"a.png": "keep", "b/c.png": "reject"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with ''; a file of decisions has the columns path and decision"),
        (b"path,verdict\na,keep\n", "begins with 'path,verdict'; a file of decisions has the columns"),
        (b"path,decision\na.png,maybe\n", "says 'maybe' of 'a.png'; a decision is keep, reject or unsure"),
        (b"path,decision\na,keep\na,reject\n", "says both keep and reject of 'a'; leave one of them"),
        (b"path,decision\na,keep\nb.png", "is cut off in the middle of row 3; save it again"),
        (b"path,decision\na,keep\nb.png,rej", "is cut off in the middle of row 3; save it again"),
        (b"path,decision\na,keep\nb.png,", "is cut off in the middle of row 3; save it again"),
        (b'path,decision\na,keep\n"b.pn', "is cut off in the middle of row 3; save it again"),
        (b'path,decision\n"a"b,keep\n', "cannot be read at row 2"),
        (b"path,decision\n" + b"a" * 200_000 + b",keep\n", "cannot be read at row 2"),
        (b"path,decision\nsch\xf6n.png,keep\n", "is not UTF-8; save it as CSV in UTF-8"),
        (b'{"images": [', "is cut off or no JSON"),
        (b"[" * 100_000, "is cut off or no JSON"),
        (b"{}", "is neither COCO JSON with images and annotations nor an export of Label Studio"),
        (b"[1]", "is neither COCO JSON"),
    ],
)
def test_files_that_are_no_decisions(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_decisions(tmp_path / "d.csv")
    assert str(tmp_path / "d.csv") in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("name", ["absent.csv", "folder", "nul\0.csv"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is no file; give a CSV or JSON file of decisions"):
        read_decisions(tmp_path / name)


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        read_decisions(tmp_path / ("a" * 300))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "d.csv").open("wb") as file:
        file.truncate(50_000_001)
    with pytest.raises(InputError, match="is larger than 50,000,000 bytes"):
        read_decisions(tmp_path / "d.csv")


def test_names_come_before_places_and_these_before_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = refs("a/1.png", tmp_path / "b/1.png", "c/2.png", "d/sub/3.png")
    assert decisions_for({"a/1.png": "keep", "./b/1.png": "reject"}, images) == {
        "a/1.png": "keep",
        str(tmp_path / "b/1.png"): "reject",
    }
    for written in ("2.png", "c/2.png", "./c//2.png", "c\\2.png", str(tmp_path / "c/2.png"), "c/../c/2.png"):
        assert decisions_for({written: "unsure"}, images) == {"c/2.png": "unsure"}
    with pytest.raises(InputError, match=r"'1\.png' may be any of 2 images; write more of its path"):
        decisions_for({"1.png": "keep"}, images)


def test_a_path_below_the_folder_that_all_share_is_meant_before_one_that_ends_so(tmp_path: Path) -> None:
    images = refs(tmp_path / "1.png", tmp_path / "sub/1.png")
    assert decisions_for({"1.png": "keep"}, images) == {str(tmp_path / "1.png"): "keep"}
    assert decisions_for({"sub/1.png": "keep"}, images) == {str(tmp_path / "sub/1.png"): "keep"}


def test_images_in_memory_have_names_only() -> None:
    image = ImageRef("image 3", lambda _: torch.zeros(3, 8, 8))
    assert decisions_for({"image 3": "keep"}, [image]) == {"image 3": "keep"}
    assert decisions_for({}, [image]) == {}


def test_paths_of_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = refs("good/1.png", "good/2.png")
    with pytest.raises(InputError, match=r"^2 of 3 paths that .* are not among the images, the first is 'good/3.png'"):
        decisions_for({"good/1.png": "keep", "good/3.png": "keep", "x": "keep"}, images)
    with pytest.raises(InputError, match=r"^none of the 4 paths .* not about those of another folder"):
        decisions_for(dict.fromkeys(("/elsewhere/good/1.png", "d/1.png", ".png", ""), "keep"), images)
    for path in (".", "./", "..", "/", "'", "\0", "good", "ood/1.png", "1.png/", "a" * 5000):
        with pytest.raises(InputError, match=r"^none of the 1 paths") as raised:
            decisions_for({path: "keep"}, [*refs("good/2.png"), *refs("good/1.png.bak")])
        assert len(str(raised.value)) < 600
    with pytest.raises(InputError, match=r"the decisions about 'good/1\.png' are both keep and reject"):
        decisions_for({"good/1.png": "keep", os.path.abspath("good/1.png"): "reject"}, images)  # noqa: PTH100
