"""Recognise how a dataset is laid out on disk, and open one of its categories as samples.

Each layout is a module with a `LAYOUT`; they are tried in the order of `_LAYOUTS`, the most particular first. To add
one, write its module and name it here and in `config.LAYOUTS`. docs/reference/formats.md shows what each looks like.
"""

from pathlib import Path

from softpatch.config import LAYOUTS, one_of
from softpatch.data.layouts import (
    btad,
    dagm,
    kolektor,
    labelled,
    lookout,
    mvtec,
    mvtec_3d,
    mvtec_ad_2,
    mvtec_loco,
    plain,
    real_iad,
    visa,
)
from softpatch.data.layouts.ground_truth import is_manifest
from softpatch.data.layouts.samples import Dataset, Layout, Sample
from softpatch.errors import InputError

__all__ = ["Dataset", "Layout", "Sample", "is_manifest", "open_dataset", "recognise_layout"]

_MODULES = (lookout, visa, real_iad, mvtec_3d, mvtec_ad_2, mvtec_loco, dagm, kolektor, btad, mvtec, labelled)
_LAYOUTS: dict[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in _MODULES}
_PLAIN = plain.LAYOUT
_NO_CATEGORIES = (lookout.LAYOUT, labelled.LAYOUT)
"""Layouts that are not taken for those of folders in a folder unless they are named: single folders often look so."""


def recognise_layout(root: Path) -> str:
    """Tell the layout of a category, or of a folder of categories, by its folders; "folder" if none fits."""
    for name, layout in _LAYOUTS.items():
        if layout.fits(root) or (layout not in _NO_CATEGORIES and _categories(root, layout)):
            return name
    return _PLAIN.name


def open_dataset(root: Path, *, layout: str = "auto", category: str | None = None) -> Dataset:
    """Open the dataset at `root`: a category's folder, or a folder of categories with `category` naming one.

    A manifest of Lookout for Vision may stand in place of the folder. Only file names are read, and pictures that may
    be masks. Raises `InputError` where `root` does not exist or does not fit `layout`, where `category` is missing or
    unknown, where no folder is named as that of good images, and where the dataset lists images that do not exist.
    """
    one_of("layout", layout, ("auto", *LAYOUTS))
    if root.name in ("", ".."):
        root = root.resolve()  # "." has neither a name nor a parent
    try:
        if is_manifest(root):
            return _open_manifest(root, layout, category)
        if layout == "auto":
            layout = recognise_layout(root)
        if layout == _PLAIN.name:
            dataset = _PLAIN.read(root)
            if category not in (None, root.name):
                raise InputError(
                    f"`category` {category!r} is not in {root}, a plain folder of images without categories"
                )
            return dataset
        return _LAYOUTS[layout].read(_choose_category(root, _LAYOUTS[layout], category))
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror or error}") from error


def _open_manifest(manifest: Path, layout: str, category: str | None) -> Dataset:
    if layout not in ("auto", lookout.LAYOUT.name):
        raise InputError(f"`layout` {layout!r} is of a folder, but {manifest} is a manifest; give its folder")
    if category is not None:
        raise InputError(f"`category` {category!r} is not in {manifest}, a manifest of one product")
    return lookout.read_lone_manifest(manifest)


def _categories(root: Path, layout: Layout) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(child.name for child in root.iterdir() if child.is_dir() and layout.fits(child))


def _choose_category(root: Path, layout: Layout, category: str | None) -> Path:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder of a dataset")
    if layout.fits(root):
        if category not in (None, root.name):
            raise InputError(f"`category` {category!r} is not in {root}, which is the category {root.name!r} itself")
        return root
    categories = _categories(root, layout)
    if not categories:
        raise InputError(
            f"`layout` {layout.name!r} needs a category with {layout.needs}, but {root} is none and holds none"
        )
    if category in (None, root.name) and category not in categories:
        names = ", ".join(categories)
        raise InputError(f"{root} holds the categories {names}; choose one as `category`, or give its folder")
    if category not in categories:
        raise InputError(f"`category` {category!r} is not in {root}, which holds {', '.join(categories)}")
    return root / category
