"""What a folder holds: which files are photographs to learn from or to judge, which are passed over, and why.

Beside photographs lie masks, depth maps, thumbnails, results of earlier runs and links. To learn from them as from
photographs would spoil a model without a word, so a folder is looked at first. Names alone do not decide what is a
mask: the picture has to look like one.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from softpatch.data.decode import is_picture, opened
from softpatch.data.masks import looks_like_mask, stem_of_image
from softpatch.data.paths import is_file
from softpatch.errors import ImageError, InputError

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    *(".jfif", ".jpe", ".jif", ".mpo", ".apng", ".dib", ".gif", ".tga"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pgm", ".ppm", ".pbm", ".pnm"),
)
_OTHER_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jxr", ".wdp", ".hdp", ".psd", ".xcf", ".exr", ".hdr", ".pfm", ".qoi"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw", ".3fr"),
    *(".ico", ".pcx", ".sgi", ".rgb", ".ras", ".fits", ".fit", ".dcm", ".dicom", ".svg", ".eps", ".emf", ".wmf"),
    *(".czi", ".lsm", ".ndpi", ".svs", ".nrrd", ".cin", ".dpx", ".im", ".xbm", ".xpm", ".btf"),
)
"""Pictures of kinds that are not read: listed in a folder too, so that they are reported rather than overlooked."""
PREDICTIONS = "predictions.jsonl"
"""The table that `predict` leaves in a folder, beside its `maps` and `overlays`."""
RUN_PICTURES = ("timeline.png", "drift.png")
"""The pictures that `predict` may leave beside it."""

_THUMBNAIL_FOLDERS = {"@eadir", "__macosx", ".thumbnails", ".@__thumb", "thumbnails", "thumbs", "thumbnail", "thumb"}
_SYSTEM_FOLDERS = {
    "$recycle.bin",
    "#recycle",
    "@recycle",
    "recycler",
    "~snapshot",
    "#snapshot",
    "system volume information",
    "lost+found",
}
_DEPTH_FOLDERS = {"xyz", "depth", "depths", "depth_map", "depth_maps", "depth images", "pcd", "disparity", "heightmap"}
_TRUTH_FOLDERS = {"ground_truth", "groundtruth", "ground-truth", "gt"}
_DERIVED = re.compile(
    r"^(?:(?P<begin>thumb|thumbnail|depth)[-_. ](?P<after>.+)"
    r"|(?P<before>.+)[-_. ](?P<end>thumb|thumbnail|depth|normals|[0-9]+x[0-9]+))$",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"^(colou?r|rgb|image|img)[-_. ]|[-_. ](colou?r|rgb|image|img)$", re.IGNORECASE)
_NAMED_FOR_MASKS = {*_TRUTH_FOLDERS, "mask", "masks"}
_SAMPLE = 3  # pictures of a folder that are looked at before all of them are
_SHOWN = 4  # groups that are named in a line


@dataclass(frozen=True)
class PassedOver:
    """Something in a folder that is no photograph to use: its `kind`, such as "mask", and `where` such things lie."""

    path: Path
    kind: str
    where: str


@dataclass(frozen=True)
class FolderContents:
    """The photographs in a folder, sorted by path, and what else was found."""

    images: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...]


def look_into(root: Path) -> FolderContents:
    """Find the photographs at `root`: the file itself, or all below a folder, sorted by path.

    A file with the suffix of a picture, in any case, or that begins like one is a photograph, also of a kind that
    cannot be read, which is reported when that is tried. Links to folders are followed, but into each folder once.
    Raises `InputError` for a path that does not exist or cannot be read.
    """
    if is_file(root):
        return FolderContents((root,), ())
    found: list[Path] = []
    passed_over: list[PassedOver] = []
    _walk(root, found, passed_over)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(found):
        folders[path.parent].append(path)
    others = _depth_maps(folders, root)
    others += _derived(folders)
    others += _masks(folders, root, {each.path for each in others})
    passed = {each.path for each in others}
    images = tuple(path for paths in folders.values() for path in paths if path not in passed)
    everything = sorted([*passed_over, *others], key=lambda each: each.path)
    return FolderContents(tuple(sorted(images)), tuple(everything))


def photographs(path: Path) -> FolderContents:
    """`look_into` what must hold photographs. Raises `InputError` where it holds none."""
    contents = look_into(path)
    if not contents.images:
        line = summary(contents.passed_over)
        besides = f" (passed over: {line})" if line else ""
        raise InputError(f"{path} holds no images{besides}; softpatch reads {', '.join(IMAGE_SUFFIXES)}")
    return contents


def summary(passed_over: Sequence[PassedOver]) -> str:
    """What was passed over in a few words: "20 masks (`*_label.bmp`), 3 thumbnails in `@eaDir`"; "" for nothing."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for each in passed_over:
        kinds[each.kind][each.where] += 1
    parts = []
    for kind, places in kinds.items():
        count = places.total()
        named = ", ".join(place for place, _ in places.most_common(_SHOWN))
        more = ", ..." if len(places) > _SHOWN else ""
        parts.append(f"{count} {kind}{'s' if count > 1 else ''} ({named}{more})")
    return ", ".join(parts)


