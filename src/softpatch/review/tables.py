"""Predictions as plain files: one CSV and one JSON Lines file, a line per image, and a CSV of what was left out."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from softpatch.atomic import replacing
from softpatch.config import VERDICTS
from softpatch.data.cells import path_cell, table_cell
from softpatch.data.folder import PREDICTIONS
from softpatch.data.images import SkippedImage
from softpatch.errors import InputError
from softpatch.results import Prediction
from softpatch.review.region_tables import REGIONS, region_lines

CSV, SKIPPED = "predictions.csv", "skipped.csv"
TABLES = (CSV, PREDICTIONS, SKIPPED)
"""The tables that `predict` leaves in a folder."""
COLUMNS = (
    "path",
    "image_score",
    "threshold",
    "check_threshold",
    "margin",
    "is_anomalous",
    "verdict",
    "peak_x",
    "peak_y",
    "box_left",
    "box_top",
    "box_right",
    "box_bottom",
    "map_threshold",
    "width",
    "height",
    "is_unlike_training",
    "map_quartile",
)
"""The columns of `predictions.csv`: see `Prediction.as_dict`."""
_LARGEST = 1e30  # that a number of a row may be, as scores of a threshold


def is_row(row: dict[str, Any]) -> bool:
    """Whether a row, read from a file, holds what `Prediction.as_dict` gives: text, and numbers in bounds."""
    numbers = [value for name, value in row.items() if name not in ("path", "verdict")]
    scores = [row.get(name) for name in ("image_score", "threshold", "check_threshold")]
    return (
        set(row) == set(COLUMNS)
        and row["verdict"] in VERDICTS
        and all(value is None or (isinstance(value, (int, float)) and abs(value) < _LARGEST) for value in numbers)
        and None not in scores
    )


class WriteRow(Protocol):
    """Add one prediction to the tables."""

    def __call__(self, prediction: Prediction) -> None: ...


@contextmanager
def prediction_tables(folder: Path, *, min_area: int | None = None) -> Iterator[WriteRow]:
    """Append to `predictions.csv` and `predictions.jsonl` in `folder`, which `write_tables` began.

    Every row can be read as soon as it is written. `image_score` and the thresholds are in the detector's units, the
    peak and the box in pixels of the original image. With `min_area`, regions of so many pixels are appended to
    `regions.jsonl`, before the row of their image. Raises `InputError` where a row cannot be written.
    """
    with ExitStack() as files:
        csv_file = files.enter_context(_csv_file(folder / CSV, "a"))
        json_file = files.enter_context((folder / PREDICTIONS).open("a", encoding="utf-8"))
        if min_area is not None:
            regions_file = files.enter_context((folder / REGIONS).open("a", encoding="utf-8"))

        def write(prediction: Prediction) -> None:
            try:
                if min_area is not None:
                    regions_file.write(region_lines(prediction, min_area))
                    regions_file.flush()
                _add(prediction.as_dict(), csv_file, json_file)
                json_file.flush()
                csv_file.flush()
            except OSError as error:
                raise InputError(f"cannot write {folder}: {error.strerror or error}") from error

        yield write


def write_tables(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write both tables anew, of rows as `Prediction.as_dict` gives them."""
    with (
        replacing(folder / CSV) as csv_path,
        replacing(folder / PREDICTIONS) as json_path,
        _csv_file(csv_path) as csv_file,
        json_path.open("w", encoding="utf-8") as json_file,
    ):
        csv_file.write(HEADERS[CSV])
        for row in rows:
            _add(row, csv_file, json_file)


def _add(row: dict[str, Any], csv_file: TextIO, json_file: TextIO) -> None:
    json_file.write(json_line(row))
    csv_file.write(csv_line(row))


def json_line(row: dict[str, Any]) -> str:
    """A line of `predictions.jsonl`, of a row as `Prediction.as_dict` gives it."""
    return json.dumps(row) + "\n"


def csv_line(row: dict[str, Any]) -> str:
    """A line of `predictions.csv`, of a row as `Prediction.as_dict` gives it."""
    cells = _csv_row(row)
    return table_line([cells[name] for name in COLUMNS])


def skipped_line(name: str, reason: str) -> str:
    """A line of `skipped.csv`, of an image that was left out, and why."""
    return table_line([path_cell(name), table_cell(reason)])


def table_line(cells: Sequence[object]) -> str:
    """A line of a CSV file, of cells as `softpatch.data.cells` makes them of text that comes from outside."""
    line = StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


HEADERS = {CSV: table_line(COLUMNS), PREDICTIONS: "", SKIPPED: table_line(("path", "reason"))}
"""What each of the `TABLES` begins with."""

JUDGED_COLUMNS = ("path", "kind", "is_defective", *COLUMNS[1:])
"""The columns of a table of test images: beside those of `predictions.csv` what is known of each."""


def judged_row(kind: str, is_defective: bool, prediction: Prediction) -> dict[str, object]:
    """A row of `write_judged`: the kind of a test image, whether it is defective, and what was said of it."""
    return {"kind": table_cell(kind), "is_defective": str(is_defective).lower(), **_csv_row(prediction.as_dict())}


def write_judged(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Write test images as CSV, a row each."""
    with replacing(path) as temporary, _csv_file(temporary) as file:
        table = csv.DictWriter(file, JUDGED_COLUMNS)
        table.writeheader()
        table.writerows(rows)


def check_can_replace_judged(path: Path) -> None:
    """Raise `InputError` where a file lies that `write_judged` did not write."""
    if not path.exists():
        return
    beginning = ",".join(JUDGED_COLUMNS).encode()
    with path.open("rb") as file:
        found = file.read(len(beginning))
    if found != beginning:
        raise InputError(f"{path} exists and is no table of an evaluation; name another file")


def _csv_row(row: dict[str, Any]) -> dict[str, object]:
    words = {name: str(value).lower() for name, value in row.items() if isinstance(value, bool)}
    return {**row, **words, "path": path_cell(row["path"])}


def write_skipped(skipped: Sequence[SkippedImage], path: Path) -> None:
    """Write the images that were left out, and why, as CSV with the columns path and reason."""
    with replacing(path) as temporary, _csv_file(temporary) as file:
        file.write(HEADERS[SKIPPED])
        file.writelines(skipped_line(image.name, image.reason) for image in skipped)


def _csv_file(path: Path, mode: Literal["w", "a"] = "w") -> TextIO:
    return path.open(mode, newline="", encoding="utf-8", errors="backslashreplace")  # names need not be UTF-8
