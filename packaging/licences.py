"""The licences of what softpatch installs, as a page of the documentation:

python packaging/licences.py > docs/reference/licences.md

Versions are those of constraints.txt, licences what the installed packages say of themselves.
"""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = ("serve", "mqtt", "export", "openvino", "video", "bench")
"""The extras of those who use softpatch, in the order of the page."""
_WHERE = {
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
_LONGEST = 60  # characters of a licence's name; longer ones are its text
_HEAD = """# Licences

What `pip install softpatch` brings with it on Linux, in the versions of `constraints.txt`, and the licence that each package states. softpatch itself is under Apache-2.0. `make sbom` writes the same of an installed environment as `dist/softpatch.cdx.json`, in CycloneDX, for tools that look for known vulnerabilities.

Nothing that every installation has is under the GPL. To know where software is passed on:

- `tqdm` is partly under MPL-2.0, which asks that changes to its own files are published.
- **`softpatch[video]` brings the GPL**: the wheels of `av` hold FFmpeg with x264 and x265, under version 3 of the GPL. Who passes on a container image or a machine with it passes those on too; the image of `packaging/Containerfile` leaves it out.
- On Linux the `torch` of PyPI brings NVIDIA's libraries under a licence of their own; the CPU index, as in [without internet](../how-to/without-internet.md), brings none.
- Wheels of NumPy, SciPy, scikit-learn and torch hold runtime libraries of GCC: libgomp and libgfortran, whose exception to the GPL allows any use, and libquadmath under the LGPL.

This page is made: `python packaging/licences.py > docs/reference/licences.md`.
"""  # noqa: E501


def page() -> str:
    """The page. Raises `PackageNotFoundError` where a package that it names is not installed."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    parts = {"Every installation": project["dependencies"]}
    parts |= {f"softpatch[{extra}] adds": project["optional-dependencies"][extra] for extra in EXTRAS}
    text, shown, versions = _HEAD, set[str](), pinned()
    for title, requirements in parts.items():
        names = needed(requirements, versions)
        rows = [f"| {name} | {versions[name]} | {licence(distribution(name))} |" for name in sorted(names - shown)]
        text += "\n".join(["", f"## {title}", "", "| package | version | licence |", "|---|---|---|", *rows, ""])
        if not shown:  # what an extra adds is seen beside what all have
            shown = names
    return text


def pinned() -> dict[str, str]:
    """The versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)$", lines, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def needed(requirements: Iterable[str], versions: dict[str, str]) -> set[str]:
    """The canonical names of all that requirements bring on Linux, in turn; of `versions` alone.

    So they are the same on every computer, and whether or not torch came with NVIDIA's libraries, which
    constraints.txt does not name.
    """
    found, waiting = set[tuple[str, str]](), [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if name in versions and (name, extra) not in found:
                found.add((name, extra))
                others, where = map(Requirement, distribution(name).requires or ()), {**_WHERE, "extra": extra}
                waiting += [each for each in others if each.marker is None or each.marker.evaluate(where)]
    return {name for name, _ in found}


def licence(package: Distribution) -> str:
    """The licence that a package states, as an SPDX expression where it has one; raises `ValueError` for none."""
    expression, free = package.metadata.get("License-Expression"), (package.metadata.get("License") or "").strip()
    if expression:
        return str(expression)
    if free and "\n" not in free and len(free) <= _LONGEST and "copyright" not in free.lower():
        return free.split(" :: ")[-1]
    classifiers = package.metadata.get_all("Classifier") or []
    names = [each.split(" :: ")[-1] for each in classifiers if each.startswith("License :: ")]
    if not names:
        raise ValueError(f"{package.name} states no licence; read its files, and leave it or say here what it is")
    return ", ".join(names)


if __name__ == "__main__":
    print(page(), end="")
