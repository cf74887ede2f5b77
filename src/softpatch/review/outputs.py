"""Everything that `softpatch predict` leaves in a folder."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from softpatch.data.images import ImageRef
from softpatch.errors import ImageError, InputError
from softpatch.results import Prediction, Verdict
from softpatch.review.pictures import save_map, save_overlay
from softpatch.review.tables import prediction_tables

_LONGEST_NAME = 255  # bytes, on nearly every file system


def write_outputs(
    predictions: Iterable[Prediction],
    refs: Sequence[ImageRef],
    folder: Path,
    *,
    maps: bool = False,
    overlays: bool = False,
) -> Counter[Verdict]:
    """Write the tables, and if asked a map and an overlay per image; return how many images got each verdict.

    `refs` are the images that `predictions` judge. Files are named after the image's path below the folder that all
    images share: `maps/good/000.png.tiff`, `overlays/good/000.png.png`. All of them appear when the last image is
    judged; a run that fails or is interrupted leaves the folder as it was. Raises `InputError` where none was judged.
    """
    by_name = {ref.name: ref for ref in refs}
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in by_name])  # noqa: PTH100, PTH120  no ".."
    verdicts: Counter[Verdict] = Counter()
    with prediction_tables(folder) as write, _appearing_together(folder) as staged:
        for prediction in predictions:
            write(prediction)
            name = Path(os.path.relpath(prediction.path, root))
            if maps:
                save_map(prediction, staged / "maps" / name.parent / _file_name(name.name, ".tiff"))
            if overlays:
                image = _read_again(by_name[prediction.path], prediction)
                save_overlay(image, prediction, staged / "overlays" / name.parent / _file_name(name.name, ".png"))
            verdicts[prediction.verdict] += 1
        if not verdicts:
            raise InputError("none of the images could be read; nothing was written")
    return verdicts


def _read_again(ref: ImageRef, prediction: Prediction) -> Tensor:
    try:
        image = ref.read()
    except ImageError as error:
        raise ImageError(f"{ref.name}: {error}") from error
    if image.shape[1:] != (prediction.height, prediction.width):
        raise ImageError(f"{ref.name} was changed while it was judged; leave images alone until predict is done")
    return image


@contextmanager
def _appearing_together(folder: Path) -> Iterator[Path]:
    """Give a hidden folder in `folder`; what was written there moves up when the block succeeds, or is removed."""
    with TemporaryDirectory(prefix=".softpatch-", dir=folder) as name:
        staged = Path(name)
        yield staged
        for file in sorted(path for path in staged.rglob("*") if path.is_file()):
            target = folder / file.relative_to(staged)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
            except OSError as error:
                raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _file_name(name: str, suffix: str) -> str:
    """The image's name with a suffix; one too long for a file system is cut, and told apart by a digest."""
    if len(os.fsencode(name + suffix)) <= _LONGEST_NAME:
        return name + suffix
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{name[:40]}-{digest}{suffix}"
