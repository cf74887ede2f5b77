"""Tables that come with datasets: read as text, and what they name is looked for below the dataset only."""

from pathlib import Path, PurePosixPath

from softpatch.errors import InputError

_LARGEST_TABLE = 200_000_000  # bytes


def read_text(table: Path) -> str:
    """The text of a table in UTF-8. Raises `InputError` where it cannot be read or is absurdly large."""
    try:
        if table.stat().st_size > _LARGEST_TABLE:
            raise InputError(f"{table} is larger than {_LARGEST_TABLE:,} bytes; it is no table of images")
        return table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{table} cannot be read: {error}; save it in UTF-8") from error
    except OSError as error:
        raise InputError(f"{table} cannot be read: {error}") from error


def inside(root: Path, name: str, table: Path) -> Path:
    """The file that a table names, below `root`. Raises `InputError` where it lies elsewhere or is missing."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise InputError(f"{table} names {name!r}, which points outside {root}; paths stay below it")
    path = root / name
    if not path.is_file():
        raise InputError(f"{table} names {name!r}, but {path} is missing; complete the dataset")
    return path
