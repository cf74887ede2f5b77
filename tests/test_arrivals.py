"""Which files are complete, in which order, and which are not looked at again."""

import os
from hashlib import blake2b
from pathlib import Path

import pytest
from PIL import Image

from softpatch.deploy.watch.arrivals import Arrival, Arrivals


def names(arrivals: list[Arrival]) -> list[str]:
    return [arrival.name for arrival in arrivals]


class Watched:
    """Arrivals of a folder of which some are judged, and whose identities were asked for."""

    def __init__(self, folder: Path, *, settle: float = 0.0, leave_out: tuple[Path, ...] = ()) -> None:
        self.folder, self.asked, self.judged = folder, 0, set[bytes]()
        self.arrivals = Arrivals(folder, self._is_judged, settle=settle, leave_out=leave_out)

    def _is_judged(self, identity: bytes) -> bool:
        self.asked += 1
        return identity in self.judged

    def complete(self, now: float = 0.0) -> list[str]:
        return names(self.arrivals.look(now).complete)

    def judge(self, now: float = 0.0) -> list[str]:
        found = self.arrivals.look(now).complete
        self.judged |= {arrival.identity for arrival in found}
        return names(found)


def put(path: Path, content: bytes = b"content", *, changed: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if changed is not None:
        os.utime(path, (changed, changed))
    return path


def test_a_file_is_complete_when_it_was_the_same_for_long_enough(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle=1)
    put(tmp_path / "a.png", b"1", changed=100)
    assert watched.complete(10.0) == []
    put(tmp_path / "a.png", b"12", changed=100)  # longer, of the same time
    assert watched.complete(10.9) == []
    put(tmp_path / "a.png", b"34", changed=101)  # of the same length, later
    assert watched.complete(11.8) == []
    assert watched.complete(12.7) == []
    assert watched.complete(12.8) == ["a.png"]
    assert watched.arrivals.waiting == 1


def test_without_settling_a_file_is_complete_at_once(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    assert Watched(tmp_path).complete() == ["a.png"]


def test_the_oldest_come_first_and_names_decide_among_equals(tmp_path: Path) -> None:
    for name, changed in (("b.png", 3), ("d.png", 1), ("a.png", 3), ("sub/c.png", 2)):
        put(tmp_path / name, changed=changed)
    assert Watched(tmp_path).complete() == ["d.png", "sub/c.png", "a.png", "b.png"]


@pytest.mark.parametrize(
    "name",
    [
        *("a.png.part", "a.tmp", "a.PNG.TMP", ".a.png", "a.png~", "~a.png", "a.png.filepart"),
        *("notes.txt", "model.safetensors", ".hidden/a.png", "thumbs/a.png", "@eaDir/a.png", "results/maps/a.png"),
        "watched/a.png",
    ],
)
def test_what_is_passed_over(name: str, tmp_path: Path) -> None:
    put(tmp_path / "results/predictions.jsonl")
    put(tmp_path / name)
    watched = Watched(tmp_path, leave_out=(tmp_path / "watched",))
    assert (watched.complete(), watched.complete()) == ([], [])
    assert watched.arrivals.waiting == 0


def test_maps_that_are_not_results_are_a_folder_like_any(tmp_path: Path) -> None:
    put(tmp_path / "maps/a.png")
    assert Watched(tmp_path).complete() == ["maps/a.png"]


def test_a_file_without_a_suffix_is_taken_where_it_begins_like_a_picture(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a", format="PNG")
    put(tmp_path / "b")
    watched = Watched(tmp_path)
    assert watched.complete() == ["a"]
    assert watched.arrivals.waiting == 1


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_are_followed_into_each_folder_once(tmp_path: Path) -> None:
    put(tmp_path / "in/real/a.png", changed=1)
    put(tmp_path / "other/b.png", changed=2)
    (tmp_path / "in/again").symlink_to(tmp_path / "in/real")
    (tmp_path / "in/circle").symlink_to(tmp_path)
    (tmp_path / "in/other").symlink_to(tmp_path / "other")
    (tmp_path / "in/nowhere.png").symlink_to(tmp_path / "nowhere")
    assert Watched(tmp_path / "in").complete() == ["real/a.png", "other/b.png"]


@pytest.mark.skipif(os.name == "nt", reason="FIFOs")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert Watched(tmp_path).complete() == []


def test_a_judged_file_is_not_looked_at_again_unless_it_is_another(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    path = put(tmp_path / "a.png", changed=1)
    assert watched.judge() == ["a.png"]
    assert (watched.judge(), watched.judge()) == ([], [])
    put(path, b"written over in place", changed=2)
    assert watched.judge() == ["a.png"]
    assert watched.judge() == []
    put(tmp_path / "new", b"renamed over", changed=2).replace(path)
    assert watched.judge() == ["a.png"]
    os.utime(path, (1, 1))
    put(path, b"content", changed=1)  # the first is back
    assert watched.judge() == []


def test_a_judged_file_is_told_of_once(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    watched = Watched(tmp_path)
    watched.judge()
    assert names(watched.arrivals.look(0).judged) == ["a.png"]
    assert names(watched.arrivals.look(0).judged) == []


def test_of_many_judged_files_some_are_looked_at_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.arrivals._LOOKED_AT_AGAIN", 10)
    for number in range(200):
        put(tmp_path / f"{number}.png", changed=1)
    watched = Watched(tmp_path)
    assert len(watched.judge()) == 200
    watched.judge()
    watched.asked = 0
    assert watched.judge() == []
    assert watched.asked < 40  # of 200; 9.5 are expected
    put(tmp_path / "77.png", b"written over", changed=2)
    assert [name for _ in range(21) for name in watched.judge()] == ["77.png"]


def test_a_file_that_cannot_be_read_is_tried_three_times_more(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    watched = Watched(tmp_path, settle=1)
    watched.complete(0)
    (arrival,) = watched.arrivals.look(1).complete
    for failed_at, again_at in ((1, 2), (2, 4), (4, 8)):
        assert watched.arrivals.try_later(arrival, failed_at)
        assert watched.complete(again_at - 0.1) == []
        assert watched.complete(again_at) == ["a.png"]
    assert not watched.arrivals.try_later(arrival, 8)


def test_a_file_that_is_gone_waits_no_more(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png")
    watched = Watched(tmp_path, settle=9)
    watched.complete()
    assert watched.arrivals.waiting == 1
    path.unlink()
    watched.complete()
    assert watched.arrivals.waiting == 0


def test_a_folder_that_is_away_is_an_error_and_forgets_nothing(tmp_path: Path) -> None:
    put(tmp_path / "in/a.png")
    watched = Watched(tmp_path / "in")
    assert watched.judge() == ["a.png"]
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        watched.judge()
    (tmp_path / "in").mkdir()  # as where a share is mounted
    assert watched.judge() == []
    (tmp_path / "in").rmdir()
    (tmp_path / "away").rename(tmp_path / "in")
    assert watched.judge() == []


def test_an_identity_is_that_of_name_size_and_time() -> None:
    arrival = Arrival("sub/\udcff.png", 12, 34, 56)
    assert arrival.identity == blake2b(b"sub/\xff.png\x0012\x0034", digest_size=16).digest()
    assert arrival._replace(inode=57).identity == arrival.identity
