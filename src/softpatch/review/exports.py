"""The suspects of an audit as files for other tools: for labelling in COCO format, and as a dataset of FiftyOne.

What people make of the first with a labelling tool is read by `softpatch.data.decisions.read_decisions`. Neither tool
is imported.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from softpatch.data.paths import path_below, shared_folder
from softpatch.review.audit import AuditedImage, FolderAudit
from softpatch.review.coco import coco_annotation, coco_image, write_coco_file

SUSPECTS = "suspects.json"
"""The file that `audit` leaves in a folder for labelling tools."""
SUSPECT = 0.5
"""Images of this suspicion or more are exported: rather anomalous than not."""


def suspects(audit: FolderAudit) -> list[AuditedImage]:
    """The images that are rather anomalous than not, the most suspicious first."""
    return [image for image in audit.images if image.suspicion >= SUSPECT]


def write_coco(audit: FolderAudit, path: Path) -> None:
    """Write the suspects in COCO format, an annotation per region, or of the whole image where it has none.

    So an image whose annotations somebody removes is one that somebody keeps. Images are named by the path below the
    folder that all images of the audit share. The `score` of an annotation is the suspicion of its image in [0, 1]; its
    `attributes`, which CVAT and FiftyOne read, are that and the number of other images `agreeing` with the region.
    """
    folder = shared_folder(image.path for image in audit.images) if audit.images else ""
    _write(suspects(audit), path, lambda name: path_below(folder, name))


def write_fiftyone(audit: FolderAudit, folder: Path) -> None:
    """Write the suspects as `labels.json` in `folder`, a COCODetectionDataset of FiftyOne, as `write_coco` does.

    It names images by their absolute paths, so that the folder `data`, which FiftyOne asks for, stays empty.
    """
    _write(suspects(audit), folder / "labels.json", os.path.abspath)
    (folder / "data").mkdir(exist_ok=True)


def _write(images: Sequence[AuditedImage], path: Path, name: Callable[[str], str]) -> None:
    listed = (coco_image(name(each.path), each.prediction.width, each.prediction.height) for each in images)
    write_coco_file(
        path, listed, chain.from_iterable(_annotations(number, image) for number, image in enumerate(images, start=1))
    )


def _annotations(number: int, image: AuditedImage) -> Iterator[dict[str, Any]]:
    """The regions that speak against an image with the id `number`."""
    width, height = image.prediction.width, image.prediction.height
    whole = ((0, 0, width, height), width * height, ((0, 0), (width, 0), (width, height), (0, height)), 0)
    suspicion = round(image.suspicion, 4)
    found = [(region.box, region.area, region.contours[0], region.agreeing) for region in image.regions]
    for box, area, outline, agreeing in found or [whole]:
        annotation = coco_annotation(number, box, area, outline, suspicion)
        yield {**annotation, "attributes": {"suspicion": suspicion, "agreeing": agreeing}}
