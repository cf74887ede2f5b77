"""TIFFs that are read at their full depth, and those that hold more than one grey or RGB image.

Pages and channels are counted through, from 0: of an RGB page and a page of near infrared they are 0 to 3. What
compressed data unfolds to is not bounded by tifffile, so that only plain files are read here.
"""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from torch import Tensor

from softpatch.data.image_bounds import bounded
from softpatch.data.pixels import ValueRange, upright_rgb
from softpatch.errors import ImageError

_REDUCED = 1  # a bit of NewSubfileType: the page is a smaller copy of another
_ALPHA = (1, 2)  # of ExtraSamples
_MOST_PAGES = 64


def read_plain_tiff(path: Path, value_range: ValueRange | None) -> Tensor | None:
    """Read a plain grey or RGB TIFF at its full depth, (3, H, W) in [0, 1]; None leaves the file to Pillow.

    Pillow scrambles 16-bit colour kept in separate planes and has no mode for float or 32-bit colour. Raises
    `ImageError` for a file that is cut short, and for one of several pages of one size, or of other channels than grey,
    RGB and alpha.
    """
    file = _opened(path)
    if file is None:
        return None
    with file:
        first, pages = file.pages.first, _pages(file)
        if _holds_several(first, pages):
            held = f"{len(pages)} pages" if len(pages) > 1 else f"{first.samplesperpixel} channels"
            last = sum(page.samplesperpixel for page in pages) - 1
            raise ImageError(f"the TIFF holds {held}; name those to look at by `channels`, one or three of 0 to {last}")
        if first.axes == "SYX" and first.samplesperpixel == 4 and first.compression == 1:
            raise ImageError("the TIFF keeps four samples in separate planes; save it as plain RGB")
        if first.samplesperpixel not in (1, 3):
            _check_strips(first)
            return None
        with bounded(first.imagewidth, first.imagelength):
            pixels = _pixels(first, path)
            return None if pixels is None else _rgb(pixels, first, value_range)


def read_channels(path: Path, channels: tuple[int, ...], value_range: ValueRange | None) -> Tensor | None:
    """Read one or three channels of a TIFF that has several pages, or more than three, as RGB: (3, H, W) in [0, 1].

    None leaves the file to who reads other images. Raises `ImageError` for one that is cut short or compressed, or has
    fewer channels.
    """
    file = _opened(path)
    if file is None:
        return None
    with file:
        first, pages = file.pages.first, _pages(file)
        if not _holds_several(first, pages):
            return None
        places = [(page, sample) for page in pages for sample in range(page.samplesperpixel)]
        if max(channels) >= len(places):
            raise ImageError(f"the TIFF has the channels 0 to {len(places) - 1}, and none of number {max(channels)}")
        with bounded(first.imagewidth, first.imagelength):
            chosen = []
            for page, sample in (places[number] for number in channels):
                pixels = _pixels(page, path)
                if pixels is None:
                    raise ImageError("the channels of a compressed or unusual TIFF are not read; save it uncompressed")
                chosen.append(pixels[..., sample])
            return _rgb(np.stack(chosen, axis=2), first, value_range)


def white_of(bits: int, stated: object) -> int:
    """White of `bits` per sample, or the file's MaxSampleValue where that is white of 9 or more bits.

    Any other is of the one image only, and images would not be scaled alike.
    """
    depths = [2**depth - 1 for depth in range(9, min(bits, 16) + 1)]
    highest = max(stated) if isinstance(stated, tuple) else stated
    return highest if isinstance(highest, int) and highest in depths else 2 ** min(bits, 16) - 1


def _opened(path: Path) -> tifffile.TiffFile | None:
    try:
        return tifffile.TiffFile(path)
    except Exception:  # a broken header; Pillow may make sense of it, or says what is wrong
        return None


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages that have the size of the first, smaller copies left out."""
    first = file.pages.first
    pages = [page for page, _ in zip(file.pages, range(_MOST_PAGES), strict=False)]
    plain = [page for page in pages if isinstance(page, tifffile.TiffPage)]
    size = (first.imagewidth, first.imagelength)
    return [
        page for page in plain if (page.imagewidth, page.imagelength) == size and not int(page.subfiletype) & _REDUCED
    ]


def _holds_several(first: tifffile.TiffPage, pages: list[tifffile.TiffPage]) -> bool:
    alphas = sum(kind in _ALPHA for kind in first.extrasamples or ())
    return len(pages) > 1 or (first.photometric in (0, 1, 2) and first.samplesperpixel - alphas not in (1, 3))


def _check_strips(page: tifffile.TiffPage) -> None:
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    strips = 1 if page.is_tiled else planes * -(-page.imagelength // max(1, page.rowsperstrip))
    if len(page.dataoffsets) < strips or not all(page.dataoffsets) or not all(page.databytecounts):
        raise ImageError("the file is cut short or damaged: it lacks some of its strips")


def _pixels(page: tifffile.TiffPage, path: Path) -> NDArray[np.generic] | None:
    """The pixels of a page, (H, W, C), more where there is more light; None for a compressed or unusual one."""
    _check_strips(page)
    if page.compression != 1 or page.photometric not in (0, 1, 2) or page.bitspersample % 8:
        return None
    if page.axes not in ("YX", "YXS", "SYX"):
        return None
    if page.nbytes > path.stat().st_size or page.nbytes > sum(page.databytecounts):
        # uncompressed, so the file holds every byte
        raise ImageError("the file is cut short or damaged: it is smaller than its pixels")
    pixels: NDArray[np.generic] = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, 2)
    if page.photometric == 0 and pixels.dtype.kind == "u":
        pixels = (_white(page) if pixels.dtype.itemsize < 4 else np.iinfo(pixels.dtype.name).max) - pixels
    return np.atleast_3d(pixels)


def _rgb(pixels: NDArray[np.generic], page: tifffile.TiffPage, value_range: ValueRange | None) -> Tensor:
    return upright_rgb(pixels, page.tags.valueof("Orientation", 1), _white(page), value_range)


def _white(page: tifffile.TiffPage) -> int:
    return white_of(page.bitspersample, page.tags.valueof("MaxSampleValue"))
