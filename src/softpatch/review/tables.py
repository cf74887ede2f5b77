"""Predictions as plain files: one CSV and one JSON Lines file, a line per image."""

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from softpatch.atomic import replacing
from softpatch.results import Prediction

COLUMNS = ("path", "image_score", "threshold", "is_anomalous", "peak_x", "peak_y")


class WriteRow(Protocol):
    """Add one prediction to the tables."""

    def __call__(self, prediction: Prediction) -> None: ...


@contextmanager
def prediction_tables(folder: Path) -> Iterator[WriteRow]:
    """Write `predictions.csv` and `predictions.jsonl` into `folder`; both appear when the block ends well.

    `image_score` and `threshold` are in the detector's units, `peak_x` and `peak_y` in pixels of the original image.
    """
    with ExitStack() as stack:
        csv_path = stack.enter_context(replacing(folder / "predictions.csv"))
        json_path = stack.enter_context(replacing(folder / "predictions.jsonl"))
        csv_file = stack.enter_context(csv_path.open("w", newline="", encoding="utf-8", errors="surrogateescape"))
        json_file = stack.enter_context(json_path.open("w", encoding="utf-8"))
        table = csv.DictWriter(csv_file, COLUMNS)
        table.writeheader()

        def write(prediction: Prediction) -> None:
            row = _row(prediction)
            table.writerow({**row, "is_anomalous": str(row["is_anomalous"]).lower()})
            json_file.write(json.dumps(row) + "\n")

        yield write


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "path": prediction.path,
        "image_score": round(prediction.image_score, 6),
        "threshold": round(prediction.threshold, 6),
        "is_anomalous": prediction.is_anomalous,
        "peak_x": round(prediction.peak_x, 1),
        "peak_y": round(prediction.peak_y, 1),
    }
