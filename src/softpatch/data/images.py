"""Read images of every common kind as RGB tensors, and hand them out in batches, in order.

Whatever a user gives (a folder, paths, PIL images, arrays, tensors) becomes a list of `ImageRef`: a name and
a way to read the image later. Nothing is decoded before it is needed, so a long list costs nothing.
"""

import logging
import os
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import tifffile
import torch
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from softpatch.errors import ImageError, InputError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_OTHER_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".pgm", ".ppm")
"""Images of kinds that are not read: listed in a folder too, so that they are reported rather than overlooked."""
PREDICTIONS = "predictions.jsonl"
"""The table that `predict` leaves in a folder, beside its `maps` and `overlays`."""
MAX_PIXELS = 200_000_000
"""An image of more pixels (about 14,000 x 14,000) is refused: decoding it could exhaust the memory."""

_DECODERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"II": TiffImageFile,
    b"MM": TiffImageFile,
    b"RIFF": WebPImageFile,
}
"""Which of Pillow's decoders reads a file, by its first bytes. `Image.open` would add formats that run other
programs, and a size limit of its own."""


@dataclass(frozen=True)
class ImageRef:
    """An image that has not been read yet: the name it is reported under, how to read it, and its file if it has one.

    `read` returns an RGB float32 tensor (3, H, W) in [0, 1] and raises `ImageError` where it cannot.
    """

    name: str
    read: Callable[[], Tensor]
    path: Path | None = None


@dataclass(frozen=True)
class SkippedImage:
    """An image that was left out, and the reason in one sentence."""

    name: str
    reason: str


Images = str | Path | Image.Image | np.ndarray | Tensor | Sequence[str | Path | Image.Image | np.ndarray | ImageRef]
"""What `fit` and `predict` take: a folder, a file, a list of paths, PIL images, an (N, H, W, 3) uint8 array
or an (N, 3, H, W) float tensor in [0, 1]."""


def image_refs(images: Images) -> list[ImageRef]:
    """Name every image in `images`, folders walked recursively in sorted order, without decoding any.

    Raises `InputError` for a path that does not exist, a folder without images, or an array or tensor of
    another shape, dtype or range than `Images` says.
    """
    if isinstance(images, Tensor):
        return _refs_of_tensor(images)
    if isinstance(images, np.ndarray):
        return _refs_of_array(images)
    if isinstance(images, (str, Path, Image.Image, ImageRef)):
        images = [images]
    if not isinstance(images, Iterable):
        raise InputError(f"images are a folder, paths, PIL images, an array or a tensor, not {images!r}")
    refs: list[ImageRef] = []
    for item in images:
        if isinstance(item, ImageRef):
            refs.append(item)
        elif isinstance(item, (str, Path)):
            refs += [file_ref(path) for path in image_files(Path(item))]
        elif isinstance(item, Image.Image):
            refs.append(ImageRef(f"image {len(refs)}", partial(rgb_tensor, item)))
        elif isinstance(item, np.ndarray):
            refs += _refs_of_array(item[None], start=len(refs))
        else:
            raise InputError(f"an image is a path, a PIL image or an (H, W, 3) uint8 array, not {type(item).__name__}")
    return refs


def file_ref(path: Path) -> ImageRef:
    """The image in a file, under its path as name."""
    return ImageRef(str(path), partial(read_image, path), path)


def without_repeats(refs: Sequence[ImageRef]) -> tuple[list[ImageRef], list[SkippedImage]]:
    """Leave out each file that came before, under whatever path: the refs kept, in order, and what was left out."""
    kept: list[ImageRef] = []
    repeats: list[SkippedImage] = []
    names: dict[str, str] = {}
    for ref in refs:
        real = os.path.realpath(ref.path) if ref.path else None  # as path.resolve(), but at peace with loops
        if real in names:
            repeats.append(SkippedImage(ref.name, f"the same file as {names[real]}"))
            continue
        if real:
            names[real] = ref.name
        kept.append(ref)
    return kept, repeats


