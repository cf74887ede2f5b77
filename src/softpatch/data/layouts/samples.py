"""What the layouts have in common: samples with their truth, names of the good class, and how masks are found."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from softpatch.data.decode import read_image
from softpatch.data.folder import FolderContents, PassedOver, look_into
from softpatch.data.images import ImageRef, file_ref
from softpatch.data.masks import BLACK, Colour, match_masks, read_mask
from softpatch.data.pixels import UNSCALED
from softpatch.errors import ImageError, InputError

GOOD = "good"
UNLABELLED = "unlabelled"
MASK_FOLDERS = ("ground_truth", "groundtruth", "ground-truth", "gt", "mask", "masks")

_GOOD_WORDS = {
    *("good", "ok", "okay", "normal", "nominal", "pass", "passed", "free", "intact", "faultless", "undamaged"),
    *("clean", "healthy", "perfect", "acceptable", "conform", "conforming", "defectless", "io", "gut"),
}
_NO_DEFECT = re.compile(r"(no|non|without)[-_ ]?(defects?|defective|anomaly|anomalies)([^a-z]|$)|defect[-_ ]?free")
_NEGATIONS = {"not", "no", "non", "un", "bad", "ng", "ab"}
_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """An image of a dataset with what the dataset says about it.

    `kind` is "good", the name of the defect ("broken_large", "ko", "anomaly"), or "unlabelled". `mask_paths` are empty
    for good images and where the dataset holds no mask; an image with several is anomalous where any of them says so.
    `background` is the colour of masks where nothing is anomalous.
    """

    path: Path
    is_anomalous: bool
    mask_paths: tuple[Path, ...]
    kind: str
    background: Colour = BLACK

    @property
    def ref(self) -> ImageRef:
        """The image under its path as name, not read yet."""
        return file_ref(self.path)

    @property
    def is_mask_known(self) -> bool:
        """Whether it is known which pixels are anomalous: of a good image none is."""
        return not self.is_anomalous or bool(self.mask_paths)

    def read_mask(self) -> Tensor:
        """Read where the image is anomalous: bool (H, W), all False without a mask file.

        Any colour but the background is anomalous (see `softpatch.data.masks.read_mask`). Raises `ImageError` for an
        image or mask that cannot be read, and for a mask of another size than its image.
        """
        shape = tuple(_named(partial(read_image, value_range=UNSCALED, channels=(0,)), self.path).shape[1:])
        marked = torch.zeros(shape, dtype=torch.bool)
        for path in self.mask_paths:
            mask = _named(partial(read_mask, background=self.background), path)
            if mask.shape != shape:
                sizes = [f"{width} x {height}" for height, width in (mask.shape, shape)]
                raise ImageError(f"{path} is {sizes[0]} pixels; a mask has its image's size, {sizes[1]}")
            marked |= mask
        return marked


def _named(read: Callable[[Path], Tensor], path: Path) -> Tensor:
    try:
        return read(path)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Dataset:
    """One category of a dataset: the training and the test images, each sorted by path.

    `root` is the category's folder. An image of `train` is anomalous only where its dataset says so; the images of an
    unlabelled folder count as not anomalous, and their `test` is empty. `is_split` says that the dataset itself tells
    training from test images. `passed_over` is what else lies there, and `notes` are what a user should know of it,
    a sentence each.
    """

    root: Path
    layout: str
    category: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()
    is_split: bool = True


@dataclass(frozen=True)
class Layout:
    """A way to lay out a category: its name, the folders it `needs` in words, whether a folder is one, and its reader.

    Both look at file names only, but to tell masks from photographs.
    """

    name: str
    needs: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Dataset]


def is_good(name: str) -> bool:
    """Whether a folder's name says that what lies in it is without defect: `good`, `OK`, `NORMAL`, `ok_front`, ...

    >>> [is_good(name) for name in ("Good", "ok_front", "not_ok", "abnormal", "MT_Free")]
    [True, True, False, False, True]
    """
    lower = name.lower()
    words = re.findall(r"[a-z]+", lower)  # of more than two, the others say what is not: ok_button_missing
    return bool(_NO_DEFECT.match(lower)) or (
        len(words) <= 2 and bool(_GOOD_WORDS & set(words)) and not _NEGATIONS & set(words)
    )


def kind_of(name: str) -> str:
    """The kind of the images in a folder of that name: "good", or the name itself."""
    return GOOD if is_good(name) else name


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted; none where it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def child(folder: Path, *names: str) -> Path | None:
    """The folder below `folder` that has one of these names in any case, the first that is there."""
    by_name = {each.name.lower(): each for each in subfolders(folder)}
    return next((by_name[name] for name in names if name in by_name), None)


def samples_by_kind(part: Path, pictures: FolderContents) -> tuple[Sample, ...]:
    """Label pictures below `part` by the subfolder they lie in: test images.

    Raises `InputError` for an image that lies in none, and where no subfolder is named as good.
    """
    kinds = {path: path.relative_to(part).parts for path in pictures.images}
    loose = next((path for path, parts in kinds.items() if len(parts) == 1), None)
    if loose:
        raise InputError(f"{loose} has no label; a test image lies in {part.name}/good or in a folder of its defect")
    need_good(part, {parts[0] for parts in kinds.values()})
    return tuple(Sample(path, not is_good(parts[0]), (), kind_of(parts[0])) for path, parts in kinds.items())


def need_good(part: Path, names: Iterable[str]) -> None:
    """Raise `InputError` where none of the folders `names` in `part` is named as good."""
    seen = sorted(names)
    if seen and not any(is_good(name) for name in seen):
        listed = ", ".join(repr(name) for name in seen[:8]) + (", ..." if len(seen) > 8 else "")
        raise InputError(
            f"{part} holds the folders {listed}, and none is named as that of good images; name it {part}/good"
        )


def labelled_by_mask(path: Path, masks: Sequence[Path], background: Colour = BLACK) -> Sample:
    """An image that is anomalous where its masks mark any pixel. Raises `InputError` for one that cannot be read."""
    try:
        marked = tuple(mask for mask in masks if bool(read_mask(mask, background).any()))
    except ImageError as error:
        raise InputError(f"a mask of {path} cannot be read: {error}") from error
    return Sample(path, bool(marked), marked, "defect" if marked else GOOD, background)


def training_samples(part: Path, pictures: FolderContents) -> tuple[Sample, ...]:
    """Label training pictures by the subfolder of `part` they lie in; without a good one they are not labelled."""
    names = {path: path.relative_to(part).parts for path in pictures.images}
    labelled = any(len(parts) > 1 and is_good(parts[0]) for parts in names.values())

    def sample(path: Path, parts: Sequence[str]) -> Sample:
        if not labelled or parts[0].lower() == "unsorted":
            return Sample(path, False, (), GOOD if len(parts) == 1 else UNLABELLED)
        kind = GOOD if len(parts) == 1 else kind_of(parts[0])
        return Sample(path, kind != GOOD, (), kind)

    return tuple(sample(path, parts) for path, parts in names.items())


def with_masks(
    samples: Sequence[Sample], part: Path, truth: Path | None, beside: Sequence[PassedOver] = ()
) -> tuple[tuple[Sample, ...], list[str]]:
    """Give the anomalous samples of `part` their masks: below `truth` in folders alike, or found `beside` them.

    Gives the samples, and notes on masks that match no image and images that have no mask.
    """
    folders: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        folders[sample.path.parent.relative_to(part)].append(sample)
    places = {mask: mask.relative_to(truth) for mask in _every_picture(truth)} if truth else {}
    places |= {
        each.path: each.path.relative_to(part) for each in beside if each.kind == "mask" and each.path not in places
    }
    below: dict[tuple[str, ...], list[Path]] = defaultdict(list)  # masks in each folder, whatever the case of its name
    for mask, place in places.items():
        for folder in place.parents:
            below[_names(folder)].append(mask)
    masked: dict[Path, tuple[Path, ...]] = {}
    used: set[Path] = set()
    for folder, group in sorted(folders.items(), key=lambda item: -len(item[0].parts)):
        inside = [mask for mask in below[_names(folder)] if mask not in used]
        if group[0].is_anomalous:
            matched, _ = match_masks([sample.path for sample in group], inside)
            masked |= matched
            used.update(mask for masks in matched.values() for mask in masks)
        else:
            used.update(inside)  # they mark nothing
    without = [sample.path for sample in samples if sample.is_anomalous and not masked.get(sample.path)]
    stems = Counter(path.stem.casefold() for path in without)
    left = [mask for mask in places if mask not in used]
    loose = [mask for mask in left if len(places[mask].parts) == 1]  # in no folder of a kind
    matched, _ = match_masks([path for path in without if stems[path.stem.casefold()] == 1], loose)
    masked |= matched
    used.update(mask for masks in matched.values() for mask in masks)
    unmatched = [mask for mask in left if mask not in used]
    full = tuple(replace(sample, mask_paths=masked.get(sample.path, ())) for sample in samples)
    where = truth.name if truth else MASK_FOLDERS[0]
    return full, [*_guesses(full, where), *mask_notes(full, unmatched, where)]


def _guesses(samples: Iterable[Sample], where: str) -> list[str]:
    """A sentence on masks that are not named as MVTec AD names them: `000_mask` or `000` for the image `000`."""
    pairs = [(mask.stem, sample.path.stem) for sample in samples for mask in sample.mask_paths[:1]]
    odd = next((pair for pair in pairs if pair[1] in pair[0] and pair[0].removesuffix("_mask") != pair[1]), None)
    return [f"masks in {where} are taken for those of images by their names: `{odd[0]}` for `{odd[1]}`."] if odd else []


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(part.casefold() for part in folder.parts)


def mask_notes(samples: Sequence[Sample], unmatched: Sequence[Path], where: str) -> list[str]:
    """Sentences on masks that match no image, and on anomalous images without a mask."""
    notes = []
    if unmatched:
        notes.append(f"{_count(len(unmatched), 'mask')} in {where} match no image: {_few(unmatched)}.")
    anomalous = [sample.path for sample in samples if sample.is_anomalous]
    without = [sample.path for sample in samples if not sample.is_mask_known]
    if without and (unmatched or len(without) < len(anomalous)):
        notes.append(f"{len(without)} of {_count(len(anomalous), 'defective image')} have no mask: {_few(without)}.")
    elif without:
        notes.append(f"none of the {_count(len(anomalous), 'defective image')} has a mask in {where}.")
    return notes


def _every_picture(folder: Path) -> list[Path]:
    """All pictures below a folder of masks."""
    contents = look_into(folder)
    return sorted([*contents.images, *(each.path for each in contents.passed_over if each.kind == "mask")])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(f"`{path.parent.name}/{path.name}`" for path in paths[:_SHOWN]) + (
        ", ..." if len(paths) > _SHOWN else ""
    )


def held_out(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Divide labelled samples that no dataset divided: the good ones are for training, but for every fifth of them.

    Gives training samples, and test samples: every fifth good one and all anomalous ones.
    """
    good = [sample for sample in samples if not sample.is_anomalous]
    kept = {sample.path for sample in good[4::5]}
    train = tuple(sample for sample in good if sample.path not in kept)
    return train, tuple(sample for sample in samples if sample.is_anomalous or sample.path in kept)


HELD_OUT = "Every fifth good image and all defective ones are kept for evaluate; --layout folder learns from all."
"""What `held_out` does, for a user."""
