"""VisA: `Data/Images/{Normal,Anomaly}` and `Data/Masks/Anomaly`, divided and labelled by `../split_csv/1cls.csv`."""

import csv
from collections import Counter
from io import StringIO
from itertools import chain
from pathlib import Path

from softpatch.data.layouts.samples import GOOD, Dataset, Layout, Sample
from softpatch.data.layouts.tables import inside, read_text
from softpatch.errors import InputError

_COLUMNS = ("object", "split", "label", "image", "mask")


def _fits(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()


def _read(folder: Path) -> Dataset:
    table = folder.parent / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise InputError(f"`layout` 'visa' needs the table split_csv/1cls.csv beside {folder}, and {table} is missing")
    try:
        rows = list(csv.DictReader(StringIO(read_text(table), newline="")))
    except csv.Error as error:
        raise InputError(f"{table} is not a table in CSV: {error}") from error
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        if not all(isinstance(row.get(column), str) for column in _COLUMNS) or not row["image"]:
            raise InputError(f"{table} has the row {row}; each row holds {', '.join(_COLUMNS)}")
        if row["object"] == folder.name:
            if row["split"] not in parts or row["label"] not in ("normal", "anomaly"):
                raise InputError(f"{table} has the row {row}; split is train or test, label normal or anomaly")
            parts[row["split"]].append(_sample(row, table))
    for part, samples in parts.items():
        if not samples:
            raise InputError(f"{table} lists no {part} images of {folder.name!r}; a category needs both parts")
    path, times = Counter(sample.path for sample in chain(*parts.values())).most_common(1)[0]
    if times > 1:
        raise InputError(f"{table} lists {path} {times} times; an image is listed once")
    train, test = (tuple(sorted(samples, key=lambda sample: sample.path)) for samples in parts.values())
    return Dataset(folder, "visa", folder.name, train, test)


def _sample(row: dict[str, str], table: Path) -> Sample:
    root = table.parent.parent
    try:
        image, *masks = [inside(root, row[column], table) for column in ("image", "mask") if row[column]]
    except InputError as error:
        raise InputError(f"{table} has the row {row}: {error}") from error
    is_anomalous = row["label"] == "anomaly"
    return Sample(image, is_anomalous, tuple(masks) if is_anomalous else (), "anomaly" if is_anomalous else GOOD)


LAYOUT = Layout("visa", "Data/Images", _fits, _read)
