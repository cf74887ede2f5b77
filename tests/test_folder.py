"""What a folder holds: photographs are found, and what is none is passed over and named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from softpatch.data.folder import FolderContents, look_into, photographs, summary
from softpatch.data.images import image_files
from softpatch.errors import InputError


def photograph(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24), dtype=np.uint8)).save(path)


def mask(path: Path, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((16, 24), np.uint8)
    pixels[4:8, 5:12] = value
    Image.fromarray(pixels).save(path)


def taken(contents: FolderContents, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in contents.images]


def test_image_files_are_sorted_and_filtered(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/.hidden.png", ".cache/c.png", "notes.txt", "folder.png/d.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "again").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)]
    assert found == ["a/z.jpeg", "b.PNG", "folder.png/d.tiff", "loop.png"]  # a broken link is told of when read
    assert image_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]  # named by hand, so it is tried


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(top: Path, onerror: Callable[[OSError], None]) -> list[object]:
        onerror(PermissionError(13, "Permission denied", str(top / "locked")))
        return []

    monkeypatch.setattr("os.walk", refuse)
    with pytest.raises(InputError, match="locked cannot be read: Permission denied"):
        image_files(tmp_path)


def test_pictures_of_an_earlier_prediction_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.png", "overlays/a.png", "results/overlays/a.png.png", "results/maps/a.png.tiff", "results/b.png"):
        photograph(tmp_path / name)
    everything = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert len(everything) == 5
    (tmp_path / "results/predictions.jsonl").write_text("")
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == ["a.png", "overlays/a.png", "results/b.png"]


def test_paths_that_hold_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no images; softpatch reads \.png, "):
        image_files(tmp_path)
    with pytest.raises(InputError, match="missing does not exist"):
        image_files(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        image_files(tmp_path / ("x" * 300))


# --- what is passed over ---


@pytest.mark.parametrize(
    "name", ["{}_label.bmp", "{}_GT.png", "{}-mask.PNG", "mask_{}.png", "{}.png", "{}.bmp", "{}_seg.jpg"]
)
@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_beside_photographs(tmp_path: Path, name: str, value: int) -> None:
    for number in range(4):
        photograph(tmp_path / f"{number}.jpg", number)
        mask(tmp_path / name.format(number), value)
    contents = look_into(tmp_path)
    assert taken(contents, tmp_path) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [each.kind for each in contents.passed_over] == ["mask"] * 4


def test_masks_named_by_a_word_of_their_own(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"img_{number}.jpg", number)
        mask(tmp_path / f"mask_{number}.png")
    contents = look_into(tmp_path)
    assert taken(contents, tmp_path) == [f"img_{number}.jpg" for number in range(4)]
    assert {each.where for each in contents.passed_over} == {"`mask_*.png`"}


@pytest.mark.parametrize("folder", ["mask", "ground_truth/crack", "Masks", "truth", "annotations/png"])
def test_folders_of_masks(tmp_path: Path, folder: str) -> None:
    for number in range(4):
        photograph(tmp_path / f"images/{number}.jpg", number)
        mask(tmp_path / folder / f"{number}.png")
    contents = look_into(tmp_path)
    assert len(contents.images) == 4
    assert {(each.kind, each.where) for each in contents.passed_over} == {("mask", f"in `{folder}`")}


def test_photographs_are_no_masks_whatever_their_names(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"{number}.jpg", number)
        photograph(tmp_path / f"{number}_label.jpg", number + 10)  # of labels that are printed, perhaps
        photograph(tmp_path / f"{number}.png", number + 20)
        photograph(tmp_path / f"truth/{number}.png", number + 30)
        photograph(tmp_path / f"masks/{number}.png", number + 40)  # that people wear
    assert look_into(tmp_path).passed_over == ()


def test_black_frames_and_silhouettes_are_photographs_where_there_is_nothing_that_they_mask(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"monday/{number}.png", number)
        mask(tmp_path / f"tuesday/frame{number}.png", 0)
    assert look_into(tmp_path).passed_over == ()
    for number in range(4):
        mask(tmp_path / f"backlit/a/{number}.png")
        mask(tmp_path / f"backlit/b/{number}.png")
    assert look_into(tmp_path / "backlit").passed_over == ()


def test_masks_alone_are_images(tmp_path: Path) -> None:
    mask(tmp_path / "masks/0.png")
    assert len(look_into(tmp_path).images) == 1


def test_thumbnails_depth_maps_and_hidden_files(tmp_path: Path) -> None:
    photograph(tmp_path / "rgb/0.png")
    for name in (
        "depth/0.png",
        "rgb/0_depth.png",
        "rgb/thumb_0.png",
        "rgb/0-150x150.png",
        "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/._0.png",
        ".ipynb_checkpoints/0-checkpoint.png",
        "._0.png",
        "$RECYCLE.BIN/0.png",
    ):
        photograph(tmp_path / name)
    Image.new("L", (150, 150)).save(tmp_path / "rgb/0-150x150.png")
    photograph(tmp_path / "rgb/0_0x0.png")  # a tile of it
    contents = look_into(tmp_path)
    assert taken(contents, tmp_path) == ["rgb/0.png", "rgb/0_0x0.png"]
    assert summary(contents.passed_over) == (
        "1 deleted or system file (in `$RECYCLE.BIN`), 2 hidden files (`._*`, in `.ipynb_checkpoints`), "
        "4 thumbnails (in `@eaDir`, in `__MACOSX`, `*150x150*.png`, `*thumb*.png`), "
        "2 depth maps (in `depth`, `*depth*.png`)"
    )


def test_a_folder_named_for_depth_alone_holds_photographs(tmp_path: Path) -> None:
    photograph(tmp_path / "depth/0.png")
    photograph(tmp_path / "width/1.png")
    assert look_into(tmp_path).passed_over == ()


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    photograph(root / "a/0.png")
    photograph(elsewhere / "1.png")
    (root / "line2").symlink_to(elsewhere)
    (root / "line3").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(elsewhere)
    (root / "a/up").symlink_to(tmp_path)
    contents = look_into(root)
    assert taken(contents, root) == ["a/0.png", "line2/1.png"]
    assert {each.where.split("`")[1] for each in contents.passed_over} == {"a/up", "line2/circle", "line3"}
    assert {each.kind for each in contents.passed_over} == {"linked folder"}


def test_a_folder_below_a_hidden_one(tmp_path: Path) -> None:
    photograph(tmp_path / ".cache/photos/0.png")
    assert len(photographs(tmp_path / ".cache/photos").images) == 1
    with pytest.raises(InputError, match=r"holds no images \(passed over: 1 hidden file \(in `\.cache`\)\)"):
        photographs(tmp_path)


def test_pictures_of_any_suffix_are_found(tmp_path: Path) -> None:
    names = ["a.jfif", "b.JPE", "c.dib", "d.gif", "e.tga", "f.jp2", "g.pgm", "h.HEIC", "i.nef", "j.avif", "k.psd"]
    for name in names:
        (tmp_path / name).write_bytes(b"?")
    photograph(tmp_path / "tmp.png")
    (tmp_path / "tmp.png").rename(tmp_path / "no suffix")
    (tmp_path / "notes").write_text("no picture")
    (tmp_path / "BMW").write_bytes(b"BMW is no bitmap, and II* no TIFF")
    assert taken(look_into(tmp_path), tmp_path) == [*names, "no suffix"]


def test_dark_photographs_are_no_masks(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"brightfield/{number}.png", number)
        dark = np.random.default_rng(number).normal(10, 3, (32, 32)).clip(0, 30).astype(np.uint8)
        (tmp_path / "darkfield").mkdir(exist_ok=True)
        Image.fromarray(dark).save(tmp_path / f"darkfield/{number}.png")
    assert look_into(tmp_path).passed_over == ()


def test_masks_of_photographs_on_a_dark_ground(tmp_path: Path) -> None:
    for number in range(4):
        rng = np.random.default_rng(number)
        pixels = rng.normal(6, 2, (48, 48))
        pixels[16:32, 16:32] = rng.normal(120, 15, (16, 16))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        mask(tmp_path / f"{number}_mask.png")
    assert taken(look_into(tmp_path), tmp_path) == [f"{number}.png" for number in range(4)]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_masks_that_are_mostly_white_or_inverted(tmp_path: Path, suffix: str) -> None:
    white = np.full((64, 64), 255, np.uint8)
    white[:2] = 0
    for number in range(4):
        photograph(tmp_path / f"images/{number}.jpg", number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(white).filter(ImageFilter.GaussianBlur(0.8)).save(tmp_path / f"masks/{number}.{suffix}")
    assert taken(look_into(tmp_path), tmp_path) == [f"images/{number}.jpg" for number in range(4)]


def test_several_folders_of_masks(tmp_path: Path) -> None:
    for number in range(4):
        photograph(tmp_path / f"images/{number}.png", number)
        for folder in ("binary", "regions"):
            mask(tmp_path / f"{folder}/{number}.png")
    assert taken(look_into(tmp_path), tmp_path) == [f"images/{number}.png" for number in range(4)]


def test_depth_maps_of_cameras(tmp_path: Path) -> None:
    for name in (
        "color_0.png",
        "depth_0.png",
        "1_rgb.png",
        "1_depth.png",
        "1_normals.png",
        "rgb/a/2.png",
        "depth/a/2.png",
    ):
        photograph(tmp_path / name)
    assert taken(look_into(tmp_path), tmp_path) == ["1_rgb.png", "color_0.png", "rgb/a/2.png"]


def test_logs_are_no_pictures(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    (tmp_path / "run.log").write_text("P1 line 3 started")
    (tmp_path / "notes").write_text("P2 camera changed")
    assert taken(look_into(tmp_path), tmp_path) == ["a.png"]
