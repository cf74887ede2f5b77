"""Which model files are served, by name and version, read off the files' names.

A file is the model of its name; a file named by a number, such as `flange/2.safetensors`, is that version of the model
that its folder is named by. Any other file is version 1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from softpatch.errors import InputError, ModelFileError
from softpatch.stored_model import HEADER

SUFFIX = ".safetensors"
Stamp = tuple[int, int, int]
Catalogue = Mapping[str, Mapping[int, "ModelFile"]]
"""Model files by name, in alphabetical order, and by version, in rising order; no name without a version."""
_VERSION = re.compile(r"[1-9]\d{0,8}")


@dataclass(frozen=True)
class ModelFile:
    """A model file: its `stamp` (time of change in ns, size, inode) is another when the file is another."""

    name: str
    version: int
    path: Path
    stamp: Stamp

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from other models and versions, whatever the file holds."""
        return self.name, self.version


def find_models(paths: Sequence[Path]) -> Catalogue:
    """The models that are there now, in files and in folders of them.

    What cannot be read is not there. Where two files are the same version of the same model, the first is taken.
    """
    found: dict[str, dict[int, ModelFile]] = {}
    for path in _files(paths):
        name, version = _name(path)
        try:
            state = path.stat()
        except OSError:
            continue
        stamp = state.st_mtime_ns, state.st_size, state.st_ino
        found.setdefault(name, {}).setdefault(version, ModelFile(name, version, path, stamp))
    return {name: dict(sorted(versions.items())) for name, versions in sorted(found.items())}


def check_models(paths: Sequence[Path]) -> None:
    """Raise `InputError` where a path holds no model file, or two files are the same version of the same model.

    Raises `ModelFileError` where a file that is named itself does not begin as a model; those in a folder may change.
    """
    seen: dict[tuple[str, int], Path] = {}
    for given in paths:
        is_there = given.is_dir() or given.is_file()
        if not is_there:
            raise InputError(f"{given} does not exist; give model files that `softpatch fit` wrote, or folders of them")
        files = list(_files([given]))
        if not files:
            what = f"no {SUFFIX} file" if given.is_dir() else f"not named NAME{SUFFIX}"
            raise InputError(f"{given} {'holds' if given.is_dir() else 'is'} {what}; give model files that "
                             "`softpatch fit` wrote, or folders of them")  # fmt: skip
        if not given.is_dir():
            _check_begins_as_model(given)
        for path in files:
            name, version = key = _name(path)
            if key in seen and not path.samefile(seen[key]):
                raise InputError(f"{seen[key]} and {path} are both version {version} of the model {name!r}; rename one")
            seen[key] = path


def _check_begins_as_model(path: Path) -> None:
    try:
        with safe_open(path, framework="np") as file:
            is_model = HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        is_model = False
    if not is_model:
        raise ModelFileError(f"{path} is cut short or not a model file; give one that `softpatch fit` wrote")


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Every model file of files and folders: those in a folder, and the versions one folder further down.

    Without those whose name is not UTF-8: no answer could tell of them.
    """
    yield from (path for path in _all_files(paths) if not any("\udc80" <= letter <= "\udcff" for letter in str(path)))


def _all_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.suffix == SUFFIX and not path.is_dir():
            yield path
            continue
        try:
            inside = sorted(path.iterdir())
        except OSError:
            continue
        for each in inside:
            if each.name.startswith("."):
                continue
            if each.suffix == SUFFIX:
                yield each
            elif each.is_dir():
                yield from (version for version in sorted(each.glob(f"*{SUFFIX}")) if _VERSION.fullmatch(version.stem))


def _name(path: Path) -> tuple[str, int]:
    if _VERSION.fullmatch(path.stem):
        return path.absolute().parent.name, int(path.stem)
    return path.stem, 1
