"""What people said of images with a labelling tool: COCO JSON, as CVAT exports it, and the JSON of Label Studio.

An image is named keep, reject or unsure by a category, a label, a choice or the value of an attribute. Where none of a
file is, people corrected what was marked: an image on which anything is marked was rejected, another kept.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from softpatch.errors import InputError

_UPLOADED = re.compile(r"^/data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?")
"""What Label Studio puts before the name of a file that was uploaded."""


@dataclass(frozen=True)
class _Image:
    """An image that was looked at: the words that decide about it, and whether anything on it is marked."""

    path: str
    words: set[str]
    is_marked: bool


def labelled_images(text: str, path: Path, words: Sequence[str]) -> list[tuple[str, str]]:
    """What the JSON `text` of the file `path` says: images by path, and one of `words`, "keep" and "reject" among them.

    An image that was given several is listed with each. What somebody chose for a whole image is listed even where it
    is none of `words`, if no other word of them is there. Raises `InputError` where the file is of neither tool.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is cut off or no JSON ({error}); export it again") from error
    try:
        read = _of_coco if isinstance(content, dict) else _of_label_studio
        images = list(read(content, set(words)))
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is neither COCO JSON with images and annotations nor an export of Label Studio; export it again"
        ) from error
    named = [(image.path, word) for image in images for word in sorted(image.words)]
    return named or [(image.path, "reject" if image.is_marked else "keep") for image in images]


def _of_coco(content: dict[str, Any], words: set[str]) -> Iterator[_Image]:
    categories = {category["id"]: category["name"] for category in content.get("categories", ())}
    given: dict[Any, set[str]] = {image["id"]: _words(_values(image)) for image in content["images"]}
    marked = set()
    for annotation in content["annotations"]:
        image = annotation["image_id"]
        given[image] |= _words([categories[annotation["category_id"]], *_values(annotation)])
        marked.add(image)
    for image in content["images"]:
        yield _Image(_string(image["file_name"]), given[image["id"]] & words, image["id"] in marked)


def _values(item: dict[str, Any]) -> list[Any]:
    """The values of the attributes of an image or an annotation; a box that is ticked counts as its name."""
    return [name if value is True else value for name, value in item.get("attributes", {}).items()]


def _of_label_studio(content: list[dict[str, Any]], words: set[str]) -> Iterator[_Image]:
    for task in content:
        done = [each["result"] for each in task["annotations"] if not each.get("was_cancelled")]
        values = [result.get("value", {}) for each in done for result in each]  # a relation has none
        lists = [value for each in values for value in each.values() if isinstance(value, list)]
        chosen = _words(word for value in values for word in value.get("choices", ()))
        if done:  # else nobody looked at it
            is_marked = any({"x", "points", "rle"} & set(value) for value in values)
            given = _words(word for each in lists for word in each) & words
            yield _Image(_path(task["data"]), given or chosen, is_marked)


def _path(data: dict[str, Any]) -> str:
    """The path of a task's image, without what tells Label Studio where to find it."""
    source = _string(data.get("path") or data["image"])
    if not re.match(r"[a-z][a-z0-9+.-]+://|/data/(upload|local-files)/", source):
        return source
    parts = urlsplit(source)
    if parts.path.endswith("/local-files/") and (places := parse_qs(parts.query).get("d")):
        return places[0]
    return _UPLOADED.sub("", unquote(parts.path)).lstrip("/")


def _words(values: Iterable[Any]) -> set[str]:
    return {value.strip().lower() for value in values if isinstance(value, str)}


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
