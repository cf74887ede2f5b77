"""Images of several pages or more than three channels: which of them are looked at.

Pages and channels are counted through, from 0: of an RGB page and a page of near infrared they are 0 to 3. Only TIFFs
hold more than an RGB image.
"""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from torch import Tensor

from softpatch.data.pixels import ValueRange, upright_rgb
from softpatch.errors import ImageError

_REDUCED = 1  # a bit of NewSubfileType: the page is a smaller copy of another
_ALPHA = (1, 2)  # of ExtraSamples
_MOST = 64


def refuse_several(file: tifffile.TiffFile) -> None:
    """Raise `ImageError` for a TIFF of several pages of one size, or of other channels than grey, RGB and alpha."""
    first = file.pages.first
    pages = _pages(file)
    extra = first.extrasamples or ()
    plain = first.samplesperpixel - sum(kind in _ALPHA for kind in extra)
    if len(pages) > 1 or (first.photometric in (0, 1, 2) and plain not in (1, 3)):
        held = f"{len(pages)} pages" if len(pages) > 1 else f"{first.samplesperpixel} channels"
        count = sum(page.samplesperpixel for page in pages)
        raise ImageError(
            f"the TIFF holds {held}; name those to look at by `channels`, one or three of 0 to {count - 1}"
        )


def read_channels(path: Path, channels: tuple[int, ...], value_range: ValueRange | None) -> Tensor:
    """Read one or three channels of a TIFF as RGB: float32 (3, H, W) in [0, 1], values as in `read_image`.

    Raises `ImageError` for one that is compressed, or has fewer channels or pages of different sizes.
    """
    with tifffile.TiffFile(path) as file:
        first, found = file.pages.first, list[NDArray[np.generic]]()
        for page in _pages(file):
            if page.compression != 1:
                raise ImageError("the TIFF is compressed, and channels are read of others alone; save it uncompressed")
            if page.nbytes > path.stat().st_size:
                raise ImageError("the file is cut short or damaged: it is smaller than its pixels")
            pixels = page.asarray()
            if page.axes not in ("YX", "YXS", "SYX"):
                raise ImageError(f"the TIFF has a page with the axes {page.axes}; save it as plain grey or RGB")
            planes = np.moveaxis(np.atleast_3d(pixels), 0 if page.axes == "SYX" else 2, 0)
            found += list(planes)
        missing = [number for number in channels if number >= len(found)]
        if missing:
            raise ImageError(f"the TIFF has the channels 0 to {len(found) - 1}, and none of number {missing[0]}")
        chosen = np.stack([found[number] for number in channels], axis=2)
        return upright_rgb(chosen, first.tags.valueof("Orientation", 1), value_range=value_range)


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages that have the size of the first, smaller copies left out."""
    first = file.pages.first
    pages = [page for page, _ in zip(file.pages, range(_MOST), strict=False) if isinstance(page, tifffile.TiffPage)]
    same = [page for page in pages if page.shape[:2] == first.shape[:2] and not int(page.subfiletype) & _REDUCED]
    return same or [first]
