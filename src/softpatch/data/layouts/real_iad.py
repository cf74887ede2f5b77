"""Real-IAD: photographs in `<category>/{OK,NG}`, divided and labelled by `realiad_jsons/.../<category>.json`.

Of several tables of a category the one in `realiad_jsons/realiad_jsons` is read, or that of a single view (`_sv`).
"""

import json
from pathlib import Path
from typing import Any

from softpatch.data.layouts.samples import GOOD, Dataset, Layout, Sample, child
from softpatch.data.layouts.tables import inside, read_text
from softpatch.errors import InputError

_TABLES = ("realiad_jsons/realiad_jsons", "realiad_jsons", "realiad_jsons/realiad_jsons_sv", "realiad_jsons_sv")
_GOOD_CLASS = "OK"


def _fits(folder: Path) -> bool:
    return child(folder, "ok") is not None and _table(folder) is not None


def _table(folder: Path) -> Path | None:
    """The table of a category: beside or in its folder, or beside the folder of all categories."""
    name = f"{folder.name}.json"
    places = [folder, folder.parent, *(above / table for above in folder.parents[:2] for table in _TABLES)]
    return next((place / name for place in places if (place / name).is_file()), None)


def _read(folder: Path) -> Dataset:
    table = _table(folder)
    if table is None:
        raise InputError(f"the table {folder.name}.json of Real-IAD is missing beside {folder}")
    try:
        content = json.loads(read_text(table))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{table} is no JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in ("train", "test")):
        raise InputError(f"{table} has no lists train and test; it is no table of Real-IAD")
    parts = [
        sorted((_sample(entry, folder, table) for entry in content[part]), key=lambda sample: sample.path)
        for part in ("train", "test")
    ]
    for part, samples in zip(("train", "test"), parts, strict=True):
        if not samples:
            raise InputError(f"{table} lists no {part} images; a category needs both parts")
    return Dataset(folder, "real-iad", folder.name, tuple(parts[0]), tuple(parts[1]))


def _sample(entry: Any, folder: Path, table: Path) -> Sample:
    image = entry.get("image_path") if isinstance(entry, dict) else None
    kind = entry.get("anomaly_class") if isinstance(entry, dict) else None
    if not isinstance(image, str) or not isinstance(kind, str):
        raise InputError(f"{table} has the entry {str(entry)[:200]}; each has an image_path and an anomaly_class")
    mask = entry.get("mask_path")
    path = inside(folder, image, table)
    if kind == _GOOD_CLASS:
        return Sample(path, False, (), GOOD)
    masks = (inside(folder, mask, table),) if isinstance(mask, str) and mask else ()
    return Sample(path, True, masks, kind)


LAYOUT = Layout("real-iad", "OK and NG, and a table of its name in JSON", _fits, _read)
