"""What a detector learned from, image by image: enough to know an image again, and to find its file.

Nothing slow is imported: a model file's record is read without torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    A person found the images with the numbers `kept` to be good, and those `rejected`, which are named as the others
    are but not among the N, to be anomalous.
    """

    folder: str | None
    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    calibrated: tuple[int, ...]
    symmetries: tuple[tuple[int, bool], ...]
    kept: tuple[int, ...] = ()
    rejected: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each image was when it was learned from: an absolute path, or the name of an image in memory."""
        return self._paths(self.names)

    @property
    def rejected_paths(self) -> tuple[str, ...]:
        """The same of the images that were rejected."""
        return self._paths(self.rejected)

    @property
    def kept_places(self) -> tuple[int, ...]:
        """The places among `calibrated` of the images that are `kept`."""
        kept = set(self.kept)
        return tuple(place for place, number in enumerate(self.calibrated) if number in kept)

    def _paths(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if self.folder is None:
            return names
        return tuple(os.path.join(self.folder, *name.split("/")) for name in names)  # noqa: PTH118  much quicker


def training_record(
    refs: Sequence["ImageRef"],
    digests: Sequence[bytes],
    calibrated: Sequence[int],
    symmetries: Sequence[tuple[int, bool]],
    *,
    kept: Sequence[int] = (),
    rejected: Sequence["ImageRef"] = (),
) -> TrainingRecord:
    """The record of images that were learned from; what the others mean is said of `TrainingRecord`."""
    paths = [os.path.abspath(ref.path) if ref.path else ref.name for ref in (*refs, *rejected)]  # noqa: PTH100  links stay
    folder, names = below_common_folder(paths)
    learned, bad = names[: len(refs)], names[len(refs) :]
    return TrainingRecord(
        folder, learned, tuple(digests), tuple(calibrated), tuple(symmetries), kept=tuple(kept), rejected=bad
    )


def with_images(record: TrainingRecord, added: TrainingRecord) -> TrainingRecord:
    """The record of older images and of others, `added`, whose numbers in `calibrated` go on from them."""
    learned = [*record.paths, *added.paths]
    folder, names = below_common_folder([*learned, *record.rejected_paths])
    return replace(
        record,
        folder=folder,
        names=names[: len(learned)],
        digests=record.digests + added.digests,
        calibrated=record.calibrated + added.calibrated,
        rejected=names[len(learned) :],
    )


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
    names = ("folder", "names", "calibrated", "symmetries", "kept", "rejected")
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
    rejected = values.get("rejected", [])
    if not isinstance(rejected, list) or not all(map(_is_path, rejected)):
        raise ValueError("the names of its rejected images are not paths")
    if folder is not None and any(map(_leads_out, rejected)):
        raise ValueError("the names of its rejected images lead out of their folder")
    kept = tuple(values.get("kept", []))
    if len(set(kept)) != len(kept) or not all(_below(number, images) for number in kept):
        raise ValueError("the numbers of its kept images are not those of training images")
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
    return TrainingRecord(folder, tuple(names), found, calibrated, symmetries, kept, tuple(rejected))


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _below(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
