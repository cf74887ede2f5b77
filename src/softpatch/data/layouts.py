"""Recognise how a benchmark dataset is laid out on disk, and open one of its categories as samples.

| layout | a category's folder holds |
|---|---|
| `folder` | images anywhere below it, without labels: all are training images |
| `mvtec` | `train/good`, `test/<kind>`, `ground_truth/<kind>/<stem>_mask.png` or `<stem>.png` |
| `visa` | `Data/Images/{Normal,Anomaly}` and `Data/Masks/Anomaly`, listed in `../split_csv/1cls.csv` |
| `btad` | `train/ok`, `test/{ok,ko}`, `ground_truth/ko/<stem>.png` or `.bmp` |
"""

import csv
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from softpatch.data.images import IMAGE_SUFFIXES, ImageRef, Images, file_ref, image_files, image_refs, read_image
from softpatch.errors import ImageError, InputError

LAYOUTS: tuple[str, ...] = ("folder", "mvtec", "visa", "btad")

_FOLDERS = {"visa": ("Data/Images",), "btad": ("train/ok", "test"), "mvtec": ("train", "test")}
"""The folders that tell a category of a layout, the most particular layout first."""
_GOOD_KINDS = ("good", "ok")
_UNSORTED = "unsorted"  # a folder of images without labels
_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class Sample:
    """An image of a dataset with what the dataset says about it.

    `kind` is "good", the name of the defect ("broken_large", "ko", "anomaly"), or "unlabelled". `mask_path`
    is None for good images and where the dataset holds no mask.
    """

    path: Path
    is_anomalous: bool
    mask_path: Path | None
    kind: str

    @property
    def ref(self) -> ImageRef:
        """The image under its path as name, not read yet."""
        return file_ref(self.path)

    def read_mask(self) -> Tensor:
        """Read where the image is anomalous: bool (H, W), all False without a mask file.

        Any colour but black is anomalous. Raises `ImageError` for an image or mask that cannot be read, and
        for a mask of another size than its image.
        """
        shape = _read_named(self.path).shape[1:]
        if self.mask_path is None:
            return torch.zeros(shape, dtype=torch.bool)
        mask = _read_named(self.mask_path).amax(dim=0) > 0
        if mask.shape != shape:
            sizes = [f"{width} x {height}" for height, width in (mask.shape, shape)]
            raise ImageError(f"{self.mask_path} is {sizes[0]} pixels; a mask has its image's size, {sizes[1]}")
        return mask


@dataclass(frozen=True)
class Dataset:
    """One category of a dataset: the training and the test images, each sorted by path.

    `root` is the category's folder. An image of `train` is anomalous only where its own subfolder of `train`
    says so; the images of an unlabelled folder count as not anomalous, and their `test` is empty.
    """

    root: Path
    layout: str
    category: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def recognise_layout(root: Path) -> str:
    """Tell the layout of a category, or of a folder of categories, by its folders; "folder" if none fits."""
    for layout in _FOLDERS:
        if _is_category(root, layout) or _categories(root, layout):
            return layout
    return "folder"


