"""One file becomes pixels, whatever its kind, and is bounded before it is decoded.

The content of a file tells its format, not the suffix. What cannot be read whole is an `ImageError`, never a picture
that is grey or black where its data is missing.
"""

import logging
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TgaImagePlugin import TgaImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from softpatch.data.image_bounds import bounded
from softpatch.data.pixels import WHITE, ValueRange, upright_rgb
from softpatch.data.tiff import read_channels, read_plain_tiff, white_of
from softpatch.errors import ImageError

_UNFOLDED_AT_ONCE = 1_000_000  # bytes
_DEEP_COLOUR = (b"\x10\x02", b"\x10\x06")  # bits per sample and colour type of a PNG: 16, and RGB or RGBA
_SOME_EXTRA_BYTES = 64  # between a JPEG's data and its end: some cameras write a few

_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\x89PNG"), PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM.{12}[\x0c-\x7c]\0\0\0", re.DOTALL), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), Jpeg2KImageFile),
    (re.compile(rb"P[1-6]\s+[#0-9]"), PpmImageFile),
)
"""Which of Pillow's decoders reads a file, by its first bytes. `Image.open` would add formats that run other
programs, and a size limit of its own."""
_BY_SUFFIX: dict[str, type[ImageFile]] = {".tga": TgaImageFile, ".dib": DibImageFile}
"""Formats that no first bytes tell."""
FORMATS = "PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PGM or TGA"


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture of a format that is read does. False where it cannot be opened."""
    return _decoder(_beginning(path), "") is not None


def may_be_deep(path: Path) -> bool:
    """Whether an image file may hold more than 8 bits, by its first bytes. False where it cannot be opened."""
    start = _beginning(path)
    decoder = _decoder(start, "")
    if decoder is PngImageFile:
        return start[24:25] == b"\x10"
    return decoder in (TiffImageFile, Jpeg2KImageFile, PpmImageFile)


def _beginning(path: Path) -> bytes:
    """The first bytes of a file, which tell its format; none where it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError:
        return b""


def read_image(path: Path, value_range: ValueRange | None = None, channels: tuple[int, ...] | None = None) -> Tensor:
    """Read an image file as RGB, turned upright by its EXIF orientation: float32 (3, H, W) in [0, 1].

    Greys of 1 to 16 bits, RGB, palette, CMYK and float TIFF are converted, by the depth that the file states, or by
    the `value_range` of images of more than 8 bits where one is given; transparent pixels are laid over white; of
    several frames the first is read. `channels` say which one or three of those that a file has are looked at; a TIFF
    of several pages, or of more than three channels, needs them. Raises `ImageError` for a file that is empty, cut
    short, not an image, larger than `MAX_PIXELS`, more than `MAX_ASPECT` times longer than wide, or without one of the
    channels.
    """
    if channels is not None and _decoder(_beginning(path), path.suffix.lower()) is TiffImageFile:
        with _image_errors():
            chosen = read_channels(path, channels, value_range)
        if chosen is not None:
            return chosen
    with opened(path, value_range) as image:
        rgb = image if isinstance(image, Tensor) else _rgb(image, value_range)
    if channels is None:
        return rgb
    if max(channels) > 2:
        raise ImageError(f"the image has the channels 0 to 2, and none of number {max(channels)}")
    return rgb[list(channels)].expand(3, -1, -1)


def rgb_tensor(image: Image.Image, value_range: ValueRange | None = None) -> Tensor:
    """Convert a PIL image of any mode to RGB float32 (3, H, W) in [0, 1], upright by its EXIF orientation.

    Raises `ImageError` where Pillow cannot decode or convert it, or where deep values leave their range.
    """
    with _image_errors(), bounded(*image.size):
        return _rgb(image, value_range)


@contextmanager
def opened(path: Path, value_range: ValueRange | None = None) -> Iterator[Image.Image | Tensor]:
    """Give the image in a file: a PIL image, not decoded yet and bounded, or its tensor.

    The latter is given for plain TIFFs and PNGs of 16-bit colour. Whatever goes wrong in the block is an `ImageError`.
    """
    with _image_errors():
        if path.exists() and not path.is_file():
            raise ImageError("it is not an ordinary file")  # a pipe would be waited for
        with path.open("rb") as file:
            start = file.read(32)
        if not start:
            raise ImageError("the file is empty")
        decoder = _decoder(start, path.suffix.lower())
        if decoder is None:
            raise ImageError(f"the file is not a {FORMATS} image")
        if decoder is TiffImageFile and (pixels := read_plain_tiff(path, value_range)) is not None:
            yield pixels
            return
        if (
            decoder is PngImageFile
            and start[24:26] in _DEEP_COLOUR
            and (pixels := _deep_png(path, value_range)) is not None
        ):
            yield pixels
            return
        with decoder(path) as image, bounded(*image.size):
            if isinstance(image, PngImageFile):
                _refuse_early_end(image, path)
            yield _whole_jpeg(image, path) if isinstance(image, JpegImageFile) else image


def _decoder(start: bytes, suffix: str) -> type[ImageFile] | None:
    found = next((decoder for signature, decoder in _DECODERS if signature.match(start)), None)
    return found or _BY_SUFFIX.get(suffix)


