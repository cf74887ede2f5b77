"""MVTec LOCO AD: as MVTec AD, but the masks of an image lie in a folder of its name, a grey level per kind of defect.

The images of `validation` are not used.
"""

from dataclasses import replace
from pathlib import Path

from softpatch.data.folder import PassedOver, look_into
from softpatch.data.layouts.mvtec import read_parts
from softpatch.data.layouts.samples import Dataset, Layout, subfolders


def _fits(folder: Path) -> bool:
    parts = all((folder / part).is_dir() for part in ("train", "test"))
    kinds = {"logical_anomalies", "structural_anomalies"}
    return parts and bool(kinds & {each.name for each in subfolders(folder / "test")})


def _read(folder: Path) -> Dataset:
    truth, validation = folder / "ground_truth", folder / "validation"
    dataset = read_parts(folder, "mvtec-loco", folder / "train", folder / "test", truth if truth.is_dir() else None)
    unread = look_into(validation).images if validation.is_dir() else ()
    others = [PassedOver(path, "validation image", "in `validation`") for path in unread]
    return replace(dataset, passed_over=(*dataset.passed_over, *others))


LAYOUT = Layout("mvtec-loco", "train and test/{logical,structural}_anomalies", _fits, _read)
