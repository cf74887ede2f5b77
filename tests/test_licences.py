"""The page of licences is what the installed packages say, and nobody is surprised by what every installation has."""

import re
import sys
import tomllib
from importlib.metadata import Distribution, version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/reference/licences.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "packaging"))

import licences  # noqa: E402

NAMED = re.findall(r"^\| ([\w-]+) \| (\d\S*) \| (.+) \|$", PAGE, flags=re.MULTILINE)


def test_the_page_is_current() -> None:
    assert len(NAMED) > 60
    assert licences.page() == PAGE, "run `python packaging/licences.py > docs/reference/licences.md`"


def test_what_is_asked_for_is_pinned_and_so_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {"dev", "docs", *licences.EXTRAS} == set(extras)
    asked = [*project["dependencies"], *(each for extra in licences.EXTRAS for each in extras[extra])]
    names = {canonicalize_name(re.split(r"[\[>=]", each)[0]) for each in asked}
    assert names <= {name for name, _, _ in NAMED}


def test_what_is_pinned_is_what_is_installed() -> None:
    others = {name: version(name) for name, stated, _ in NAMED if version(name).partition("+")[0] != stated}
    assert others == {}, "their licences may be others; install from constraints.txt"


def test_what_every_installation_has_is_free_of_the_gpl() -> None:
    core = PAGE.split("## Every installation")[1].split("\n## ")[0]
    names = re.findall(r"^\| ([\w-]+) \| \d", core, flags=re.MULTILINE)
    assert {"torch", "numba", "timm", "mpmath"} <= set(names)  # mpmath by way of torch and sympy
    assert not {"av", "fastapi", "pytest", "onnx"} & set(names)
    assert "GPL" not in core
    assert "GNU" not in core


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("License-Expression: MIT\nClassifier: License :: OSI Approved :: BSD License", "MIT"),
        ("License: OSI Approved :: Apache Software License", "Apache Software License"),
        ("License: Copyright (c) somebody\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: " + "x" * 61 + "\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: All of it\n  in two lines\nClassifier: License :: Public Domain", "Public Domain"),
    ],
)
def test_the_licence_that_a_package_states(fields: str, expected: str, tmp_path: Path) -> None:
    assert licences.licence(package(tmp_path, fields)) == expected


def test_a_package_without_a_licence_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="thing states no licence"):
        licences.licence(package(tmp_path, "Classifier: Topic :: Software Development"))


def package(folder: Path, fields: str) -> Distribution:
    made = folder / "thing-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1\n{fields}\n")
    return Distribution.at(made)
