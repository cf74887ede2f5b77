import io
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin

from softpatch.data import image_bounds
from softpatch.data.decode import read_image, rgb_tensor
from softpatch.data.images import SkippedImage, file_ref, read_in_batches
from softpatch.errors import ImageError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RGB.astype(np.uint16) * 257  # 0 to 65535, the same shades
GREY = RGB[..., 0].copy()
TURNED_RIGHT = Image.Exif()
TURNED_RIGHT[0x0112] = 6


def unit(pixels: np.ndarray, top: float = 255) -> torch.Tensor:
    """What `read_image` should give for (H, W) or (H, W, 3) pixels of the range 0 to `top`."""
    scaled = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32) / np.float32(top))
    return scaled.permute(2, 0, 1).expand(3, -1, -1)


def assert_same(image: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert image.dtype == torch.float32
    assert image.shape == expected.shape
    assert (image - expected).abs().max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_rgb_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RGB).save(path, lossless=True)
    assert_same(read_image(path), unit(RGB))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_one_bit_images_are_black_and_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(GREY > 99).save(path)
    assert_same(read_image(path), unit(GREY > 99, top=1))


def test_content_decides_the_format(tmp_path: Path) -> None:
    path = tmp_path / "really_a_bitmap.png"
    Image.fromarray(RGB).save(path, format="BMP")
    assert_same(read_image(path), unit(RGB))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_depth(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(0, 35, dtype=np.uint16).reshape(5, 7) + 1000
    Image.fromarray(ramp).save(tmp_path / f"image{suffix}")
    assert_same(read_image(tmp_path / f"image{suffix}"), unit(ramp, top=65535), tolerance=1e-7)


def test_16_bit_rgb_png(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP)
    (tmp_path / "deep.png").write_bytes(png(7, 5, bits=16, colour=2, data=zlib.compress(rows)))
    assert_same(read_image(tmp_path / "deep.png"), unit(RGB))


def deep_png(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits a sample, of pixels (H, W, 3) or (H, W, 4)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    colour = {3: 2, 4: 6}[pixels.shape[2]]
    path.write_bytes(png(*pixels.shape[1::-1], bits=16, colour=colour, data=zlib.compress(rows)))
    return path


def test_16_bit_rgb_png_keeps_its_depth(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    wanted = unit(values, top=65535)
    assert_same(read_image(deep_png(tmp_path / "a.png", values)), wanted, tolerance=1e-7)
    twelve = values // 16
    assert_same(read_image(deep_png(tmp_path / "b.png", twelve), (0, 4095)), unit(twelve, top=4095))
    for alpha in (0, 65535):  # unset, and opaque
        image = np.dstack([values, np.full((5, 7), alpha, np.uint16)])
        assert_same(read_image(deep_png(tmp_path / "c.png", image)), wanted, tolerance=1e-7)
    clear = np.dstack([values, np.full((5, 7), 65535, np.uint16)])
    clear[0, 0] = 0
    seen = read_image(deep_png(tmp_path / "d.png", clear))
    assert seen[:, 0, 0].tolist() == [1, 1, 1]
    assert_same(seen[:, 1:], wanted[:, 1:], tolerance=1 / 255)


def test_a_16_bit_rgb_png_that_ends_early(tmp_path: Path) -> None:
    values = np.full((50, 70, 3), 20_000, np.uint16)
    path = deep_png(tmp_path / "a.png", values)
    whole = path.read_bytes()
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values[:30])
    for content in (whole[: len(whole) // 2], png(70, 50, bits=16, data=zlib.compress(rows))):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="cut short or damaged"):
            read_image(path)


def png(width: int, height: int, *, bits: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


PLANES = RGB.transpose(2, 0, 1).copy()


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        pytest.param(DEEP, {"photometric": "rgb"}, unit(RGB), id="16-bit RGB"),
        pytest.param(DEEP, {"photometric": "rgb", "compression": "zlib"}, unit(RGB), id="16-bit RGB, packed"),
        pytest.param(DEEP, {"photometric": "rgb", "tile": (16, 16)}, unit(RGB), id="16-bit RGB, tiled"),
        pytest.param(
            PLANES * np.uint16(257),
            {"photometric": "rgb", "planarconfig": "separate"},
            unit(RGB),
            id="16-bit RGB planes",
        ),
        pytest.param(PLANES, {"photometric": "rgb", "planarconfig": "separate"}, unit(RGB), id="8-bit RGB planes"),
        pytest.param((RGB / 255).astype(np.float32), {"photometric": "rgb"}, unit(RGB), id="float RGB"),
        pytest.param(DEEP.astype(np.uint32), {"photometric": "rgb"}, unit(RGB), id="32-bit RGB"),
        pytest.param(GREY / 255, {}, unit(GREY), id="double grey"),
        pytest.param((GREY / 255).astype(np.float32), {"compression": "zlib"}, unit(GREY), id="float, packed"),
        pytest.param(GREY * np.uint16(257), {"photometric": "miniswhite"}, unit(255 - GREY), id="0 is white"),
        pytest.param(GREY, {"photometric": "miniswhite"}, unit(255 - GREY), id="8-bit, 0 is white"),
        pytest.param(GREY * np.uint16(257), {"byteorder": ">"}, unit(GREY), id="big-endian"),
        pytest.param(GREY, {"bigtiff": True}, unit(GREY), id="BigTIFF"),
    ],
)
def test_tiff(tmp_path: Path, pixels: np.ndarray, options: dict[str, object], expected: torch.Tensor) -> None:
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    assert_same(read_image(tmp_path / "image.tif"), expected)


def test_first_frame_of_several(tmp_path: Path) -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    for name in ("frames.webp", "frames.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert_same(read_image(tmp_path / name), unit(RGB))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    layer = Image.fromarray(np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)]))
    layer.putpixel((2, 1), (0, 0, 0, 0))
    expected = unit(GREY).clone()
    expected[:, 1, 2] = 1
    if mode == "P":
        layer = layer.quantize(64)
        layer.save(tmp_path / "image.png")
        assert_same(read_image(tmp_path / "image.png"), expected, tolerance=0.05)  # only 64 colours
    else:
        assert_same(rgb_tensor(layer.convert(mode)), expected)


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (255, 0, 0, 128)).save(tmp_path / "red.png")
    assert read_image(tmp_path / "red.png")[:, 0, 0].tolist() == pytest.approx([1, 127 / 255, 127 / 255])


def test_a_colour_named_transparent_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 3), (10, 20, 30))
    image.putpixel((0, 0), (255, 0, 0))
    image.save(tmp_path / "keyed.png", transparency=(10, 20, 30))
    pixels = read_image(tmp_path / "keyed.png")
    assert pixels[:, 0, 0].tolist() == [1, 0, 0]
    assert pixels[:, 1, 1].tolist() == [1, 1, 1]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    assert_same(read_image(tmp_path / "red.jpg")[:, :1, :1], torch.tensor([1.0, 0, 0])[:, None, None], 0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True}),
        ("a.tif", {}),
        ("b.tif", {"compression": "tiff_deflate"}),
    ],
)
def test_exif_orientation(tmp_path: Path, name: str, options: dict[str, object], orientation: int) -> None:
    # the EXIF standard's table: where the first row and the first column of the stored pixels lie
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB.transpose(1, 0, 2), 2),
        8: np.rot90(RGB, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / name, exif=exif, **options)
    assert_same(read_image(tmp_path / name), unit(upright))