def _whole_jpeg(image: JpegImageFile, path: Path) -> Image.Image:
    """Decode a JPEG, which must be whole: Pillow makes grey what is missing before an end marker.

    The pixels are those that Pillow would give; so is all else that it knows of the file.
    """
    colourspace = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}.get(image.mode)
    if colourspace is None:
        return image
    data = path.read_bytes()
    try:
        pixels = simplejpeg.decode_jpeg(data, colourspace)
    except ValueError as error:
        extra = re.search(r"(\d+) extraneous bytes", str(error))
        if extra is None or int(extra[1]) > _SOME_EXTRA_BYTES:
            raise ImageError(f"the file is cut short or damaged: {error}") from error
        pixels = simplejpeg.decode_jpeg(data, colourspace, strict=False)
    if image.mode == "CMYK":
        return image  # its inks may be inverted, which Pillow knows of
    whole = Image.fromarray(pixels.squeeze())
    whole.info = image.info  # its EXIF among it
    return whole


def _deep_png(path: Path, value_range: ValueRange | None) -> Tensor | None:
    """Read a PNG of 16-bit colour at its full depth; None leaves one with transparent pixels to Pillow.

    Pillow reads the upper byte of each sample, and the lower one when it is told that it comes first.
    """
    halves = []
    for order in "BL":
        with PngImageFile(path) as image, bounded(*image.size):
            if "transparency" in image.info:
                return None
            image.tile = [tile._replace(args=f"{image.mode};16{order}") for tile in image.tile]
            _refuse_early_end(image, path)
            orientation = _orientation(image)
            halves.append(np.asarray(image).astype(np.uint16))
    pixels = halves[0] * 256 + halves[1]
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3]
        if alpha.max() > 0 and alpha.min() < WHITE:  # where it is 0 everywhere it is unset
            return None
        pixels = pixels[..., :3]
    return upright_rgb(pixels, orientation, value_range=value_range)


def _refuse_early_end(image: PngImageFile, path: Path) -> None:
    """Refuse a PNG whose data ends before its rows do: Pillow leaves the rest black.

    Data is counted only where the last row is black.
    """
    width, height = image.size
    image.load()
    last_row = [image.getpixel((x, height - 1)) for x in range(0, width, max(1, width // 16))]
    if np.any(np.array(last_row)):
        return
    content, place = path.read_bytes(), 8
    bits, colour, interlaced = content[24], content[25], content[28]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    missing = 0 if interlaced else height * (1 + (width * channels * bits + 7) // 8)  # bytes of all rows
    stream = zlib.decompressobj()
    while missing > 0 and place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        packed = content[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        while packed and missing > 0:  # a little at a time: what a few bytes unfold to is not bounded
            missing -= len(stream.decompress(packed, _UNFOLDED_AT_ONCE))
            packed = stream.unconsumed_tail
        place += 12 + length
    if missing > 0:
        raise ImageError("the file is cut short or damaged: its data ends before its last row")


def _rgb(image: Image.Image, value_range: ValueRange | None) -> Tensor:
    image.load()
    orientation = _orientation(image)
    top = _stated_top(image)
    inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
    if not image.mode.startswith(("I", "F")):
        layer = image.convert("RGBA") if image.has_transparency_data else None
        if layer and layer.getchannel("A").getextrema() != (0, 0):  # an alpha that is 0 everywhere is unset
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return upright_rgb(np.asarray(image.convert("RGB")), orientation)
    pixels = np.asarray(image)
    if inverted and image.mode.startswith("I"):  # Pillow does so for 1 and 8 bits
        pixels = top - pixels
    return upright_rgb(pixels, orientation, top, value_range)


def _stated_top(image: Image.Image) -> int:
    """The value of white in an image of deep integers: what its TIFF says, or that of 16 bits."""
    if not isinstance(image, TiffImageFile):
        return WHITE
    bits, stated = max(image.tag_v2.get(258) or (16,)), image.tag_v2.get(281)
    return white_of(bits, stated)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF says nothing, and the pixels are whole
        return None


@contextmanager
def _image_errors() -> Iterator[None]:
    """Silence the decoders' remarks, and turn whatever a broken file makes them raise into `ImageError`."""
    _silence_decoders()
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("the image does not fit into memory") from error
    except OSError as error:
        problem = "cannot be opened" if error.errno else "is cut short or damaged"
        raise ImageError(f"the file {problem}: {error.strerror or error}") from error
    except Exception as error:
        raise ImageError(f"the image is damaged or of an unsupported kind ({error})") from error


def _silence_decoders() -> None:
    # a lasting filter, since warnings.catch_warnings mixes up the filters when threads leave it in any order
    with _silence_lock:
        if not warnings.filters or warnings.filters[0] != _PILLOW_REMARKS:
            warnings.filterwarnings("ignore", module=r"PIL\.")
        logging.getLogger("tifffile").addHandler(_NOWHERE)  # else what no handler takes goes to stderr


_silence_lock = threading.Lock()
_PILLOW_REMARKS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_NOWHERE = logging.NullHandler()