def _walk(root: Path, found: list[Path], passed_over: list[PassedOver]) -> None:
    """Collect pictures below `root`: real folders first, then those that links lead to, each folder once."""
    entered: set[str] = set()
    above = [os.path.realpath(parent) for parent in Path(os.path.realpath(root)).parents]
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for top in waiting:
            for name, folders, files in os.walk(top, onerror=_refuse_folder):
                here = Path(name)
                real = os.path.realpath(name)
                if real in entered or real in above:  # a circle
                    folders.clear()
                    passed_over.append(PassedOver(here, "linked folder", f"`{_below(here, root)}` -> {real}"))
                    continue
                entered.add(real)
                folders.sort()
                _leave_out_folders(here, root, folders, files, passed_over)
                links += [here / folder for folder in folders if (here / folder).is_symlink()]
                made = RUN_PICTURES if PREDICTIONS in files else ()
                for file in sorted(files):
                    if file in made:
                        passed_over.append(PassedOver(here / file, "result of an earlier run", f"`{file}`"))
                    else:
                        _sort_file(here / file, found, passed_over)
        waiting = links


def _leave_out_folders(
    here: Path, root: Path, folders: list[str], files: list[str], passed_over: list[PassedOver]
) -> None:
    """Take out of `folders` those that are not entered, and note the pictures they hold."""
    for folder in list(folders):
        kind = kind_of_other_folder(folder, has_results=PREDICTIONS in files)
        if kind:
            folders.remove(folder)
            inside = [Path(top, file) for top, _, names in os.walk(here / folder) for file in sorted(names)]
            where = f"in `{_below(here / folder, root)}`"
            passed_over += [PassedOver(path, kind, where) for path in inside if _has_suffix(path)]


def kind_of_other_folder(name: str, *, has_results: bool) -> str:
    """What a folder of this name holds in place of photographs, such as "thumbnail", or "" where it is entered.

    `has_results` says that it lies beside the table of an earlier prediction.
    """
    small = name.lower()
    if has_results and name in ("maps", "overlays"):
        return "result of an earlier run"
    if small in _THUMBNAIL_FOLDERS:
        return "thumbnail"
    if small in _SYSTEM_FOLDERS:
        return "deleted or system file"
    return "hidden file" if name.startswith(".") else ""


def is_photograph(path: Path) -> bool:
    """Whether a file is a photograph by itself: it has the suffix of a picture, or begins like one."""
    return _has_suffix(path) or (not _is_known(path) and is_picture(path))


def _sort_file(path: Path, found: list[Path], passed_over: list[PassedOver]) -> None:
    if path.name.startswith("."):
        if _has_suffix(path):
            passed_over.append(PassedOver(path, "hidden file", f"`{path.name[:2]}*`"))
    elif is_photograph(path):
        found.append(path)


def _has_suffix(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES)


def _is_known(path: Path) -> bool:
    """Whether a file is by its suffix no picture, or no file to open and look at."""
    known = (
        ".txt",
        ".log",
        ".csv",
        ".json",
        ".jsonl",
        ".xml",
        ".md",
        ".py",
        ".safetensors",
        ".pt",
        ".pth",
        ".npy",
        ".zip",
    )
    return path.suffix.lower() in known or not path.is_file()


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}; make it readable or leave it out") from error


def _depth_maps(folders: dict[Path, list[Path]], root: Path) -> list[PassedOver]:
    """Pictures in a folder named for depth that have a picture of the same stem elsewhere."""
    stems = Counter(path.stem for paths in folders.values() for path in paths)
    return [
        PassedOver(path, "depth map", f"in `{_below(folder, root)}`")
        for folder, paths in folders.items()
        if _parts(folder, root) & _DEPTH_FOLDERS
        for path in paths
        if stems[path.stem] > 1
    ]


def _derived(folders: dict[Path, list[Path]]) -> list[PassedOver]:
    """Pictures named as the thumbnail or the depth map of a picture beside them."""
    found = []
    for paths in folders.values():
        stems = {path.stem for path in paths if not _DERIVED.match(path.stem)}
        stems |= {_COLOUR.sub("", stem) for stem in stems}  # `color_1` and `1_rgb` are images of which `depth_1` is one
        for path in paths:
            match = _DERIVED.match(path.stem)
            if match and (match["after"] or match["before"]) in stems:
                word = match["begin"] or match["end"]
                kind = "depth map" if word.lower() in ("depth", "normals") else "thumbnail"
                if word[0].isdigit() and word != _size(path):
                    continue  # the place of a tile, perhaps
                found.append(PassedOver(path, kind, f"`*{word}*{path.suffix}`"))
    return found