def test_deep_images_are_turned_too(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    assert_same(read_image(tmp_path / "deep.tif"), unit(np.rot90(RGB, -1)))
    Image.fromarray(DEEP[..., 0].copy()).save(tmp_path / "deep.png", exif=TURNED_RIGHT)
    assert_same(read_image(tmp_path / "deep.png"), unit(np.rot90(GREY, -1)))


TURNED_AND_BROKEN = (
    b"Exif\0\0II*\0\x08\0\0\0\x02\0"
    b"\x12\x01\x03\x00\x01\0\0\0\x06\0\0\0"  # orientation 6
    b"\x0e\x01\x02\x00\xff\x00\0\0\xff\xff\0\0"  # a description beyond the end
    b"\0\0\0\0"
)


def test_broken_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8))
    image.save(tmp_path / "short.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01")
    assert read_image(tmp_path / "short.jpg").shape == (3, 8, 16)
    image.save(tmp_path / "beyond.jpg", exif=TURNED_AND_BROKEN)
    assert read_image(tmp_path / "beyond.jpg").shape == (3, 16, 8)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n4\nnot hexadecimal")
    image.save(tmp_path / "text.png", pnginfo=text)
    assert read_image(tmp_path / "text.png").shape == (3, 8, 16)


def test_no_warning_escapes_from_threads(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8)).save(tmp_path / "warns.jpg", exif=TURNED_AND_BROKEN)
    refs = [file_ref(tmp_path / "warns.jpg")] * 60
    skipped: list[SkippedImage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = list(read_in_batches(refs, torch.clone, batch_size=4, workers=4, on_skip=skipped.append))
        after = list(warnings.filters)
    assert (len(batches), skipped, caught) == (15, [], [])
    assert after[1][0] == "always"  # only one filter was added, for Pillow
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    return buffer.getvalue()


def png_bytes() -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    return png(7, 5, data=zlib.compress(rows))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"just some words", "the file is not a PNG, JPEG", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "the file is not a PNG, JPEG", id="a program to be run"),
        pytest.param(b"\x89P", "the file is not a PNG, JPEG", id="two bytes"),
        pytest.param(png_bytes()[:20], "", id="PNG header cut"),
        pytest.param(png_bytes()[:60], "cut short or damaged", id="PNG data cut"),
        pytest.param(jpeg_bytes()[:1500], "cut short or damaged", id="JPEG cut"),
        pytest.param(jpeg_bytes()[:6], "", id="JPEG header cut"),
        pytest.param(b"II*\0\xff\xff\xff\xff", "", id="TIFF without pages"),
        pytest.param(b"BM" + b"\0" * 60, "", id="BMP of zeros"),
        pytest.param(b"RIFF\x10\0\0\0WEBPVP8 garbage", "", id="WebP garbage"),
        pytest.param(b"RIFF\x10\0\0\0WAVEfmt garbage", "", id="a sound"),
        pytest.param(png(100_000, 100_000), "100000 x 100000 pixels, more than the 100,000,000", id="bomb"),
        pytest.param(png(2**31 - 1, 2**31 - 1), "more than the 100,000,000 allowed", id="huge"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "image.png")
    assert reason in str(caught.value)
    assert str(caught.value).strip().endswith(tuple("abcdefghijklmnopqrstuvwxyz0123456789)'.>"))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_cut_tiffs(tmp_path: Path, keep: float, compression: str | None) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.tile(DEEP, (8, 8, 1)), photometric="rgb", compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageError):
        read_image(path)


