"""Everything that `softpatch predict` leaves in a folder."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from softpatch.config import Verdict
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.errors import ImageError, InputError, SoftPatchError
from softpatch.results import Prediction
from softpatch.review.drift import write_drift
from softpatch.review.page import REPORT
from softpatch.review.pictures import save_map, save_overlay
from softpatch.review.run import RECORD, Run, Unfinished, judged_rows
from softpatch.review.run_report import MOST_PICTURES, write_run_report
from softpatch.review.tables import SKIPPED, prediction_tables, write_skipped
from softpatch.review.timeline import write_timeline
from softpatch.review.top_pictures import TopPictures, picture_of
from softpatch.scoring.drift import Drift

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_outputs(
    predictions: Iterable[Prediction],
    refs: Sequence[ImageRef],
    run: Run,
    unfinished: Unfinished,
    *,
    drift: Drift | None = None,
    skipped: list[SkippedImage] | None = None,
) -> tuple[Counter[Verdict], int]:
    """Write a row per image, and what else the run asks for, into the folder of an unfinished run.

    Gives how many images got each verdict, and how many look unlike anything learned.

    `predictions` judge those of `refs` that are left; a row is written when all else of its image is. `drift` is
    that of before the first image, if the run asks for it. `skipped` holds the images that were left out, and gets
    those whose map or overlay cannot be written; where it is None, and where a disk is full, the error is raised.
    Raises `InputError` where none was judged.
    """
    by_name = {ref.name: (ref, file_state(ref)) for ref in refs}
    verdicts: Counter[Verdict] = Counter(row["verdict"] for row in unfinished.rows)
    unlike = sum(row["is_unlike_training"] for row in unfinished.rows)
    pictures = _kept_pictures(unfinished) if run.report else None
    with prediction_tables(unfinished.folder, min_area=run.min_area) as write:
        for prediction in predictions:
            try:
                draw(prediction, *by_name[prediction.path], run, unfinished.folder, pictures)
            except SoftPatchError as error:
                if skipped is None or is_disk_full(error):
                    raise
                skipped.append(SkippedImage(prediction.path, str(error)))
                continue
            write(prediction)
            verdicts[prediction.verdict] += 1
            unlike += prediction.is_unlike_training
    if not verdicts:
        raise InputError("none of the images could be judged; nothing was written")
    write_skipped(skipped or (), unfinished.folder / SKIPPED)
    if pictures is not None:
        write_run_report(
            judged_rows(unfinished.folder), pictures.pictures(), skipped or (), run, unfinished.folder / REPORT
        )
    if run.timeline is not None or run.drift:
        places = {ref.name: (number, ref.seconds) for number, ref in enumerate(refs)}
        rows = sorted(judged_rows(unfinished.folder), key=lambda row: places[row["path"]][0])
        if run.timeline is not None:
            seconds = {name: when for name, (_, when) in places.items()}
            write_timeline(rows, seconds, run.timeline, unfinished.folder)
        if run.drift and drift is not None:
            write_drift(rows, drift, unfinished.folder)
    return verdicts, unlike


def _kept_pictures(unfinished: Unfinished) -> TopPictures:
    """The pictures for a report, with those that were kept before the run was continued."""
    pictures = TopPictures(unfinished.folder / "pictures", MOST_PICTURES)
    for row in unfinished.rows:
        pictures.find_again(row["image_score"], row["path"])
    return pictures


def draw(
    prediction: Prediction,
    ref: ImageRef,
    state: tuple[int, int, int] | None,
    run: Run,
    folder: Path,
    pictures: TopPictures | None = None,
) -> None:
    """Write an image's map and overlay, where they are asked for, both or none, and offer it to the report.

    `state` is that of the file before it was judged (see `file_state`). Raises `ImageError` where it has changed since,
    and `InputError` where a picture cannot be written.
    """
    image = cache(partial(_read_again, ref, state, prediction))  # read where it is drawn, and once
    try:
        if run.maps:
            save_map(prediction, folder / run.picture("maps", prediction.path))
        if run.overlays:
            save_overlay(image(), prediction, folder / run.picture("overlays", prediction.path), style=run.overlays)
        if pictures is not None:
            rank = round(prediction.image_score, 6)  # as in its row, by which a continued run ranks it
            pictures.offer(rank, prediction.path, lambda: picture_of(image(), prediction))
    except SoftPatchError:
        for picture in run.pictures(prediction.path):
            with suppress(OSError):
                (folder / picture).unlink(missing_ok=True)
        raise


def refuse_overwriting(run: Run, refs: Sequence[ImageRef], folder: Path, keep: Sequence[Path] = ()) -> None:
    """Raise `InputError` where a result would be written over an image or a file to `keep`, or is a folder of another.

    Results are the tables, and per image a map and an overlay if asked: `maps/good/000.png.tiff`.
    """
    results = [Path(name) for name in (*run.tables, RECORD)] + [each for ref in refs for each in run.pictures(ref.name)]
    kept = {os.path.realpath(path): path for path in (*keep, *(ref.path for ref in refs if ref.path))}
    targets = {os.path.realpath(folder / result): folder / result for result in results}
    for target, result in targets.items():
        if target in kept:
            raise InputError(f"{kept[target]} would be overwritten by a result; choose another folder with -o")
        for parent in Path(target).parents:
            if str(parent) in targets:
                raise InputError(
                    f"{result} and {targets[str(parent)]} cannot both be written; judge those images apart"
                )


def is_disk_full(error: SoftPatchError) -> bool:
    """Whether a file could not be written as there is no room, so that no other can be either."""
    return getattr(error.__cause__, "errno", None) in _FULL


def file_state(ref: ImageRef) -> tuple[int, int, int] | None:
    """What changes when an image's file is changed or replaced; None where there is no file."""
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
    if image.shape[1:] != (prediction.height, prediction.width) or file_state(ref) != state:
        raise ImageError(f"{ref.name} was changed while it was judged; leave images alone until predict is done")
    return image