def image_files(path: Path) -> list[Path]:
    """List the image files at `path`: the file itself, or every image below a folder, sorted by path.

    Files are told by their suffix, in any case, those of kinds that cannot be read among them. Passed over are names
    that begin with a dot, links to folders, and the maps and overlays of an earlier prediction. Raises
    `InputError` where there is nothing to read.
    """
    try:
        if path.is_file():
            return [path]
        is_folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give an image file or a folder") from error
    if not is_folder:
        raise InputError(f"{path} does not exist; give an image file or a folder of images")
    found: list[Path] = []
    for name, folders, files in os.walk(path, onerror=_refuse_folder):
        made = ("maps", "overlays") if PREDICTIONS in files else ()
        folders[:] = [folder for folder in folders if not folder.startswith(".") and folder not in made]
        suffixes = (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES)
        paths = [Path(name, file) for file in files if not file.startswith(".")]
        found += [file for file in paths if file.suffix.lower() in suffixes]
    if not found:
        raise InputError(f"{path} holds no images; softpatch reads {', '.join(IMAGE_SUFFIXES)}")
    return sorted(found)


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}; make it readable or leave it out") from error


def read_image(path: Path) -> Tensor:
    """Read an image file as RGB, turned upright by its EXIF orientation: float32 (3, H, W) in [0, 1].

    1-, 8- and 16-bit grey, RGB, palette, CMYK and float TIFF are converted; transparent pixels are laid over
    white; of several pages or frames the first is read. The content tells the format, not the suffix. Raises
    `ImageError` for a file that is empty, truncated, not an image, or larger than `MAX_PIXELS`.
    """
    with _image_errors():
        if path.exists() and not path.is_file():
            raise ImageError("it is not an ordinary file")  # a pipe would be waited for
        with path.open("rb") as file:
            start = file.read(4)
        if not start:
            raise ImageError("the file is empty")
        decoder = next((d for signature, d in _DECODERS.items() if start.startswith(signature)), None)
        if decoder is None:
            raise ImageError("the file is not a PNG, JPEG, BMP, TIFF or WebP image")
        if decoder is TiffImageFile and (pixels := _read_uncompressed_tiff(path)) is not None:
            return pixels
        with decoder(path) as image:
            _refuse_absurd_size(*image.size)
            return rgb_tensor(image)


def rgb_tensor(image: Image.Image) -> Tensor:
    """Convert a PIL image of any mode to RGB float32 (3, H, W) in [0, 1], upright by its EXIF orientation.

    Raises `ImageError` where Pillow cannot decode or convert it, or where deep values leave their range.
    """
    with _image_errors():
        image.load()
        orientation = _orientation(image)
        if not image.mode.startswith(("I", "F")):
            if image.has_transparency_data:
                layer = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            image = image.convert("RGB")
        return _upright_rgb(np.asarray(image), orientation)