def test_absurd_tiffs_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, DEEP, photometric="rgb", tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[name].overwrite(60_000)
    monkeypatch.delattr(tifffile.TiffPage, "asarray")
    with pytest.raises(ImageError, match="60000 x 60000 pixels"):
        read_image(path)


def test_broken_tags_are_not_talked_about(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", GREY, description="text")
    content = (tmp_path / "image.tif").read_bytes()
    broken = content.replace(struct.pack("<HHI", 270, 2, 5), struct.pack("<HHI", 270, 0, 5))
    assert broken != content
    (tmp_path / "image.tif").write_bytes(broken)
    code = "import sys, pathlib, softpatch.data.decode as i; i.read_image(pathlib.Path(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image.tif"], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""


def test_four_planes_are_refused_not_scrambled(tmp_path: Path) -> None:
    planes = np.concatenate([PLANES, PLANES[:1]]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", extrasamples=[2])
    with pytest.raises(ImageError, match="separate planes; save it as plain RGB"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_only_our_own_limit_counts(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    assert read_image(tmp_path / name).shape == (3, 5, 7)
    assert Image.MAX_IMAGE_PIXELS == 3
    monkeypatch.setattr(image_bounds, "MAX_PIXELS", 34)
    with pytest.raises(ImageError, match="7 x 5 pixels, more than the 34 allowed"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4), np.nan, np.float32), "not finite"),
        (np.full((4, 4), 1e300), "not finite"),
        (np.full((4, 4), 1.5, np.float32), r"run from 1.5 to 1.5; images of this kind hold 0 to 1"),
        (np.full((4, 4), 100, np.int8), "int8 values"),
        (np.full((4, 4), -1, np.int16), r"run from -1 to -1"),
        (np.full((4, 4), 70_000, np.uint32), r"run from 70000 to 70000; images of this kind hold 0 to 65535"),
    ],
)
def test_deep_values_outside_their_range(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    tifffile.imwrite(tmp_path / "image.tif", pixels)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "image.tif")


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="cannot be opened: No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_image(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="cannot be opened: Too many levels of symbolic links"):
        read_image(tmp_path / "loop.png")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="cannot be opened: Permission denied"):
        read_image(tmp_path / "secret.png")


