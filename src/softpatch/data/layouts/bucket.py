"""Files that were copied from a bucket of S3 to a folder: which of them `s3://bucket/key` is. Nothing is downloaded."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from softpatch.errors import InputError

_SCHEME = "s3://"
_LONGEST = 1_100  # characters: a key of S3 has at most 1,024 bytes
_PLACES_SHOWN = 6
_COUNTED = 100  # references by which it is told where most files are


def local_files(references: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Path]:
    """Find the files that `s3://bucket/key` stand for, by reference; `references` say where each is named, in words.

    A file lies below one of `folders` under `bucket/key`, or without the first folders of that, the bucket counting as
    one: as many as all references to the bucket share are tried, from none on. It is the same number and the same
    folder for all references to a bucket, the first with which all files are there, so that no file is taken for
    another of its name. Raises `InputError` for a reference of another kind or that points out of the folder, and where
    files are missing.
    """
    buckets: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for reference, where in references.items():
        parts = _parts(reference, where)
        buckets[parts[0]][reference] = parts
    found: dict[str, Path] = {}
    for keys in buckets.values():
        found |= _files_of_bucket(keys, references, folders)
    return found


def _parts(reference: str, where: str) -> tuple[str, ...]:
    """The bucket and the names in the key."""
    if len(reference) > _LONGEST:
        raise InputError(
            f"{where} names a file by {len(reference):,} characters; s3://bucket/key has at most {_LONGEST:,}"
        )
    parts = tuple(part for part in reference.removeprefix(_SCHEME).split("/") if part not in ("", "."))
    if not reference.startswith(_SCHEME) or len(parts) < 2 or reference.endswith("/"):
        raise InputError(f"{where} names {reference!r}; the place of a file is s3://bucket/key")
    if any(part == ".." or "\\" in part or "\0" in part or ":" in part[1:2] for part in parts):
        raise InputError(f"{where} names {reference!r}, which points outside its folder; a key has no '..' or '\\'")
    return parts


def _files_of_bucket(
    keys: Mapping[str, tuple[str, ...]], references: Mapping[str, str], folders: Sequence[Path]
) -> dict[str, Path]:
    shared = len(_shared([parts[:-1] for parts in keys.values()]))
    ways = [(folder, dropped) for folder in folders for dropped in range(shared + 1)]
    for folder, dropped in ways:
        files = {reference: folder.joinpath(*parts[dropped:]) for reference, parts in keys.items()}
        if all(file.is_file() for file in files.values()):
            return files
    some = list(keys.values())[:_COUNTED]
    counts = {
        (folder, dropped): sum(folder.joinpath(*parts[dropped:]).is_file() for parts in some)
        for folder, dropped in ways
    }
    best = max(counts, key=lambda way: counts[way])
    tried = [best] if counts[best] else ways
    missing = [name for name, parts in keys.items() if not best[0].joinpath(*parts[best[1] :]).is_file()]
    parts = keys[missing[0]]
    places = [str(folder.joinpath(*parts[dropped:])) for folder, dropped in tried]
    looked = " or ".join(places[:_PLACES_SHOWN]) + (" or ..." if len(places) > _PLACES_SHOWN else "")
    raise InputError(
        f"{references[missing[0]]} names {missing[0]!r}, but {looked} is missing ({len(missing)} of {len(keys)} "
        f"files of bucket {parts[0]!r} are); copy them with aws s3 sync, or give the folder that they lie in"
    )


def _shared(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The first names that all have in common."""
    lowest, highest = min(folders), max(folders)
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(lowest, highest, strict=False)))
