"""Videos are judged frame by frame, and scores over time become intervals."""

import csv
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch.data.inputs import choose_images
from softpatch.data.video import video_refs
from softpatch.errors import ImageError, InputError
from softpatch.review.timeline import intervals, smoothed
from test_cli import TINY, run

av = pytest.importorskip("av", reason="videos take PyAV")
RATE, COUNT = 10, 30
ODD = range(12, 18)  # frames that show a defect


def write_video(path: Path, frames: list[np.ndarray], codec: str = "ffv1") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.time_base = Fraction(1, RATE)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [plate(300 + number, defective=number in ODD) for number in range(COUNT)]


@pytest.fixture(scope="module")
def video(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "line.mkv", frames)


def pixels_of(tensor: object) -> np.ndarray:
    return (tensor.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)  # type: ignore[attr-defined]


def test_frames_are_images(video: Path, frames: list[np.ndarray]) -> None:
    refs = video_refs(video)
    assert [ref.name for ref in refs[:2]] == [f"{video}#000000", f"{video}#000001"]
    assert [ref.seconds for ref in refs] == pytest.approx([number / RATE for number in range(COUNT)])
    for ref, expected in zip(refs, frames, strict=True):
        assert np.array_equal(pixels_of(ref.read()), expected)


def test_frames_are_read_in_any_order_and_by_several_threads(video: Path, frames: list[np.ndarray]) -> None:
    refs = video_refs(video)
    order = [*range(COUNT), *random.Random(0).sample(range(COUNT), COUNT)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: pixels_of(refs[number].read()), order))
    for number, pixels in zip(order, found, strict=True):
        assert np.array_equal(pixels, frames[number])


def test_of_a_compressed_video_too(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), 40, np.uint8) for _ in range(COUNT)]
    for number, pixels in enumerate(frames):
        pixels[:, 2 * number : 2 * number + 4] = 220
    refs = video_refs(write_video(tmp_path / "line.mp4", frames, "mpeg4"))
    assert len(refs) == COUNT
    for number in (25, 3, 14):  # between frames that stand alone
        apart = [np.abs(pixels_of(refs[number].read()).astype(int) - frame).mean() for frame in frames]
        assert int(np.argmin(apart)) == number


def test_one_of_every_so_many(video: Path, plate_folder: Path) -> None:
    chosen = choose_images(video, "predict", every=7)
    assert [ref.name[-6:] for ref in chosen.refs] == ["000000", "000007", "000014", "000021", "000028"]
    assert len(choose_images(plate_folder / "train/good", "train", every=4).refs) == 4


def test_a_video_is_learned_from_and_judged(video: Path, good_images: np.ndarray) -> None:
    estimator = tiny_softpatch().fit(good_images)
    answers = estimator.predict(video)
    assert len(answers) == COUNT
    scores = np.array([answer.image_score for answer in answers])
    assert scores[list(ODD)].min() > np.delete(scores, list(ODD)).max()
    learned = tiny_softpatch().fit(video)
    assert learned.detector.training_images == COUNT


def test_intervals() -> None:
    scores = [1, 5, 1, 1, 4, 6, 1, 5, 1, 1, 7]
    rows = [{"path": f"{n}.png", "image_score": score, "threshold": 3.0} for n, score in enumerate(scores)]
    times = [n / 2 for n in range(len(rows))]
    found = intervals(rows, times, 1)
    assert [(each.first, each.last, each.images) for each in found] == [
        ("1.png", "1.png", 1),
        ("4.png", "5.png", 2),
        ("7.png", "7.png", 1),
        ("10.png", "10.png", 1),
    ]
    assert (found[1].begin, found[1].end, found[1].peak_path, found[1].peak_score) == (2.0, 2.5, "5.png", 6.0)
    assert [(each.first, each.last) for each in intervals(rows, times, 3)] == [("4.png", "6.png"), ("10.png", "10.png")]
    assert np.array_equal(smoothed(np.array([1.0, 9, 1, 1]), 3), [1, 1, 1, 1])
    assert intervals([], [], 1) == []


def test_the_command_line(video: Path, plate_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "results"
    run(capsys, "fit", plate_folder, "-o", model, *TINY)
    asked = ["--timeline", "--smooth", "3", "--overlays", "plain", "--threshold", "0.5"]
    code, _, told = run(capsys, "predict", model, video, "-o", out, *asked, "--every", "2")
    assert code == 0, told
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert [row["path"][-6:] for row in rows] == [f"{number:06d}" for number in range(0, COUNT, 2)]
    with Image.open(out / "overlays" / "line.mkv#000014.png") as shown:
        assert shown.size == (64, 64)
    with Image.open(out / "timeline.png") as picture:
        assert picture.width > 1000
    (interval,) = csv.DictReader((out / "intervals.csv").read_text().splitlines())
    assert interval["first"].endswith("line.mkv#000012")
    assert (interval["begin"], interval["end"], interval["images"]) == ("1.2", "1.6", "3")
    code, _, _ = run(capsys, "predict", model, plate_folder / "test/good", "-o", out, "--timeline")
    assert code == 0
    assert not (out / "overlays").exists()  # of the run before
    code, _, _ = run(capsys, "predict", model, plate_folder / "test/good", "-o", out)
    assert code == 0
    assert not (out / "timeline.png").exists()
    assert not (out / "intervals.csv").exists()


def test_smoothing_is_of_a_timeline(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, told = run(capsys, "predict", tmp_path / "model.safetensors", video, "--smooth", "5")
    assert code == 2
    assert "--smooth 5 is of a timeline, and none is asked for; give --timeline too" in " ".join(told.split())


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00\x00\x00\x20ftypisom" + bytes(100)])
def test_what_is_no_video(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"the video .*broken\.mp4 cannot be read: "):
        choose_images(path, "predict")


def test_a_video_that_is_cut_short(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.mkv"
    content = video.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refs = video_refs(path)
    assert 5 < len(refs) < COUNT
    read = 0
    for ref in refs:
        try:
            ref.read()
            read += 1
        except ImageError as error:
            assert "ends before this frame, or is damaged" in str(error)  # noqa: PT017
    assert read >= len(refs) - 2


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="it holds no pictures"):
        video_refs(path)


def test_a_playlist_leads_nowhere(video: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{video}\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match=r"the video .*list\.mp4 cannot be read: "):
        video_refs(playlist)
    joined = tmp_path / "joined.mkv"
    joined.write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    with pytest.raises(InputError, match=r"the video .*joined\.mkv cannot be read: "):
        video_refs(joined)


def test_without_pyav(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"is a video, which takes PyAV to read; install softpatch\[video\]"):
        choose_images(video, "predict")
