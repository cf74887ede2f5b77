"""Files are written whole or not at all, whatever stops the writing."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softpatch.atomic import check_can_write, move_together, replacing
from softpatch.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An older file, alone in its folder."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"older")
    return path


def test_a_file_is_replaced(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"newer")
        assert path.read_bytes() == b"older"
        assert (temporary.parent, temporary.suffix) == (path.parent, ".bin")
    assert path.read_bytes() == b"newer"
    assert list(path.parent.iterdir()) == [path]


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "table.csv"
    with replacing(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"


@pytest.mark.parametrize("stop", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3), InputError("bad")])
def test_the_older_file_stays_when_writing_stops(path: Path, stop: BaseException) -> None:
    with pytest.raises(type(stop)) as caught, replacing(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise stop
    assert caught.value is stop
    assert path.read_bytes() == b"older"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_an_input_error(path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*model\.bin: No space left on device"), replacing(path):
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"older"
    assert list(path.parent.iterdir()) == [path]


def test_a_temporary_file_that_is_gone_is_an_input_error(path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write"), replacing(path) as temporary:
        temporary.unlink()
    assert path.read_bytes() == b"older"


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*taken"), replacing(tmp_path / "taken") as temporary:
        temporary.write_bytes(b"newer")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_a_folder_that_cannot_be_made(path: Path) -> None:
    with (
        pytest.raises(
            InputError,
            match=r"cannot write .*report\.html: .*model\.bin is a file; name a folder, or move the file away",
        ),
        replacing(path / "report.html"),
    ):
        pytest.fail("nothing can be written below a file")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"cannot write .*: Permission denied; choose"), replacing(path):
            pytest.fail("nothing can be written here")
    finally:
        path.parent.chmod(0o700)


def test_permission_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(InputError, match=r"cannot write .*: Permission denied; choose"), replacing(path):
        pytest.fail("nothing can be written here")


def test_a_link_keeps_pointing_where_it_points(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for target in (path, tmp_path / "new.bin"):
        link = tmp_path / "elsewhere" / f"to-{target.name}"
        link.symlink_to(target)
        check_can_write(link)
        with replacing(link) as temporary:
            temporary.write_bytes(b"newer")
        assert link.readlink() == target
        assert target.read_bytes() == b"newer"


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match=r"cannot write .*a: "), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"newer")
    assert (tmp_path / "a").is_symlink()


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_can_write(tmp_path / "a" / "b" / "model.bin")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    for senseless in (tmp_path, tmp_path / "file" / "model.bin"):
        with pytest.raises(InputError, match="cannot write"):
            check_can_write(senseless)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_permissions_are_those_of_an_ordinary_file(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"newer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.umask(0o027) == 0o027


def test_a_killed_process_leaves_the_older_file_whole(path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from softpatch.atomic import move_together, check_can_write, replacing

with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    assert process.returncode != 0
    assert path.read_bytes() == b"older"
    with replacing(path) as temporary:  # what was left behind is in nobody's way
        temporary.write_bytes(b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_new_file_is_as_private_as_the_older(path: Path) -> None:
    path.chmod(0o600)
    with replacing(path) as temporary:
        temporary.write_bytes(b"newer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_files_move_together_or_not_at_all(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"

    def write(root: Path, text: str, *names: str) -> list[Path]:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return [Path(name) for name in names]

    def found(root: Path) -> dict[str, str]:
        files = (path for path in root.rglob("*") if path.is_file() and ".old" not in path.parts)
        return {path.relative_to(root).as_posix(): path.read_text() for path in files}

    write(folder, "older", "a", "b/c", "z", "gone/x/y")
    (folder / "d/in the way").mkdir(parents=True)
    names = write(source, "newer", "a", "b/c", "b/new", "d", "z")
    with pytest.raises(InputError, match=r"cannot write .*d: it is a folder"):
        move_together(source, names, folder, [Path("gone/x/y")])
    assert found(folder) == {"a": "older", "b/c": "older", "z": "older", "gone/x/y": "older"}
    assert set(found(source).values()) == {"newer"}
    names.remove(Path("d"))
    move_together(source, [*names, Path("moved before")], folder, [Path("gone/x/y")])
    assert found(folder) == {"a": "newer", "b/c": "newer", "b/new": "newer", "z": "newer"}
    assert not (folder / "gone").exists()
    assert found(source) == {"d": "newer"}