def open_dataset(root: Path, *, layout: str = "auto", category: str | None = None) -> Dataset:
    """Open the dataset at `root`: a category's folder, or a folder of categories with `category` naming one.

    Only file names are read. Raises `InputError` where `root` does not exist or does not fit `layout`, where
    `category` is missing or unknown, and where the dataset lists images that do not exist.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; choose auto, {', '.join(LAYOUTS)}")
    if root.name in ("", ".."):
        root = root.resolve()  # "." has neither a name nor a parent
    try:
        if layout == "auto":
            layout = recognise_layout(root)
        if layout == "folder":
            return _open_folder(root, category)
        folder = _choose_category(root, layout, category)
        return _open_visa(folder) if layout == "visa" else _open_kinds(folder, layout)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror or error}") from error


def split_refs(
    images: Images, part: str, *, layout: str = "auto", category: str | None = None
) -> tuple[list[ImageRef], str]:
    """What `images` name, but of a folder laid out as a dataset only one part, "train" or "test"; and a note on it.

    Raises `InputError` as `open_dataset` and `image_refs` do, and for a `layout` that goes with no single folder.
    """
    paths = [images] if isinstance(images, (str, Path)) else images
    root = Path(paths[0]) if isinstance(paths, list) and len(paths) == 1 and isinstance(paths[0], (str, Path)) else None
    if layout == "auto":
        layout = recognise_layout(root) if root else "folder"
    if layout == "folder":
        return image_refs(images), ""
    if root is None:
        raise InputError(f"layout {layout!r} goes with the one folder of a dataset, not with several images")
    dataset = open_dataset(root, layout=layout, category=category)
    samples = dataset.train if part == "train" else dataset.test
    note = f"Note: {root} is a dataset in the {layout} layout; only its {part} images are used."
    return [sample.ref for sample in samples], note


def _is_category(folder: Path, layout: str) -> bool:
    return all((folder / needed).is_dir() for needed in _FOLDERS[layout])


def _categories(root: Path, layout: str) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(child.name for child in root.iterdir() if child.is_dir() and _is_category(child, layout))


def _choose_category(root: Path, layout: str, category: str | None) -> Path:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder of a dataset")
    if _is_category(root, layout):
        if category not in (None, root.name):
            raise InputError(f"category {category!r} is not in {root}, which is the category {root.name!r} itself")
        return root
    categories = _categories(root, layout)
    if not categories:
        missing = next(needed for needed in _FOLDERS[layout] if not (root / needed).is_dir())
        raise InputError(
            f"layout {layout!r} needs a category with the folders {' and '.join(_FOLDERS[layout])}, "
            f"but {root} lacks {missing} and holds no such category"
        )
    if category is None:
        names = ", ".join(categories)
        raise InputError(f"{root} holds the categories {names}; choose one with --category, or give its folder")
    if category not in categories:
        raise InputError(f"category {category!r} is not in {root}, which holds {', '.join(categories)}")
    return root / category


def _open_folder(root: Path, category: str | None) -> Dataset:
    files = image_files(root)
    if category is not None:
        raise InputError(f"category {category!r} is not in {root}, a plain folder of images without categories")
    train = tuple(Sample(path, False, None, "unlabelled") for path in files)
    return Dataset(root, "folder", root.name, train, ())


def _open_kinds(folder: Path, layout: str) -> Dataset:
    """Open a category whose labels are the names of folders: MVTec AD, BTAD."""
    train, test = [
        tuple(_sample_by_kind(path, path.relative_to(folder / part)) for path in image_files(folder / part))
        for part in ("train", "test")
    ]
    loose = next((sample.path for sample in test if sample.path.parent == folder / "test"), None)
    if loose:
        raise InputError(f"{loose} has no label; a test image lies in test/good or in a folder of its defect")
    test = tuple(_with_mask(sample, folder) for sample in test)
    return Dataset(folder, layout, folder.name, train, test)


def _sample_by_kind(path: Path, relative: Path) -> Sample:
    kind = relative.parts[0] if len(relative.parts) > 1 and relative.parts[0] not in _GOOD_KINDS else "good"
    if kind == _UNSORTED:
        return Sample(path, False, None, "unlabelled")
    return Sample(path, kind != "good", None, kind)


def _with_mask(sample: Sample, folder: Path) -> Sample:
    if not sample.is_anomalous:
        return sample
    masks = folder / "ground_truth" / sample.path.parent.relative_to(folder / "test")
    names = [sample.path.stem + ending + suffix for ending in ("_mask", "") for suffix in IMAGE_SUFFIXES]
    mask_path = next((masks / name for name in names if (masks / name).is_file()), None)
    return Sample(sample.path, True, mask_path, sample.kind)


def _open_visa(folder: Path) -> Dataset:
    table = folder.parent / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise InputError(f"layout 'visa' needs the table split_csv/1cls.csv beside {folder}, and {table} is missing")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{table} is not a table in CSV: {error}") from error
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        if not all(isinstance(row.get(column), str) for column in _COLUMNS) or not row["image"]:
            raise InputError(f"{table} has the row {row}; each row holds {', '.join(_COLUMNS)}")
        if row["object"] == folder.name:
            if row["split"] not in parts or row["label"] not in ("normal", "anomaly"):
                raise InputError(f"{table} has the row {row}; split is train or test, label normal or anomaly")
            parts[row["split"]].append(_sample_of_row(row, table))
    for part, samples in parts.items():
        if not samples:
            raise InputError(f"{table} lists no {part} images of {folder.name!r}; a category needs both parts")
    path, times = Counter(sample.path for sample in chain(*parts.values())).most_common(1)[0]
    if times > 1:
        raise InputError(f"{table} lists {path} {times} times; an image is listed once")
    train, test = (tuple(sorted(samples, key=lambda sample: sample.path)) for samples in parts.values())
    return Dataset(folder, "visa", folder.name, train, test)


def _sample_of_row(row: dict[str, str], table: Path) -> Sample:
    root = table.parent.parent
    paths = [root / row[column] for column in ("image", "mask") if row[column]]
    for name in (row["image"], row["mask"]):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{table} has the row {row}, which points outside {root}; paths stay below it")
    for path in paths:
        if not path.is_file():
            raise InputError(f"{table} has the row {row}, but {path} is missing; complete the dataset")
    is_anomalous = row["label"] == "anomaly"
    mask_path = root / row["mask"] if row["mask"] and is_anomalous else None
    return Sample(root / row["image"], is_anomalous, mask_path, "anomaly" if is_anomalous else "good")


def _read_named(path: Path) -> Tensor:
    try:
        return read_image(path)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
