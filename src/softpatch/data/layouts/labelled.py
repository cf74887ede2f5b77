"""Images sorted into folders by label, as anomalib's *Folder* has it: `good`, `<defect>`, and masks in `mask/<defect>`.

Nobody divided them into training and test images; that is done here.
"""

from pathlib import Path

from softpatch.data.folder import photographs
from softpatch.data.layouts.samples import (
    MASK_FOLDERS,
    Dataset,
    Layout,
    child,
    held_out,
    is_good,
    samples_by_kind,
    subfolders,
    with_masks,
)


def _fits(folder: Path) -> bool:
    kinds = [each.name for each in subfolders(folder) if each.name.lower() not in MASK_FOLDERS]
    return len(kinds) > 1 and any(is_good(kind) for kind in kinds) and _is_sorted(folder)


def _is_sorted(folder: Path) -> bool:
    """Whether all files in the folder are in its subfolders, but for notes."""
    return not any(
        path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff") for path in folder.iterdir()
    )


def _read(folder: Path) -> Dataset:
    contents = photographs(folder)
    samples, notes = with_masks(
        samples_by_kind(folder, contents), folder, child(folder, *MASK_FOLDERS), contents.passed_over
    )
    train, test = held_out(samples)
    return Dataset(folder, "labelled", folder.name, train, test, contents.passed_over, tuple(notes), is_split=False)


LAYOUT = Layout("labelled", "a folder named good and others named after defects", _fits, _read)
