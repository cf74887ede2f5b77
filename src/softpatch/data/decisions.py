"""What people decided about images, in files: which to keep, which to reject, and of which they are unsure.

The page of an audit saves a table; labelling tools export COCO (CVAT), JSON of their own (Label Studio) or a manifest
(Ground Truth, Lookout for Vision).
"""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from softpatch.data.cells import path_cell
from softpatch.data.images import ImageRef
from softpatch.data.labelling import labelled_images
from softpatch.data.layouts import is_manifest, open_dataset
from softpatch.data.layouts.samples import UNLABELLED
from softpatch.data.paths import shared_folder
from softpatch.errors import InputError

Decision = Literal["keep", "reject", "unsure"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
NO_DECISIONS: Mapping[str, Decision] = MappingProxyType({})
_LARGEST_FILE = 50_000_000  # bytes
_SHOWN = 200  # characters of what a file says


def answers_of(refs: Sequence[ImageRef], decisions: Mapping[str, Decision]) -> dict[int, bool]:
    """What decisions by the names of images say of those at hand: by their numbers, whether each is anomalous.

    Of those that nobody is sure of it says nothing.
    """
    decided = {number: decisions.get(ref.name) for number, ref in enumerate(refs)}
    return {number: decision == "reject" for number, decision in decided.items() if decision in ("keep", "reject")}


def read_decisions(path: Path) -> dict[str, Decision]:
    """Read what people decided: decisions by the path that the file gives, which `decisions_for` looks for.

    The file is CSV with the columns path, as it is or as `path_cell` writes it, and decision, others being ignored,
    divided by commas, semicolons or tabs; a row whose decision is empty decides nothing. Or it is JSON, COCO or
    exported by Label Studio: there an image is what people named it, or rejected where anything on it is still marked
    and else kept (see `softpatch.data.labelling`). Or it is a manifest of Lookout for Vision: images labelled as normal
    are kept, others rejected, and those without a label not decided about.

    Raises `InputError` where it cannot be read, is larger than 50 MB, lacks the columns, ends within a row, says
    anything but keep, reject or unsure, or says two things of a path.
    """
    if is_manifest(path):
        return _of_manifest(path)
    text = _text(path)
    is_json = text.lstrip().startswith(("{", "["))
    decisions: dict[str, Decision] = {}
    for name, value in labelled_images(text, path, DECISIONS) if is_json else _rows(text, path):
        decision = next((each for each in DECISIONS if each == value), None)
        if decision is None:
            raise InputError(f"{path} says {_shown(value)} of {_shown(name)}; a decision is keep, reject or unsure")
        if decisions.setdefault(name, decision) != decision:
            raise InputError(f"{path} says both {decisions[name]} and {decision} of {_shown(name)}; leave one of them")
    return decisions


def _of_manifest(path: Path) -> dict[str, Decision]:
    dataset = open_dataset(path)
    labelled = [sample for sample in (*dataset.train, *dataset.test) if sample.kind != UNLABELLED]
    return {str(sample.path): "reject" if sample.is_anomalous else "keep" for sample in labelled}


def decisions_for(decisions: Mapping[str, Decision], refs: Sequence[ImageRef]) -> dict[str, Decision]:
    """Find the images that decisions are about: decisions by the names of `refs`.

    A path stands for the image of this name, else for that with the same absolute path, else for that of this path
    below the folder that all images share, else for the only one whose path ends in its parts. Raises `InputError`
    where paths stand for no image or for several, and where an image is decided about in two ways.
    """
    find = image_finder(refs)
    found: dict[str, Decision] = {}
    unknown = []
    for path, decision in decisions.items():
        names = find(path)
        if len(names) > 1:
            raise InputError(f"{_shown(path)} may be any of {len(names)} images; write more of its path")
        for name in names:
            if found.setdefault(name, decision) != decision:
                both = f"{found[name]} and {decision}"
                raise InputError(f"the decisions about {_shown(name)} are both {both}; leave one of them")
        if not names:
            unknown.append(path)
    if unknown and len(unknown) == len(decisions):
        raise InputError(
            f"none of the {len(unknown)} paths that are decided about is among the images, the first is "
            f"{_shown(unknown[0])}; give the decisions about these images, not about those of another folder"
        )
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(decisions)} paths that are decided about are not among the images, the first is "
            f"{_shown(unknown[0])}; take them out, or give their images too"
        )
    return found


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])


