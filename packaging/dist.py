"""Build what is given away: a wheel and a source archive that are the same bytes for the same commit, and check them.

    python packaging/dist.py

writes both to dist/; `make dist` also installs the wheel in an environment of its own, and judges images there.
"""

import gzip
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BESIDE = re.compile(r"(^|/)(__pycache__(/|$)|\.)|\.py[co]$")
_BUILDS = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml"}
_MADE = re.compile(r"(PKG-INFO|setup\.cfg|src/softpatch\.egg-info/[\w.-]+)")  # by setuptools


def build(source: Path, output: Path, epoch: int) -> tuple[Path, Path]:
    """Build a wheel and a source archive of `source` into `output`, and say where they are.

    The wheel is made of the archive alone. `epoch`, in seconds since 1970, is the time of all files in both. Raises
    `CalledProcessError` where setuptools fails.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run_build("--sdist", source, folder, epoch)
        (made,) = folder.glob("*.tar.gz")
        archive = output / made.name
        _write_archive(made, archive, epoch)
        with tarfile.open(archive) as unpacked:
            unpacked.extractall(folder / "source", filter="data")
        _run_build("--wheel", folder / "source" / archive.name.removesuffix(".tar.gz"), folder, epoch)
        (made,) = folder.glob("*.whl")
        wheel = output / made.name
        wheel.write_bytes(made.read_bytes())
    return wheel, archive


def _run_build(kind: str, source: Path, output: Path, epoch: int) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(output), str(source)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    subprocess.run(command, check=True, env=environment, cwd=output, stdout=subprocess.DEVNULL)


def _write_archive(made: Path, archive: Path, epoch: int) -> None:
    """Write an archive again without what depends on when, where and by whom it was made, which setuptools keeps."""
    with (
        tarfile.open(made) as old,
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for entry in sorted(old.getmembers(), key=lambda each: each.name):
            entry.mtime, entry.pax_headers = epoch, {}
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            new.addfile(entry, old.extractfile(entry) if entry.isfile() else None)


def problems(wheel: Path, archive: Path, source: Path) -> list[str]:
    """What is wrong with a wheel and a source archive of `source`: a line for each file, none where all is right.

    The wheel holds the files of src/softpatch, all of them, the licence, and nothing else; the archive also what
    builds it, and packaging/.
    """
    package = source / "src/softpatch"
    files = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    wanted = {name for name in files if not _BESIDE.search(name)}
    with zipfile.ZipFile(wheel) as opened:
        found = set(opened.namelist())
    with tarfile.open(archive) as opened_archive:
        archived = {each.name.partition("/")[2] for each in opened_archive.getmembers() if each.isfile()}
    about = {name for name in found if name.partition("/")[0].endswith(".dist-info")}
    licences = [name for name in about if name.endswith("/licenses/LICENSE")]
    beside = {f"packaging/{path.name}" for path in (source / "packaging").iterdir() if path.is_file()}
    in_archive = _BUILDS | beside | {f"src/{name}" for name in wanted}
    strange = {name for name in archived - in_archive if not _MADE.fullmatch(name)}
    return [
        *(f"{name} is not in the wheel; name it in package-data of pyproject.toml" for name in sorted(wanted - found)),
        *(f"{name} is in the wheel, and not in src" for name in sorted(found - about - wanted)),
        *([] if licences else ["the licence is not in the wheel"]),
        *(f"{name} is not in the source archive; name it in MANIFEST.in" for name in sorted(in_archive - archived)),
        *(f"{name} is in the source archive and builds nothing; exclude it in MANIFEST.in" for name in sorted(strange)),
    ]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Build the commit that is checked out into dist/."""
    if changed := _git("status", "--porcelain"):
        sys.exit(f"what is built is a commit, and these files differ from it; commit them first:\n{changed}")
    ignored = _git("ls-files", "--others", "--ignored", "--exclude-standard", "src/softpatch").splitlines()
    if beside := [name for name in ignored if not _BESIDE.search(name)]:
        sys.exit("\n".join(["these files would be in the wheel, and git ignores them; move them away:", *beside]))
    wheel, archive = build(ROOT, ROOT / "dist", int(_git("log", "-1", "--format=%ct")))
    if found := problems(wheel, archive, ROOT):
        sys.exit("\n".join(found))
    for path in (wheel, archive):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
