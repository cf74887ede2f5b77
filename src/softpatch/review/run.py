"""A run of `softpatch predict` in its folder.

What is judged lies in `unfinished` there, with the record of the run, until all is; then it takes the place of an
earlier run's results as a whole. A run that was stopped is continued from there.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from softpatch.atomic import move_together, replacing
from softpatch.config import OVERLAY_STYLES, OverlayStyle
from softpatch.data.folder import PREDICTIONS
from softpatch.data.images import ImageRef
from softpatch.data.paths import file_digest, path_below, shared_folder
from softpatch.errors import InputError
from softpatch.review.drift import DRIFT
from softpatch.review.page import REPORT
from softpatch.review.region_tables import REGION_TABLES, keep_regions, write_regions_as_coco
from softpatch.review.tables import CSV, SKIPPED, TABLES, is_row, write_tables
from softpatch.review.timeline import TIMELINE

RECORD = "run.json"
"""What was judged, and how, in a folder of results."""
UNFINISHED = "unfinished"
"""Where a run lies that was stopped or is at work."""
Earlier = Literal["refuse", "resume", "replace"]
"""What to do about a run into the same folder that was stopped."""
_LONGEST_NAME = 255  # bytes, on nearly every file system
_SUFFIXES = {"maps": ".tiff", "overlays": ".png"}


@dataclass(frozen=True)
class Run:
    """What two runs have to share for one to continue the other.

    `model` and `images` are digests, of the model file and of the images' names; `root` is the folder that all images
    share, and results are named by the path below it. `min_area` is that of the regions that are listed, None where
    none are; `report` asks for a page, `timeline` for a timeline smoothed over so many images, and `drift` for
    whether images changed.
    """

    model: str
    images: str
    threshold: float | None
    maps: bool
    overlays: OverlayStyle | None
    root: str
    min_area: int | None = None
    report: bool = False
    timeline: int | None = None
    drift: bool = False

    @classmethod
    def of(
        cls,
        refs: Sequence[ImageRef],
        *,
        model: Path | None = None,
        threshold: float | None = None,
        maps: bool = False,
        overlays: OverlayStyle | None = None,
        min_area: int | None = None,
        report: bool = False,
        timeline: int | None = None,
        drift: bool = False,
    ) -> "Run":
        """The run that judges `refs` by the detector in the file `model`."""
        names = "\0".join(ref.name for ref in refs)
        root = shared_folder(ref.name for ref in refs)
        digest = hashlib.sha256(os.fsencode(names)).hexdigest()
        model_digest = file_digest(model) if model else ""
        return cls(model_digest, digest, threshold, maps, overlays, root, min_area, report, timeline, drift)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of all that this run writes beside pictures, last the one that says that a folder holds results."""
        regions = () if self.min_area is None else REGION_TABLES
        report = (REPORT,) if self.report else ()
        timeline = () if self.timeline is None else TIMELINE
        drift = DRIFT if self.drift else ()
        return (*report, *timeline, *drift, *regions, SKIPPED, CSV, PREDICTIONS)

    def picture(self, kind: str, path: str) -> Path:
        """Where the map or the overlay of an image lies: `maps/good/000.png.tiff`."""
        name = Path(path_below(self.root, path))
        return Path(kind, name.parent, _file_name(name.name, _SUFFIXES[kind]))

    def pictures(self, path: str) -> list[Path]:
        """All that this run draws of an image."""
        kinds = [kind for kind, asked in (("maps", self.maps), ("overlays", self.overlays)) if asked]
        return [self.picture(kind, path) for kind in kinds]


@dataclass(frozen=True)
class Unfinished:
    """A run at work: the folder to write to, and the rows of what it has judged before it was continued."""

    folder: Path
    rows: Sequence[dict[str, Any]]

    def remaining(self, refs: Sequence[ImageRef]) -> list[ImageRef]:
        """The images that have no row yet."""
        judged = Counter(row["path"] for row in self.rows)
        left = []
        for ref in refs:
            judged[ref.name] -= 1
            if judged[ref.name] < 0:
                left.append(ref)
        return left