def image_finder(refs: Sequence[ImageRef]) -> Callable[[str], set[str]]:
    """What gives the names of the images that a path may stand for: none, one, or several where it says too little."""
    by_name, by_place, by_file = defaultdict(set), defaultdict(set), defaultdict(set)
    for ref in refs:
        place = _utf8(_absolute(ref.path or ref.name))
        by_name[_utf8(ref.name)].add(ref.name)
        by_place[place].add(ref.name)
        by_file[_parts(place)[-1:]].add((_parts(place), ref.name))
    folder = _utf8(shared_folder(ref.path or ref.name for ref in refs)) if refs else ""

    def find(path: str) -> set[str]:
        plain = _plain(path)
        names = by_name.get(plain) or by_place.get(_absolute(plain)) or by_place.get(_absolute(plain, folder))
        parts = _parts(plain)
        return names or {name for whole, name in by_file.get(parts[-1:], ()) if whole[-len(parts) :] == parts}

    return find


def _absolute(path: str | Path, folder: str = "") -> str:
    return os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118  no links are followed


def _plain(path: str) -> str:
    """A path as it was before `path_cell` put an apostrophe before it, what is not UTF-8 still spelt out."""
    text = _utf8(path)
    return text[1:] if text.startswith("'") and path_cell(text[1:]) == text else text


def _utf8(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def _parts(path: str) -> tuple[str, ...]:
    """The names in a path, also in one that was written by Windows; an absolute one begins with "/"."""
    first, *others = re.split(r"[/\\]", path)
    return tuple(name for name in (first or "/", *others) if name not in ("", "."))


def _text(path: Path) -> str:
    """What a file of decisions holds. Raises `InputError` where it cannot be read."""
    try:
        if not path.is_file():
            raise InputError(f"{path} is no file; give a CSV or JSON file of decisions")
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a file of decisions") from error
    if len(content) > _LARGEST_FILE:
        raise InputError(f"{path} is larger than {_LARGEST_FILE:,} bytes; it is no file of decisions")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as CSV in UTF-8, or as JSON") from error


def _rows(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """Path and decision of every row of a table that has a decision. Raises `InputError` where it is no such table."""
    delimiter, header = _header(text, path)
    of_path, of_decision = header.index("path"), header.index("decision")
    last_line = text.count("\n") + 1  # of a file that ends within a line
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        next(rows)
        for row in filter(None, rows):
            decision = row[of_decision].strip().lower() if len(row) >= len(header) else ""
            may_go_on = decision not in DECISIONS and any(each.startswith(decision) for each in DECISIONS)
            if len(row) < len(header) or (rows.line_num == last_line and may_go_on):
                raise InputError(f"{path} is cut off in the middle of row {rows.line_num}; save it again")
            if decision:
                yield row[of_path], decision
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise InputError(f"{path} is cut off in the middle of row {rows.line_num}; save it again") from error
        raise InputError(f"{path} cannot be read at row {rows.line_num}: {error}; save it as CSV again") from error


def _header(text: str, path: Path) -> tuple[str, list[str]]:
    """What divides the columns of a table, and their names in small letters."""
    line = text.partition("\n")[0]
    for delimiter in (",", ";", "\t"):
        header = [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]
        if {"path", "decision"} <= set(header):
            return delimiter, header
    raise InputError(f"{path} begins with {_shown(line)}; a file of decisions has the columns path and decision")
