"""Moving loses nothing and writes over nothing, within a file system and between two."""

import errno
import os
from pathlib import Path

import pytest

from softpatch.deploy.watch.moving import move_file


@pytest.fixture(params=["one file system", "two file systems"])
def _file_systems(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if request.param == "two file systems":
        monkeypatch.setattr(Path, "rename", refuse)


@pytest.mark.usefixtures("_file_systems")
class TestMove:
    """The same wherever the target lies."""

    def test_a_file_keeps_its_content_and_time(self, tmp_path: Path) -> None:
        source = tmp_path / "a.png"
        source.write_bytes(b"pixels")
        os.utime(source, ns=(10**18, 10**18 + 1))
        target = tmp_path / "good/line/a.png"
        assert move_file(source, target) == target
        assert (source.exists(), target.read_bytes()) == (False, b"pixels")
        assert target.stat().st_mtime_ns == 10**18 + 1
        assert [path.name for path in target.parent.iterdir()] == ["a.png"]

    def test_another_file_of_the_name_stays(self, tmp_path: Path) -> None:
        target = tmp_path / "good/a.png"
        for content in (b"one", b"two", b"six"):
            (tmp_path / "a.png").write_bytes(content)
            move_file(tmp_path / "a.png", target)
        found = {path.name: path.read_bytes() for path in target.parent.iterdir()}
        assert found == {"a.png": b"one", "a-2.png": b"two", "a-3.png": b"six"}

    def test_a_copy_that_a_killed_move_left_is_not_doubled(self, tmp_path: Path) -> None:
        source, target = tmp_path / "a.png", tmp_path / "good/a.png"
        target.parent.mkdir()
        for path in (source, target):
            path.write_bytes(b"pixels")
            os.utime(path, ns=(10**18, 10**18))
        assert move_file(source, target) == target
        assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png"]

    def test_the_same_image_taken_again_stays_two_files(self, tmp_path: Path) -> None:
        source, target = tmp_path / "a.png", tmp_path / "good/a.png"
        target.parent.mkdir()
        for path, time in ((source, 2), (target, 1)):
            path.write_bytes(b"pixels")
            os.utime(path, (time, time))
        assert move_file(source, target) == tmp_path / "good/a-2.png"
        assert target.exists()

    @pytest.mark.skipif(os.name == "nt", reason="links")
    def test_a_link_moves_as_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"not ours")
        (tmp_path / "a.png").symlink_to(tmp_path / "secret")
        target = move_file(tmp_path / "a.png", tmp_path / "good/a.png")
        assert target.readlink() == tmp_path / "secret"
        assert not (tmp_path / "a.png").is_symlink()


def test_a_file_under_another_path_is_not_taken_for_a_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    source.write_bytes(b"pixels")
    os.link(source, target)
    assert move_file(source, target) == tmp_path / "b-2.png"
    assert target.exists()


def test_a_move_that_fails_leaves_the_source(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"a file")
    (tmp_path / "a.png").write_bytes(b"pixels")
    with pytest.raises(OSError, match="good"):
        move_file(tmp_path / "a.png", tmp_path / "good/a.png")
    assert (tmp_path / "a.png").read_bytes() == b"pixels"