def read_in_batches(
    refs: Sequence[ImageRef],
    prepare: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int,
    on_skip: Callable[[SkippedImage], None] | None = None,
) -> Iterator[tuple[list[ImageRef], list[tuple[int, int]], Tensor]]:
    """Read and prepare images in `workers` threads and yield them in order, a batch at a time.

    Yields the refs, their original (width, height) and the prepared images (B, 3, h, w), which lie in memory as files
    have them and networks want them, channels last. An image that cannot be read goes to `on_skip`; without it,
    `ImageError` with the image's name is raised.
    """

    def read(ref: ImageRef) -> tuple[tuple[int, int], Tensor]:
        image = ref.read()
        return (image.shape[2], image.shape[1]), prepare(image)

    names: list[ImageRef] = []
    sizes: list[tuple[int, int]] = []
    prepared: list[Tensor] = []
    for ref, future in _ahead(read, refs, workers=workers, depth=2 * batch_size):
        try:
            size, image = future.result()
        except ImageError as error:
            if on_skip is None:
                raise ImageError(f"{ref.name}: {error}") from error
            on_skip(SkippedImage(ref.name, str(error)))
            continue
        names.append(ref)
        sizes.append(size)
        prepared.append(image)
        if len(names) == batch_size:
            yield names, sizes, _stacked(prepared)
            names, sizes, prepared = [], [], []
    if names:
        yield names, sizes, _stacked(prepared)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _ahead(
    work: Callable[[_Item], _Result], items: Sequence[_Item], *, workers: int, depth: int
) -> Iterator[tuple[_Item, Future[_Result]]]:
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="softpatch-read")
    try:
        waiting: deque[tuple[_Item, Future[_Result]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _refuse_absurd_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"the image has {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")


def _read_uncompressed_tiff(path: Path) -> Tensor | None:
    """Read the first page of a plain grey or RGB TIFF at its full depth; None leaves the file to Pillow.

    Pillow scrambles 16-bit colour kept in separate planes and has no mode for float or 32-bit colour. What
    compressed data unfolds to is not bounded by tifffile, so that stays with Pillow.
    """
    try:
        file = tifffile.TiffFile(path)
    except Exception:  # a broken header; Pillow may make sense of it, or says what is wrong
        return None
    with file:
        page = file.pages.first
        if page.compression != 1 or page.photometric not in (0, 1, 2) or page.bitspersample % 8:
            return None
        if page.axes == "SYX" and page.samplesperpixel == 4:
            raise ImageError("the TIFF keeps four samples in separate planes; save it as plain RGB")
        if page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel not in (1, 3):
            return None
        _refuse_absurd_size(page.imagewidth, page.imagelength)
        if page.nbytes > path.stat().st_size:  # uncompressed, so the file holds every byte
            raise ImageError("the file is cut short or damaged: it is smaller than its pixels")
        pixels = page.asarray()
        orientation = page.tags.valueof("Orientation", 1)
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, 2)  # (3, H, W) -> (H, W, 3)
    if page.photometric == 0 and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    return _upright_rgb(pixels, orientation)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF says nothing, and the pixels are whole
        return None


def _upright_rgb(pixels: np.ndarray, orientation: object) -> Tensor:
    """Turn pixels (H, W) or (H, W, 3) upright and scale them to float32 (3, H, W) in [0, 1]."""
    if pixels.size == 0:
        raise ImageError("the image has no pixels")
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    channels = _unit_range(np.atleast_3d(pixels)).permute(2, 0, 1)  # (1 or 3, H, W)
    return channels if len(channels) == 3 else channels.repeat(3, 1, 1)


def _unit_range(pixels: np.ndarray) -> Tensor:
    """8-, 16- and 32-bit or float pixels to float32 in [0, 1], of the same shape."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        values = torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))
    if pixels.dtype == np.uint8:
        return values.div_(255)
    if pixels.dtype == np.int8 or pixels.dtype.kind == "c":
        raise ImageError(f"the image holds {pixels.dtype} values; save it with unsigned integers or floats")
    if not torch.isfinite(values).all():
        raise ImageError("the image holds values that are not finite numbers")
    if pixels.dtype.kind in "iu":
        values /= 65535
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            f"pixel values run from {pixels.min()} to {pixels.max()}; "
            "16-bit images hold 0 to 65535, float images 0 to 1"
        )
    return values


def _refs_of_array(array: np.ndarray, start: int = 0) -> list[ImageRef]:
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise InputError(
            f"an image array is (N, H, W, 3) uint8, not {array.shape} {array.dtype}; for floats give a tensor"
        )

    def read(image: np.ndarray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div_(255)

    return [ImageRef(f"image {start + i}", partial(read, image)) for i, image in enumerate(array)]


def _refs_of_tensor(images: Tensor) -> list[ImageRef]:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(f"an image tensor is (N, 3, H, W) float, not {tuple(images.shape)} {images.dtype}")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"an image tensor holds values in [0, 1], not {images.min():g} to {images.max():g}; "
            "divide 8-bit values by 255"
        )
    return [ImageRef(f"image {i}", image.detach().float().cpu().clone) for i, image in enumerate(images)]