def _size(path: Path) -> str:
    """Width and height of a picture as "150x100", or "" where it cannot be read."""
    try:
        with opened(path) as image:
            width, height = image.shape[:0:-1] if isinstance(image, Tensor) else image.size
            return f"{width}x{height}"
    except ImageError:
        return ""


def _masks(folders: dict[Path, list[Path]], root: Path, passed: set[Path]) -> list[PassedOver]:
    """Pictures that look like masks and lie beside photographs: by their names, or whole folders of them."""
    folders = {folder: [path for path in paths if path not in passed] for folder, paths in folders.items()}
    found = [each for paths in folders.values() for each in _masks_beside(paths)]
    beside = {each.path for each in found}
    rest = {folder: [path for path in paths if path not in beside] for folder, paths in folders.items()}
    rest = {folder: paths for folder, paths in rest.items() if paths}
    if len(rest) < 2:
        return found
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(path for paths in rest.values() for path in paths):
        by_stem[path.stem.casefold()].append(path)
    suspects = {folder: paths for folder, paths in rest.items() if _may_hold_masks(folder, root, paths, by_stem)}
    if len(suspects) == len(rest):  # there must be photographs that they are masks of
        suspects = {folder: paths for folder, paths in suspects.items() if _parts(folder, root) & _NAMED_FOR_MASKS}
    if len(suspects) == len(rest):
        return found
    for folder, paths in suspects.items():
        is_truth, named = (bool(_parts(folder, root) & names) for names in (_TRUTH_FOLDERS, _NAMED_FOR_MASKS))
        masks = [path for path in paths if is_truth or looks_like_mask(path, named=named)]
        found += [PassedOver(path, "mask", f"in `{_below(folder, root)}`") for path in masks]
    return found


def _masks_beside(paths: Sequence[Path]) -> list[PassedOver]:
    """Masks in the folder of their images: `a_label.bmp`, `mask_1.png` beside `image_1.png`, `a.png` beside `a.jpg`.

    All look like masks, and among the other pictures is one that does not.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[path.stem.casefold()].append(path)
    named = [path for path in paths if stem_of_image(path.stem) != path.stem]
    others = [path for path in paths if stem_of_image(path.stem) == path.stem]
    unnamed = set(others)
    found = []
    if named and any(not looks_like_mask(path) for path in others[:: max(1, len(others) // _SAMPLE)]):
        found = [PassedOver(path, "mask", f"`{_pattern(path)}`") for path in named if looks_like_mask(path, named=True)]
    for same in by_stem.values():
        alike = [path for path in same if path in unnamed] if len(same) > 1 else []
        masks = [path for path in alike if looks_like_mask(path)]
        if len(masks) < len(alike):
            found += [PassedOver(path, "mask", f"`*{path.suffix}`") for path in masks]
    return found


def _pattern(path: Path) -> str:
    """How the masks are named of which a path is one: `*_label.bmp`, `mask_*.png`."""
    image = stem_of_image(path.stem)
    return f"{path.stem.replace(image, '*')}{path.suffix}" if image else path.name


def _parts(folder: Path, root: Path) -> set[str]:
    """The names of a folder and of those it lies in, below `root`, in small letters."""
    return {part.lower() for part in folder.relative_to(root).parts}


def _may_hold_masks(folder: Path, root: Path, paths: list[Path], by_stem: dict[str, list[Path]]) -> bool:
    """Whether a folder is named for the truth; or for masks, and a few of its pictures look like some; or most of them
    are named as photographs elsewhere are, `by_stem`, and a few look like masks of these, which do not."""
    if _parts(folder, root) & _TRUTH_FOLDERS:
        return True
    if _parts(folder, root) & _NAMED_FOR_MASKS:
        return any(looks_like_mask(path, named=True) for path in paths[:: max(1, len(paths) // _SAMPLE)][:_SAMPLE])
    pairs = [(path, partners) for path in paths if (partners := _partners(path, by_stem))]
    if folder == root or len(pairs) < len(paths) / 2:
        return False
    step = max(1, len(pairs) // _SAMPLE)
    return all(
        looks_like_mask(path) and any(not looks_like_mask(partner) for partner in partners)
        for path, partners in pairs[::step][:_SAMPLE]
    )


def _partners(path: Path, by_stem: dict[str, list[Path]]) -> list[Path]:
    """Pictures in other folders that this one may be the mask of, by its name."""
    stem = path.stem.casefold()
    named = [*by_stem.get(stem, ()), *by_stem.get(stem_of_image(stem), ())]
    return [other for other in named if other.parent != path.parent][:_SAMPLE]
