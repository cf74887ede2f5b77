"""Everything that `softpatch predict` leaves in a folder."""

import os
from collections.abc import Iterable
from pathlib import Path

from softpatch.data.images import ImageRef
from softpatch.results import Prediction
from softpatch.review.pictures import save_map, save_overlay
from softpatch.review.tables import prediction_tables


def write_outputs(
    predictions: Iterable[Prediction], refs: list[ImageRef], folder: Path, *, maps: bool = False, overlays: bool = False
) -> tuple[int, int]:
    """Write the tables, and if asked a map and an overlay per image; return how many were judged, how many anomalous.

    `refs` are the images that `predictions` judge. Files are named after the image's path below the folder that all
    images share: `maps/good/000.png.tiff`, `overlays/good/000.png.png`.
    """
    by_name = {ref.name: ref for ref in refs}
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in by_name])  # noqa: PTH100, PTH120  no ".."
    judged = anomalous = 0
    with prediction_tables(folder) as write:
        for prediction in predictions:
            write(prediction)
            name = os.path.relpath(prediction.path, root)
            if maps:
                save_map(prediction, folder / "maps" / f"{name}.tiff")
            if overlays:
                image = by_name[prediction.path].read()
                save_overlay(image, prediction, folder / "overlays" / f"{name}.png")
            judged += 1
            anomalous += prediction.is_anomalous
    return judged, anomalous
