"""Manifests of SageMaker Ground Truth, as Amazon Lookout for Vision takes and exports them: a JSON object per image.

`class-name` says what an image is; the number of the label does not, which tools of Amazon set either way round.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from softpatch.data.layouts.samples import UNLABELLED
from softpatch.data.layouts.tables import read_text
from softpatch.data.masks import BLACK, Colour
from softpatch.errors import InputError

SUFFIX = ".manifest"

_SOURCE = "source-ref"
_METADATA = "-metadata"
_CLASSIFICATION = "groundtruth/image-classification"
_SEGMENTATION = "groundtruth/semantic-segmentation"
_BACKGROUND = "BACKGROUND"
_WHITE: Colour = (255, 255, 255)  # the background of masks that do not name its colour
_HEX = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", re.IGNORECASE)
_LONGEST_LINE = 1_000_000  # characters
_LOOKED_AT = 100_000  # bytes of a file, to tell whether it is a manifest
_SHOWN = 120  # characters of what a line says


@dataclass(frozen=True)
class Entry:
    """A line of a manifest: an image, and what was said of it.

    `where` is the line and its file in words. `image` and `mask` are as they stand there, `s3://bucket/key`. Without a
    label `class_name` is None. `background` is the colour of the mask where nothing is anomalous, `classes` are the
    names of defects by the colours that the mask may have.
    """

    where: str
    image: str
    class_name: str | None
    mask: str | None = None
    background: Colour = BLACK
    classes: Mapping[Colour, str] = field(default_factory=dict)


def is_manifest(path: Path) -> bool:
    """Whether a file begins as a manifest does: as JSON, and with a `source-ref` unless its suffix is `.manifest`.

    False where it cannot be opened.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT).replace(b"\0", b"")  # of UTF-16, of which `read_manifest` tells
    except (OSError, ValueError):
        return False
    start = start.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if path.suffix.lower() == SUFFIX:
        return start.startswith((b"{", b"["))
    return start.startswith(b"{") and f'"{_SOURCE}"'.encode() in start.partition(b"\n")[0]


def read_manifest(path: Path) -> tuple[Entry, ...]:
    """Read the entries of a manifest, in order; empty lines are passed over.

    Raises `InputError` with the number of the line for what is no JSON object with a `source-ref`, for labels without
    a class name or of two classes, and for masks without a place; and where the file is not UTF-8, too large, or lists
    no image.
    """
    entries = tuple(_entries(path))
    if not entries:
        raise InputError(f"{path} lists no images; a manifest has a JSON object with a {_SOURCE} per line")
    return entries


def _entries(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(StringIO(read_text(path), newline="\n"), start=1):
        if line.strip():
            yield _entry(line, f"line {number} of {path}")


def _entry(line: str, where: str) -> Entry:
    if len(line) > _LONGEST_LINE:
        raise InputError(f"{where} has {len(line):,} characters, more than the {_LONGEST_LINE:,} allowed for an image")
    try:
        content = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is no JSON ({_reason(error)}); a manifest has a whole JSON object per line"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(_SOURCE), str):
        shown = line.strip()[:_SHOWN]
        raise InputError(f"{where} is {shown!r}; each line is a JSON object whose {_SOURCE} is s3://bucket/key")
    return Entry(where, content[_SOURCE], _class_name(content, where), **_mask(content, where))


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(":")[0]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _of_type(content: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The metadata of this type by the attributes that they are of, without those of labelling that failed."""
    found = {
        name.removesuffix(_METADATA): metadata
        for name, metadata in content.items()
        if name.endswith(_METADATA) and isinstance(metadata, dict) and "failure-reason" not in metadata
    }
    return {name: each for name, each in found.items() if each.get("type", _guessed_type(each)) == kind}


def _guessed_type(metadata: dict[str, Any]) -> str | None:
    """The type of metadata that do not say it."""
    if "internal-color-map" in metadata:
        return _SEGMENTATION
    return _CLASSIFICATION if "class-name" in metadata else None


def _class_name(content: dict[str, Any], where: str) -> str | None:
    """The class that people gave an image, or None."""
    names = {}
    for attribute, metadata in _of_type(content, _CLASSIFICATION).items():
        name = metadata.get("class-name")
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where} has no class-name in {attribute + _METADATA!r}; it is normal or anomaly")
        if name.strip().lower() == UNLABELLED:
            raise InputError(f"{where} has the class-name {name!r}; leave the label out of an image without one")
        names[name.strip()] = attribute
    if len(names) > 1:
        said = " and ".join(f"{name[:_SHOWN]!r} by {attribute!r}" for name, attribute in names.items())
        raise InputError(f"{where} labels its image {said}; leave one of these labels")
    bare = _without_metadata(content, "label")
    if bare is not None and not names:
        raise InputError(
            f"{where} has the label {bare!r} without {bare + _METADATA!r}, whose class-name says normal or anomaly"
        )
    return next(iter(names), None)


def _without_metadata(content: dict[str, Any], ending: str) -> str | None:
    """An attribute with this ending of which no metadata say what it means."""
    names = (name for name in content if name.endswith(ending))
    return next((name for name in names if not isinstance(content.get(name + _METADATA), dict)), None)


def _mask(content: dict[str, Any], where: str) -> dict[str, Any]:
    """What an `Entry` says of a mask, nothing where there is none."""
    found = _of_type(content, _SEGMENTATION)
    masks = {name: content[name] for name in found if name.endswith("-ref") and name in content}
    bare = _without_metadata(content, "mask-ref")
    if bare is not None:
        raise InputError(
            f"{where} has the mask {bare!r} without {bare + _METADATA!r}, whose internal-color-map it needs"
        )
    if not masks:
        return {}
    if len(masks) > 1:
        raise InputError(f"{where} names the masks {' and '.join(map(repr, masks))}; leave one of them")
    ((name, mask),) = masks.items()
    if not isinstance(mask, str):
        raise InputError(f"{where} has {str(mask)[:_SHOWN]!r} as {name!r}; the mask of an image is s3://bucket/key")
    background, classes = _colours(found[name].get("internal-color-map", {}), f"{where}, in the mask {name!r},")
    return {"mask": mask, "background": background, "classes": classes}


def _colours(colour_map: Any, where: str) -> tuple[Colour, dict[Colour, str]]:
    """The colour of the background, white unless it is named, and the classes of the others."""
    background = _WHITE
    classes: dict[Colour, str] = {}
    listed: list[Any] = list(colour_map.values()) if isinstance(colour_map, dict) else [colour_map]
    for each in listed:
        name = each.get("class-name") if isinstance(each, dict) else None
        if not isinstance(name, str):
            raise InputError(f"{where} has {str(each)[:_SHOWN]!r} in internal-color-map; each has a class-name")
        if name.upper() == _BACKGROUND:
            background = _colour(each["hex-color"], where) if "hex-color" in each else _WHITE
        elif "hex-color" in each:
            classes[_colour(each["hex-color"], where)] = name
    return background, classes


def _colour(text: object, where: str) -> Colour:
    match = _HEX.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InputError(f"{where} has the hex-color {str(text)[:_SHOWN]!r}; a colour is like #2ca02c")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue
