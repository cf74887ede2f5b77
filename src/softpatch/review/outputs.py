"""Everything that `softpatch predict` leaves in a folder."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from softpatch.atomic import appearing_together
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.errors import ImageError, InputError
from softpatch.results import Prediction, Verdict
from softpatch.review.pictures import save_map, save_overlay
from softpatch.review.tables import SKIPPED, TABLES, prediction_tables, write_skipped

_LONGEST_NAME = 255  # bytes, on nearly every file system


def write_outputs(
    predictions: Iterable[Prediction],
    refs: Sequence[ImageRef],
    folder: Path,
    *,
    maps: bool = False,
    overlays: bool = False,
    skipped: Sequence[SkippedImage] = (),
    keep: Sequence[Path] = (),
) -> tuple[Counter[Verdict], int]:
    """Write the tables, and if asked a map and an overlay per image.

    Gives how many images got each verdict, and how many look unlike anything learned.

    `refs` are the images that `predictions` judge; `skipped` holds, when all are judged, those that were left out.
    Files are named after the image's path below the folder that all images share: `maps/good/000.png.tiff`,
    `overlays/good/000.png.png`. All of them appear when the last image is judged; a run that fails or is interrupted
    leaves the folder as it was. Raises `InputError` where none was judged, or where a result would be written over an
    image or a file to `keep`.
    """
    root = os.path.commonpath([os.path.dirname(os.path.abspath(ref.name)) for ref in refs])  # noqa: PTH100, PTH120  no ".."

    def name_of(kind: str, path: str) -> Path:
        name = Path(os.path.relpath(path, root))
        return Path(kind, name.parent, _file_name(name.name, {"maps": ".tiff", "overlays": ".png"}[kind]))

    kinds = [kind for kind, asked in (("maps", maps), ("overlays", overlays)) if asked]
    results = [Path(name) for name in TABLES] + [name_of(kind, ref.name) for kind in kinds for ref in refs]
    _refuse_overwriting([folder / result for result in results], [*keep, *(ref.path for ref in refs if ref.path)])
    by_name = {ref.name: (ref, _state(ref)) for ref in refs}
    verdicts: Counter[Verdict] = Counter()
    unlike = 0
    with appearing_together(folder) as staged:
        with prediction_tables(staged) as write:
            for prediction in predictions:
                write(prediction)
                if maps:
                    save_map(prediction, staged / name_of("maps", prediction.path))
                if overlays:
                    image = _read_again(*by_name[prediction.path], prediction)
                    save_overlay(image, prediction, staged / name_of("overlays", prediction.path))
                verdicts[prediction.verdict] += 1
                unlike += prediction.is_unlike_training
        if not verdicts:
            raise InputError("none of the images could be read; nothing was written")
        write_skipped(skipped, staged / SKIPPED)
    return verdicts, unlike


def _refuse_overwriting(results: Sequence[Path], given: Sequence[Path]) -> None:
    """Raise `InputError` where a result would be written over a file that was given, or is a folder of another."""
    kept = {os.path.realpath(path): path for path in given}
    targets = {os.path.realpath(result): result for result in results}
    for target, result in targets.items():
        if target in kept:
            raise InputError(f"{kept[target]} would be overwritten by a result; choose another folder with -o")
        for parent in Path(target).parents:
            if str(parent) in targets:
                raise InputError(
                    f"{result} and {targets[str(parent)]} cannot both be written; judge those images apart"
                )


def _state(ref: ImageRef) -> tuple[int, int, int] | None:
    """What changes when a file is changed or replaced; None where there is no file."""
    try:
        found = ref.path.stat() if ref.path else None
    except (OSError, ValueError):
        return None
    return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def _read_again(ref: ImageRef, state: tuple[int, int, int] | None, prediction: Prediction) -> Tensor:
    try:
        image = ref.read()
    except ImageError as error:
        raise ImageError(f"{ref.name}: {error}") from error
    if image.shape[1:] != (prediction.height, prediction.width) or _state(ref) != state:
        raise ImageError(f"{ref.name} was changed while it was judged; leave images alone until predict is done")
    return image


def _file_name(name: str, suffix: str) -> str:
    """The image's name with a suffix; one too long for a file system is cut, and told apart by a digest."""
    if len(os.fsencode(name + suffix)) <= _LONGEST_NAME:
        return name + suffix
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{name[:40]}-{digest}{suffix}"