def test_pil_images_raise_image_errors_too(tmp_path: Path) -> None:
    closed = Image.fromarray(RGB)
    closed.close()
    with pytest.raises(ImageError, match=r"unsupported kind \(Operation on closed image\)"):
        rgb_tensor(closed)
    with pytest.raises(ImageError, match="has no pixels"):
        rgb_tensor(Image.new("RGB", (0, 4)))
    (tmp_path / "cut.jpg").write_bytes(jpeg_bytes()[:1500])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match="cut short"):
        rgb_tensor(image)


# --- formats and depths ---


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.dib", "BMP"),
        ("b.dib", "DIB"),
        ("a.gif", "GIF"),
        ("a.tga", "TGA"),
        ("a.jp2", "JPEG2000"),
        ("a.ppm", "PPM"),
    ],
)
def test_less_common_formats(tmp_path: Path, name: str, kind: str) -> None:
    flat = np.full((24, 32, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / name, kind)
    assert_same(read_image(tmp_path / name), unit(flat), tolerance=0.02)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("ending", [b"", b"\xff\xd9", bytes(4000), bytes(4000) + b"\xff\xd9"])
def test_a_jpeg_that_ends_early_is_no_grey_area(tmp_path: Path, progressive: bool, keep: float, ending: bytes) -> None:
    Image.fromarray(np.random.default_rng(0).integers(90, 150, (96, 96, 3), dtype=np.uint8)).save(
        tmp_path / "whole.jpg", progressive=progressive
    )
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: int(keep * len(content))] + ending)
    with pytest.raises(ImageError, match="cut short or damaged"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_read_as_pillow_reads_them(tmp_path: Path, mode: str) -> None:
    Image.fromarray(np.tile(RGB, (9, 9, 1))).convert(mode).save(tmp_path / "a.jpg", exif=TURNED_RIGHT)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.rot90(np.asarray(image), -1)
    assert_same(read_image(tmp_path / "a.jpg"), unit(expected))
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[:-2] + b"\0\0" + content[-2:] + b"a note of the camera")
    assert_same(read_image(tmp_path / "b.jpg"), unit(expected))


def twelve_bit_tiff(path: Path, values: np.ndarray, photometric: int = 1) -> None:
    """Write an even width of 12-bit values, two in three bytes, as a camera does."""
    height, width = values.shape
    pairs = values.astype(np.uint32).reshape(height, width // 2, 2)
    high, low = pairs[..., 0], pairs[..., 1]
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], -1).astype(np.uint8).tobytes()
    tags = [
        *[(256, 4, width), (257, 4, height), (258, 3, 12), (259, 3, 1), (262, 3, photometric), (273, 4, 8)],
        *[(277, 3, 1), (278, 4, height), (279, 4, len(packed))],
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed
    path.write_bytes(header + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))


