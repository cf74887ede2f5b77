"""What a detector learned from, image by image: enough to know an image again, and to find its file.

Nothing slow is imported: a model file's record is read without torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from softpatch.data.images import ImageRef

DIGEST_SIZE = 16
"""Bytes of the digest of an image's prepared pixels (`softpatch.data.images.pixel_digests`)."""


@dataclass(frozen=True)
class TrainingRecord:
    """The N images that a detector learned from, in the order of the owner numbers in its banks.

    `names` (N) are paths below `folder`, with slashes. Where an image was in memory `folder` is None, and the names are
    absolute paths and what images in memory are called. `digests` (N) tell the images' prepared pixels apart.
    `calibrated` are the numbers of the images that the left-out scores belong to, in their order. Of each image the
    copies that `symmetries` make were learned from: quarter turns, and whether mirrored before; the image itself first.
    """

    folder: str | None
    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    calibrated: tuple[int, ...]
    symmetries: tuple[tuple[int, bool], ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each image was when it was learned from: an absolute path, or the name of an image in memory."""
        if self.folder is None:
            return self.names
        return tuple(os.path.join(self.folder, *name.split("/")) for name in self.names)  # noqa: PTH118  much quicker


def training_record(
    refs: Sequence["ImageRef"],
    digests: Sequence[bytes],
    calibrated: Sequence[int],
    symmetries: Sequence[tuple[int, bool]],
) -> TrainingRecord:
    """The record of images that were learned from; what the others mean is said of `TrainingRecord`."""
    files = [os.path.abspath(ref.path) if ref.path else None for ref in refs]  # noqa: PTH100  links are kept
    folder, names = below_common_folder([file or ref.name for file, ref in zip(files, refs, strict=True)])
    return TrainingRecord(folder, names, tuple(digests), tuple(calibrated), tuple(symmetries))


def with_images(record: TrainingRecord, added: TrainingRecord) -> TrainingRecord:
    """The record of older images and of others, `added`, whose numbers in `calibrated` go on from them."""
    folder, names = below_common_folder([*record.paths, *added.paths])
    digests, calibrated = record.digests + added.digests, record.calibrated + added.calibrated
    return TrainingRecord(folder, names, digests, calibrated, record.symmetries)


def below_common_folder(paths: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """The folder that all absolute paths share, and their names below it; None and the paths where they share none."""
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # images in memory, or several drives
        return None, tuple(paths)
    if not os.path.isabs(folder):  # noqa: PTH117
        return None, tuple(paths)
    return folder, tuple(Path(path).relative_to(folder).as_posix() for path in paths)


def stored_record(record: TrainingRecord) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """A record as JSON takes it, and its digests (N, 16)."""
    digests = np.frombuffer(b"".join(record.digests), np.uint8).reshape(-1, DIGEST_SIZE)
    names = ("folder", "names", "calibrated", "symmetries")
    return {name: getattr(record, name) for name in names}, digests


def checked_record(
    values: dict[str, Any], digests: NDArray[Any], *, images: int, copies: int, scores: int
) -> TrainingRecord:
    """The record that a model file holds, of so many training images, copies of each and left-out scores.

    Raises `ValueError` where they do not belong together or cannot be, and `KeyError` or `TypeError` where something is
    missing or of another kind.
    """
    folder, names = values["folder"], values["names"]
    if not (folder is None or _is_path(folder)) or not isinstance(names, list) or not all(map(_is_path, names)):
        raise ValueError("the names of its training images are not paths")
    if folder is not None and any(_leads_out(name) for name in names):
        raise ValueError("the names of its training images lead out of their folder")
    if len(names) != images:
        raise ValueError(f"it names {len(names)} of {images} training images")
    if digests.dtype != np.uint8 or digests.shape != (images, DIGEST_SIZE):
        raise ValueError("the digests of its training images are not 16 bytes for each")
    found = tuple(row.tobytes() for row in np.ascontiguousarray(digests))
    if len(set(found)) != images:
        raise ValueError("the digests of its training images are not all different")
    calibrated = tuple(values["calibrated"])
    if len(calibrated) != scores or len(set(calibrated)) != scores or not all(_below(n, images) for n in calibrated):
        raise ValueError("its left-out scores do not belong to as many training images")
    symmetries = tuple((turns, mirrored) for turns, mirrored in values["symmetries"])
    sensible = all(_below(turns, 4) and isinstance(mirrored, bool) for turns, mirrored in symmetries)
    if not sensible or len(set(symmetries)) != copies or len(symmetries) != copies or symmetries[0] != (0, False):
        raise ValueError(f"its symmetries do not make {copies} copies of an image")
    return TrainingRecord(folder, tuple(names), found, calibrated, symmetries)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _below(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
