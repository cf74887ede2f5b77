"""DAGM 2007: `Class1/{Train,Test}/*.PNG`, and a mask of each defective image in `Label/<name>_label.PNG` there."""

from pathlib import Path

from softpatch.data.folder import look_into
from softpatch.data.layouts.samples import Dataset, Layout, Sample, child, labelled_by_mask, mask_notes
from softpatch.data.masks import match_masks
from softpatch.errors import InputError


def _fits(folder: Path) -> bool:
    parts = [child(folder, part) for part in ("train", "test")]
    return all(part is not None and child(part, "label") is not None for part in parts)


def _read(folder: Path) -> Dataset:
    parts = [child(folder, part) for part in ("train", "test")]
    (train, rest), (test, others) = (_labelled(part) for part in parts if part is not None)
    notes = mask_notes((*train, *test), [*rest, *others], "Label")
    return Dataset(folder, "dagm", folder.name, train, test, (), tuple(notes))


def _labelled(part: Path) -> tuple[tuple[Sample, ...], list[Path]]:
    """The images of a part, anomalous where there is a mask of them; and masks that match none."""
    labels = child(part, "label")
    images = [path for path in look_into(part).images if path.parent == part]
    if not images:
        raise InputError(f"{part} holds no images; complete the dataset")
    by_image, unmatched = match_masks(images, look_into(labels).images if labels else ())
    return tuple(labelled_by_mask(path, by_image[path]) for path in images), unmatched


LAYOUT = Layout("dagm", "Train/Label and Test/Label", _fits, _read)