def test_packed_12_bit_values_are_scaled_by_their_own_white(tmp_path: Path) -> None:
    values = np.arange(0, 4096, 32).reshape(8, 16)
    twelve_bit_tiff(tmp_path / "a.tif", values)
    assert_same(read_image(tmp_path / "a.tif"), unit(values, top=4095))
    twelve_bit_tiff(tmp_path / "b.tif", values, photometric=0)
    with pytest.raises(ImageError, match="of an unsupported kind"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(("stated", "top"), [(None, 65535), (1023, 1023), (4095, 4095), (3000, 65535), (255, 65535)])
def test_16_bit_tiffs_are_scaled_by_the_white_they_state(
    tmp_path: Path, compression: str | None, photometric: str, stated: int | None, top: int
) -> None:
    values = (np.arange(35, dtype=np.uint16) * 29).reshape(5, 7)
    tags = [] if stated is None else [(281, 3, 1, stated, True)]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, compression=compression, photometric=photometric, extratags=tags)
    expected = values if photometric == "minisblack" else top - values
    assert_same(read_image(path), unit(expected, top=top))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_a_tiff_that_lacks_a_strip_is_no_black_area(tmp_path: Path, compression: str | None, tag: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(GREY, (8, 8)), rowsperstrip=8, compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as file:
        values = list(file.pages.first.tags[tag].value)
        file.pages.first.tags[tag].overwrite([*values[:2], 0, *values[3:]])
    with pytest.raises(ImageError, match="lacks some of its strips"):
        read_image(path)


@pytest.mark.parametrize("size", [(1, 1000), (2000, 10), (1, 5_000_000)])
def test_lines_are_no_photographs(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} pixels; one side is at most 100 times the other"):
        read_image(tmp_path / "a.png")


def test_an_uncompressed_tiff_smaller_than_its_pixels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bomb.tif", np.zeros((64, 64), np.float32))
    data = bytearray((tmp_path / "bomb.tif").read_bytes())
    for tag in (256, 257):  # width and length: 9000 instead of 64
        place = data.index(
            struct.pack("<HH", tag, 4) if struct.pack("<HH", tag, 4) in data else struct.pack("<HH", tag, 3)
        )
        data[place + 8 : place + 12] = struct.pack("<I", 9000)
    (tmp_path / "bomb.tif").write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"smaller than its pixels|lacks some of its strips"):
        read_image(tmp_path / "bomb.tif")


def test_a_png_that_ends_early_is_no_black_area(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    (tmp_path / "half.png").write_bytes(png(7, 5, data=zlib.compress(rows[: 3 * 22])))
    with pytest.raises(ImageError, match="its data ends before its last row"):
        read_image(tmp_path / "half.png")
    black = RGB.copy()
    black[-1] = 0
    Image.fromarray(black).save(tmp_path / "black.png")
    assert_same(read_image(tmp_path / "black.png"), unit(black))


@pytest.mark.parametrize("name", ["a.png", "a.tga"])
def test_an_alpha_that_is_0_everywhere_is_unset(tmp_path: Path, name: str) -> None:
    Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)])).save(tmp_path / name)
    assert_same(read_image(tmp_path / name), unit(RGB))


def test_a_packed_tiff_that_lists_too_few_strips(tmp_path: Path) -> None:
    twelve_bit_tiff(tmp_path / "a.tif", np.full((8, 16), 4000))
    content = (tmp_path / "a.tif").read_bytes()
    rows = struct.pack("<HHII", 278, 4, 1, 8)
    assert rows in content
    (tmp_path / "a.tif").write_bytes(content.replace(rows, struct.pack("<HHII", 278, 4, 1, 4)))
    with pytest.raises(ImageError, match="lacks some of its strips"):
        read_image(tmp_path / "a.tif")


def test_a_png_that_unfolds_to_more_than_its_pixels_is_not_unfolded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(7, 5, data=zlib.compress(bytes(300_000_000), 9)))
    tracemalloc.start()
    assert read_image(tmp_path / "bomb.png").sum() == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