@contextmanager
def running(folder: Path, run: Run, refs: Sequence[ImageRef], earlier: Earlier) -> Iterator[Unfinished]:
    """Begin a run in `folder`, or continue it, and put its results in the place of an earlier run's when it ends well.

    Where the block fails, what was judged is kept in `unfinished`. Raises `InputError` for a run that was stopped,
    unless it is to be continued and the same, or replaced; and for results whose files are not known.
    """
    place = folder / UNFINISHED
    stopped = _record(place)
    if stopped is not None and stopped.pop("is_complete", False):
        _put_in_place(folder)  # a run that was killed while it did so
        stopped = None
    if earlier == "replace":
        shutil.rmtree(place, ignore_errors=True)
    elif earlier == "resume":
        _check_same(stopped, run, folder)
    elif os.path.lexists(place):
        raise InputError(
            f"{place} holds what a run that was stopped, or is still at work, has judged; "
            "continue it with `resume`, or remove that folder"
        )
    _earlier_files(folder)
    rows = judged_rows(place)
    places = {ref.name: number for number, ref in reversed(list(enumerate(refs)))}
    if not all(is_row(row) and row["path"] in places for row in rows):
        raise InputError(f"{place} holds rows that this run cannot have written; remove that folder to begin anew")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror}; choose a folder you may write to") from error
    try:
        _write_record(place, asdict(run))
        _write_all(rows, place, run)
        yield Unfinished(place, rows)
        judged = sorted(judged_rows(place), key=lambda row: places[row["path"]])
        if rows:  # what was left out before may have been judged now, behind what comes after it
            _write_all(judged, place, run)
        if run.min_area is not None:
            write_regions_as_coco(place, judged, run.root)
        _write_record(place, {**asdict(run), "is_complete": True})
    except BaseException:
        if not judged_rows(place):
            shutil.rmtree(place, ignore_errors=True)
        raise
    _put_in_place(folder)


def _write_all(rows: Sequence[dict[str, Any]], place: Path, run: Run) -> None:
    """Write the tables anew, of rows and of the regions of their images."""
    if run.min_area is not None:
        keep_regions(place, [row["path"] for row in rows])
    write_tables(rows, place)


def _check_same(stopped: dict[str, Any] | None, run: Run, folder: Path) -> None:
    if stopped is None:
        raise InputError(f"no run into {folder} was stopped, so there is nothing to continue; leave `resume` away")
    words = {
        "model": "of another model",
        "images": "of other images",
        "threshold": "at another threshold",
        "min_area": "with other regions",
        "report": "with or without a report",
        "timeline": "with another timeline",
        "drift": "with or without drift",
    }
    for name, value in asdict(run).items():
        if stopped.get(name) != value:
            what = words.get(name, "with other maps or overlays")
            raise InputError(
                f"the run that was stopped in {folder / UNFINISHED} is {what}; give the same to continue it, or remove "
                "that folder"
            )


def _put_in_place(folder: Path) -> None:
    """Move a complete run up, tables last, in the place of the results of an earlier one, whose other files go."""
    place = folder / UNFINISHED
    run = _run(place)
    new = [*_pictures(run, place), *map(Path, run.tables)] if run else [Path(name) for name in TABLES]
    new.append(Path(RECORD))
    obsolete = sorted(set(_earlier_files(folder)) - set(new))
    move_together(place, new, folder, obsolete)
    shutil.rmtree(place, ignore_errors=True)


def _earlier_files(folder: Path) -> list[Path]:
    """What an earlier run left in a folder. Raises `InputError` where its maps or overlays are not known."""
    if not (folder / PREDICTIONS).exists():
        return []
    run = _run(folder)
    if run is None:
        pictures = [kind for kind in _SUFFIXES if (folder / kind).exists()]
        if pictures:
            raise InputError(
                f"{folder} holds {' and '.join(pictures)} of an earlier run and no {RECORD} that tells them from other "
                "files; choose another folder, or remove them"
            )
        return []
    return [*_pictures(run, folder), *(Path(name) for name in run.tables if name not in TABLES)]


def _pictures(run: Run, folder: Path) -> list[Path]:
    """What the run drew of the images in a folder's table, and never what lies elsewhere."""
    drawn = (picture for row in judged_rows(folder) for picture in run.pictures(row["path"]))
    return [picture for picture in drawn if ".." not in picture.parts]


def _run(folder: Path) -> Run | None:
    record = _record(folder)
    if record is None or not isinstance(record.get("root"), str):
        return None
    needed = {each.name for each in fields(Run) if each.default is MISSING}  # others are younger than some records
    if (
        needed - set(record)
        or record["overlays"] not in (None, *OVERLAY_STYLES)
        or not isinstance(record["maps"], bool)
    ):
        return None
    return Run(**{each.name: record[each.name] for each in fields(Run) if each.name in record})


def _record(folder: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / RECORD).read_bytes())
        return found if isinstance(found, dict) else None
    return None


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def judged_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows in a folder's table, without one that was cut short."""
    rows = []
    with suppress(OSError, ValueError, RecursionError), (folder / PREDICTIONS).open("rb") as file:
        for line in file:
            row = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(row, dict) or not isinstance(row.get("path"), str):
                break
            rows.append(row)
    return rows


def _file_name(name: str, suffix: str) -> str:
    """The image's name with a suffix; one too long for a file system is cut, and told apart by a digest."""
    if len(os.fsencode(name + suffix)) <= _LONGEST_NAME:
        return name + suffix
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{name[:40]}-{digest}{suffix}"
